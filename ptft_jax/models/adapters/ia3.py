"""(IA)³: features are multiplied with learned factors (Liu et al. 2022, section 3.3).

Keys, values and queries are scaled as they come out of their maps, biases included; of maps back to
the hidden state (`…/output`) what goes in, which for the feed-forward part is the activation.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ptft_jax.models.adapters.linear import LinearAdapter
from ptft_jax.models.config import AdapterConfig
from ptft_jax.models.layers import Linear, add_parameter, declare, scale_by_parameter


class Scaled(LinearAdapter):
    """One factor for each input or output of a map, `scale`, which begins at one."""

    def __init__(
        self, config: Any, target: str, equation: str, inputs: Any, outputs: Any, **more: Any
    ):
        self.scales_inputs = _scales_inputs(target)
        scaled = inputs if self.scales_inputs else outputs
        self.axes, ones = tuple(scaled), jax.nn.initializers.ones
        self.scale = declare(more["rngs"], tuple(scaled.values()), self.axes, ones, more["stack"])

    def before(self, rows: jax.Array) -> jax.Array:
        return self._scaled(rows) if self.scales_inputs else rows

    def after(self, rows: jax.Array, y: jax.Array, linear: Linear) -> jax.Array:
        if self.scales_inputs:
            return y
        # Who called adds the bias afterwards.
        bias, axes = linear.bias[...], linear.bias_axes
        return add_parameter(self._scaled(add_parameter(y, bias, axes)), -bias, axes)

    def _scaled(self, x: jax.Array) -> jax.Array:
        scaled = scale_by_parameter(x.astype(jnp.float32), self.scale[...], self.axes)
        return scaled.astype(x.dtype)

    @staticmethod
    def folded(
        own: dict[str, np.ndarray],
        kernel: np.ndarray,
        bias: np.ndarray,
        config: AdapterConfig,
        target: str,
    ) -> tuple[np.ndarray, np.ndarray]:
        scale = np.asarray(own["scale"])
        others = [1] * (kernel.ndim - scale.ndim)
        if _scales_inputs(target):
            return kernel * scale.reshape(*scale.shape, *others), bias
        return kernel * scale.reshape(len(scale), *others, *scale.shape[1:]), bias * scale


def _scales_inputs(target: str) -> bool:
    return target.endswith("/output")
