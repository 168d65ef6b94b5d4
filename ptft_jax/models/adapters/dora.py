"""DoRA: LoRA's change turns each output's weights, their length is learned apart (Liu et al. 2024).

y = m / ‖W + scale A B‖ · (x W + scale (x A) B), where the norm is that of each output's weights and
no gradient goes through it (section 4.3), as in PEFT. m begins at ‖W‖.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ptft_jax.models import partition
from ptft_jax.models.adapters.lora import LowRank
from ptft_jax.models.config import AdapterConfig
from ptft_jax.models.layers import Linear, declare, scale_by_parameter


class Directed(LowRank):
    """LoRA's matrices, and `magnitude` [*outputs]."""

    def __init__(
        self, config: Any, target: str, equation: str, inputs: Any, outputs: Any, **more: Any
    ):
        super().__init__(config, target, equation, inputs, outputs, **more)
        self.outputs, ones = tuple(outputs), jax.nn.initializers.ones
        shape = tuple(outputs.values())
        self.magnitude = declare(more["rngs"], shape, self.outputs, ones, more["stack"])

    def after(self, rows: jax.Array, y: jax.Array, linear: Linear) -> jax.Array:
        y = super().after(rows, y, linear)
        kernel, a, b = (
            partition.whole(jax.lax.stop_gradient(parameter[...]), axes)
            for parameter, axes in zip(
                (linear.kernel, self.a, self.b), (linear.kernel_axes, *self.axes), strict=True
            )
        )
        directed = kernel + self.scale * jnp.tensordot(a, b, 1)
        summed = tuple(range(kernel.ndim - len(self.outputs)))
        unit = y.astype(jnp.float32) / jnp.sqrt(jnp.sum(jnp.square(directed), axis=summed))
        return scale_by_parameter(unit, self.magnitude[...], self.outputs).astype(y.dtype)

    @staticmethod
    def folded(
        own: dict[str, np.ndarray],
        kernel: np.ndarray,
        bias: np.ndarray,
        config: AdapterConfig,
        target: str,
    ) -> tuple[np.ndarray, np.ndarray]:
        directed, _ = LowRank.folded(own, kernel, bias, config, target)
        scale = np.asarray(own["magnitude"]) / _lengths(directed, target)
        inputs = directed.ndim - scale.ndim
        return directed * scale.reshape(len(scale), *[1] * inputs, *scale.shape[1:]), bias

    @staticmethod
    def initial(kernel: np.ndarray, target: str) -> dict[str, np.ndarray]:
        return {"magnitude": _lengths(kernel, target)}


def _lengths(kernel: np.ndarray, target: str) -> np.ndarray:
    """Returns the norm of each output's weights, [L, *outputs]."""
    inputs = 2 if target == "attention/output" else 1  # heads and their features
    return np.sqrt(np.sum(np.square(kernel), axis=tuple(range(1, 1 + inputs)), dtype=np.float32))
