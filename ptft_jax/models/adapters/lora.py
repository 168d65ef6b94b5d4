"""LoRA: what a linear map is changed by is a product of two thin matrices (Hu et al. 2022).

y = x W + scale (x A) B, with W frozen, A of `rank` columns and B of `rank` rows. B begins at zero,
so that nothing is changed at first. Initial values and scale are those of PEFT.

Shape suffixes: R rows, K rank.
"""

import math
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.nn.initializers import Initializer

from ptft_jax.models.adapters.linear import LinearAdapter
from ptft_jax.models.config import AdapterConfig, EncoderConfig
from ptft_jax.models.layers import Linear, declare, product


class LowRank(LinearAdapter):
    """The thin matrices `a` [*inputs, K] and `b` [K, *outputs]."""

    def __init__(
        self,
        config: EncoderConfig,
        target: str,
        equation: str,
        inputs: dict[str, int],
        outputs: dict[str, int],
        *,
        rngs: nnx.Rngs,
        stack: int | None,
        init_a: Initializer | None = None,
        init_b: Initializer | None = None,
    ):
        assert config.adapter is not None
        rows, kernel, produced = equation.replace("->", ",").split(",")
        summed = kernel[: len(inputs)]
        self.equations = f"{rows},{summed}k->rk", f"rk,k{produced[1:]}->{produced}"
        self.axes = (*inputs, "rank"), ("rank", *outputs)
        self.scale, self.dtype = config.adapter.scale, jnp.dtype(config.dtype)
        rank = config.adapter.columns
        init_a = init_a or kaiming(math.prod(inputs.values()))
        init_b = init_b or jax.nn.initializers.zeros
        self.a = declare(rngs, (*inputs.values(), rank), self.axes[0], init_a, stack)
        self.b = declare(rngs, (rank, *outputs.values()), self.axes[1], init_b, stack)

    def after(self, rows: jax.Array, y: jax.Array, linear: Linear) -> jax.Array:
        (down, up), (first, second) = self.equations, self.axes
        low_RK = product(down, rows, self.a[...], first, self.dtype, reduces_tensor=True)
        change = product(up, self.between(low_RK), self.b[...], second, self.dtype)
        return y + jnp.asarray(self.scale, self.dtype) * change

    def between(self, low_RK: jax.Array) -> jax.Array:
        """Returns what comes out of the first matrix as it goes into the second, [R, K]."""
        return low_RK

    @staticmethod
    def folded(
        own: dict[str, np.ndarray],
        kernel: np.ndarray,
        bias: np.ndarray,
        config: AdapterConfig,
        target: str,
    ) -> tuple[np.ndarray, np.ndarray]:
        a, b = (np.asarray(own[name], np.float64) for name in ("a", "b"))
        layers, rank = len(a), a.shape[-1]
        change = config.scale * (a.reshape(layers, -1, rank) @ b.reshape(layers, rank, -1))
        return (kernel + change.reshape(kernel.shape)).astype(np.float32), bias


def kaiming(inputs: int) -> Initializer:
    """Returns PyTorch's `kaiming_uniform_(a=√5)` of a map from so many features, as PEFT has it."""
    bound = 1 / math.sqrt(inputs)

    def uniform(key: Any, shape: Any, dtype: Any = jnp.float32, **_: Any) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return cast(Initializer, uniform)
