"""AdaLoRA: LoRA's change as P Λ Q, of which the rank budget leaves some (Zhang et al. 2023).

y = x W + alpha / initial_rank · ((x A) ⊙ e) B. Which entries of `e` are kept at zero is decided in
training (`ptft_jax.training.rank_budget`). Initial values and scale are those of PEFT.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ptft_jax.models.adapters.linear import LinearAdapter
from ptft_jax.models.config import AdapterConfig
from ptft_jax.models.layers import Linear, declare, product, scale_by_parameter


class Triplets(LinearAdapter):
    """The matrices `a` [*inputs, K] and `b` [K, *outputs], and the values `e` [K] between them."""

    def __init__(
        self, config: Any, target: str, equation: str, inputs: Any, outputs: Any, **more: Any
    ):
        rows, kernel, produced = equation.replace("->", ",").split(",")
        summed, rank = kernel[: len(inputs)], config.adapter.initial_rank
        self.equations = f"{rows},{summed}k->rk", f"rk,k{produced[1:]}->{produced}"
        self.axes = (*inputs, "rank"), ("rank", *outputs)
        self.scale, self.dtype = config.adapter.scale, jnp.dtype(config.dtype)
        normal, zeros = jax.nn.initializers.normal(0.02), jax.nn.initializers.zeros
        rngs, stack = more["rngs"], more["stack"]
        self.a = declare(rngs, (*inputs.values(), rank), self.axes[0], normal, stack)
        self.e = declare(rngs, (rank,), ("rank",), zeros, stack)
        self.b = declare(rngs, (rank, *outputs.values()), self.axes[1], normal, stack)

    def after(self, rows: jax.Array, y: jax.Array, linear: Linear) -> jax.Array:
        (down, up), (first, second) = self.equations, self.axes
        low_RK = product(down, rows, self.a[...], first, self.dtype, reduces_tensor=True)
        low_RK = scale_by_parameter(low_RK.astype(jnp.float32), self.e[...], ("rank",))
        change = product(up, low_RK.astype(self.dtype), self.b[...], second, self.dtype)
        return y + jnp.asarray(self.scale, self.dtype) * change

    @staticmethod
    def folded(
        own: dict[str, np.ndarray],
        kernel: np.ndarray,
        bias: np.ndarray,
        config: AdapterConfig,
        target: str,
    ) -> tuple[np.ndarray, np.ndarray]:
        a, e, b = (np.asarray(own[name], np.float64) for name in ("a", "e", "b"))
        layers, rank = len(a), a.shape[-1]
        change = (a.reshape(layers, -1, rank) * e[:, None]) @ b.reshape(layers, rank, -1)
        return (kernel + config.scale * change.reshape(kernel.shape)).astype(np.float32), bias
