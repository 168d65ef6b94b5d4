"""activation(x + bias) with nothing kept but x, and its gradient with the bias's sums.

XLA writes the biased array beside its activation, and sums the bias's gradient in a pass of its
own.

Shape suffixes: R rows (B x T), F feed-forward, G blocks of rows.
"""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from ptft_jax.models.kernels.launch import launch, power_of_two, rows_per_block
from ptft_jax.models.layers import activation

# Of a block, and the blocks that a program of the backward pass goes through. Others took up to
# 1.3 times as long on an H200.
_COLUMNS, _ROWS, _BLOCKS = 1024, 4, 16
_WARPS = 4

Activation = Callable[[jax.Array], jax.Array]


def forward(x_RF: jax.Array, bias_F: jax.Array, name: str) -> jax.Array:
    """Returns activation(x + bias), [R, F] in x's dtype; computed in float32.

    Args:
        x_RF: a product, without its bias.
        bias_F: float32.
        name: of the activation, as in `ptft_jax.models.layers.activation`.
    """
    total, size = x_RF.shape
    rows, width = rows_per_block(total, _ROWS), min(_COLUMNS, power_of_two(size))
    tile = pl.BlockSpec((rows, width), lambda i, j: (i, j))
    return launch(
        partial(_forward, function=_gelu if name == "gelu" else activation(name), size=size),
        x_RF,
        bias_F,
        name="bias_activation_forward",
        grid=(total // rows, pl.cdiv(size, width)),
        in_specs=[tile, pl.BlockSpec((width,), lambda i, j: (j,))],
        out_specs=tile,
        out_shape=jax.ShapeDtypeStruct(x_RF.shape, x_RF.dtype),
        num_warps=_WARPS,
    )


def backward(
    x_RF: jax.Array, bias_F: jax.Array, g_RF: jax.Array, name: str
) -> tuple[jax.Array, jax.Array]:
    """Returns the gradients of x [R, F] and, by block of rows, of the bias, float32 [G, F]."""
    total, size = x_RF.shape
    rows, width = rows_per_block(total, _ROWS), min(_COLUMNS, power_of_two(size))
    blocks = rows_per_block(total // rows, _BLOCKS)
    stretch = rows * blocks
    tile = pl.BlockSpec((stretch, width), lambda i, j: (i, j))
    return launch(
        partial(_backward, slope=_slope(name), rows=rows, size=size),
        x_RF,
        bias_F,
        g_RF,
        name="bias_activation_backward",
        grid=(total // stretch, pl.cdiv(size, width)),
        in_specs=[tile, pl.BlockSpec((width,), lambda i, j: (j,)), tile],
        out_specs=[tile, pl.BlockSpec((None, width), lambda i, j: (i, j))],
        out_shape=[
            jax.ShapeDtypeStruct(x_RF.shape, x_RF.dtype),
            jax.ShapeDtypeStruct((total // stretch, size), jnp.float32),
        ],
        num_warps=_WARPS,
    )


def _forward(x_ref, bias_ref, out_ref, *, function, size):
    rows, width = x_ref.shape
    real = pl.program_id(1) * width + jnp.arange(width) < size
    mask = jnp.broadcast_to(real[None, :], (rows, width))
    x = plgpu.load(x_ref, mask=mask, other=0.0).astype(jnp.float32)
    bias = plgpu.load(bias_ref, mask=real, other=0.0)
    plgpu.store(out_ref, function(x + bias[None, :]).astype(out_ref.dtype), mask=mask)


def _backward(x_ref, bias_ref, g_ref, dx_ref, dbias_ref, *, slope, rows, size):
    stretch, width = x_ref.shape
    real = pl.program_id(1) * width + jnp.arange(width) < size
    mask = jnp.broadcast_to(real[None, :], (rows, width))
    bias = plgpu.load(bias_ref, mask=real, other=0.0)

    def body(j, dbias):
        here = pl.ds(j * rows, rows)
        x = plgpu.load(x_ref.at[here, :], mask=mask, other=0.0).astype(jnp.float32)
        g = plgpu.load(g_ref.at[here, :], mask=mask, other=0.0).astype(jnp.float32)
        dx = g * slope(x + bias[None, :])
        plgpu.store(dx_ref.at[here, :], dx.astype(dx_ref.dtype), mask=mask)
        return dbias + jnp.sum(dx, axis=0)

    nothing = jnp.zeros((width,), jnp.float32)
    plgpu.store(dbias_ref, jax.lax.fori_loop(0, stretch // rows, body, nothing), mask=real)


def _slope(name: str) -> Activation:
    if name == "gelu":
        return _gelu_slope
    function = activation(name)
    return lambda x: jax.vjp(function, x)[1](jnp.ones_like(x))[0]


def _normal(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the standard normal's distribution function Φ(x) and exp(-x² / 2).

    Triton's Pallas has no error function. Abramowitz and Stegun 7.1.26 is off by at most 1.5e-7,
    and its exponential is that of the density. A square of a reciprocal root and a power of two
    each are one instruction of the GPU, a quotient and an exponential several.
    """
    root = jax.lax.rsqrt(1.0 + (0.3275911 / math.sqrt(2.0)) * jnp.abs(x))
    t = root * root
    series = 0.5 * 1.421413741 + t * (-0.5 * 1.453152027 + t * (0.5 * 1.061405429))
    series = t * (0.5 * 0.254829592 + t * (-0.5 * 0.284496736 + t * series))
    bell = jnp.exp2(x * (x * (-0.5 * math.log2(math.e))))
    tail = series * bell
    return jnp.where(x < 0.0, tail, 1.0 - tail), bell


def _gelu(x: jax.Array) -> jax.Array:
    return x * _normal(x)[0]


def _gelu_slope(x: jax.Array) -> jax.Array:
    below, bell = _normal(x)
    return below + x * bell * (1.0 / math.sqrt(2.0 * math.pi))
