"""AdaLoRA: LoRA's change as P Λ Q, of which the rank budget leaves some (Zhang et al. 2023).

y = x W + alpha / initial_rank · ((x A) ⊙ e) B. Which entries of `e` are kept at zero is decided in
training (`ptft_jax.training.updates.rank_budget`). Initial values and scale are those of PEFT.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ptft_jax.models.adapters.lora import LowRank
from ptft_jax.models.config import AdapterConfig
from ptft_jax.models.layers import declare, scale_by_parameter


class Triplets(LowRank):
    """LoRA's matrices, both drawn, and the values `e` [K] between them, which begin at zero."""

    def __init__(self, config: Any, target: str, *map_: Any, **more: Any):
        normal, zeros = jax.nn.initializers.normal(0.02), jax.nn.initializers.zeros
        super().__init__(config, target, *map_, **more, init_a=normal, init_b=normal)
        shape = (config.adapter.columns,)
        self.e = declare(more["rngs"], shape, ("rank",), zeros, more["stack"])

    def between(self, low_RK: jax.Array) -> jax.Array:
        scaled = scale_by_parameter(low_RK.astype(jnp.float32), self.e[...], ("rank",))
        return scaled.astype(self.dtype)

    @staticmethod
    def folded(
        own: dict[str, np.ndarray],
        kernel: np.ndarray,
        bias: np.ndarray,
        config: AdapterConfig,
        target: str,
    ) -> tuple[np.ndarray, np.ndarray]:
        a, e = (np.asarray(own[name], np.float64) for name in ("a", "e"))
        a = a * e.reshape(len(e), *[1] * (a.ndim - 2), -1)
        return LowRank.folded({"a": a, "b": own["b"]}, kernel, bias, config, target)
