"""LayerNorm(residual + dropout(x + bias)) in one pass over memory, and its gradient in another.

Forward keeps the sum in the activations' dtype, and mean and inverse deviation of each row in
float32. Backward takes two gradients of the output, from the next layer and from the residual, so
that no pass of its own adds them; the gradients of bias, scale and shift come as sums over blocks
of rows.

Shape suffixes: R rows (B x T), D hidden, G blocks of rows.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from ptft_jax.models.dropout import keep, spread
from ptft_jax.models.kernels.launch import launch, power_of_two, rows_per_block

# Measured on an H200 (docs/performance.md).
FORWARD_ROWS, FORWARD_WARPS = 4, 4
BACKWARD_ROWS, BACKWARD_BLOCKS, BACKWARD_WARPS = 4, 16, 4


def forward(
    x_RD: jax.Array,
    residual_RD: jax.Array,
    keys_RK: jax.Array,
    bias_D: jax.Array,
    scale_D: jax.Array,
    shift_D: jax.Array,
    *,
    rate: float,
    eps: float,
    tokens: int,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Returns the output and the sum that was normalised, [R, D], its means and 1 / deviations.

    Args:
        x_RD: a sublayer's product, without its bias.
        residual_RD: its input.
        keys_RK: dropout key of each row's example row, uint32 [R, 2].
        bias_D, scale_D, shift_D: float32, the product's bias and LayerNorm's parameters.
        rate, eps: of dropout; added to the variance.
        tokens: T, which says where in its example row a row lies.
    """
    total, size = x_RD.shape
    rows, width = rows_per_block(total, FORWARD_ROWS), power_of_two(size)
    tile = pl.BlockSpec((rows, width), lambda i: (i, 0))
    line = pl.BlockSpec((rows,), lambda i: (i,))
    parameter = pl.BlockSpec((width,), lambda i: (0,))
    array = jax.ShapeDtypeStruct(x_RD.shape, x_RD.dtype)
    statistic = jax.ShapeDtypeStruct((total,), jnp.float32)
    return launch(
        partial(_forward, size=size, rate=rate, eps=eps, tokens=tokens),
        x_RD,
        residual_RD,
        keys_RK,
        bias_D,
        scale_D,
        shift_D,
        name="residual_norm_forward",
        grid=(total // rows,),
        in_specs=[
            tile,
            tile,
            pl.BlockSpec((rows, 2), lambda i: (i, 0)),
            parameter,
            parameter,
            parameter,
        ],
        out_specs=[tile, tile, line, line],
        out_shape=[array, array, statistic, statistic],
        num_warps=FORWARD_WARPS,
        num_stages=1,
    )


def backward(
    g_RD: jax.Array,
    g_residual_RD: jax.Array,
    sum_RD: jax.Array,
    means_R: jax.Array,
    inverses_R: jax.Array,
    keys_RK: jax.Array,
    scale_D: jax.Array,
    *,
    rate: float,
    tokens: int,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]:
    """Returns the gradients of x and residual [R, D], and of bias, scale, shift [G, D] by block."""
    total, size = g_RD.shape
    rows, width = rows_per_block(total, BACKWARD_ROWS), power_of_two(size)
    blocks = rows_per_block(total // rows, BACKWARD_BLOCKS)
    stretch = rows * blocks
    tile = pl.BlockSpec((stretch, width), lambda i: (i, 0))
    line = pl.BlockSpec((stretch,), lambda i: (i,))
    part = pl.BlockSpec((None, width), lambda i: (i, 0))
    array = jax.ShapeDtypeStruct(g_RD.shape, g_RD.dtype)
    parts = jax.ShapeDtypeStruct((total // stretch, size), jnp.float32)
    return launch(
        partial(_backward, size=size, rate=rate, rows=rows, tokens=tokens),
        g_RD,
        g_residual_RD,
        sum_RD,
        means_R,
        inverses_R,
        keys_RK,
        scale_D,
        name="residual_norm_backward",
        grid=(total // stretch,),
        in_specs=[
            tile,
            tile,
            tile,
            line,
            line,
            pl.BlockSpec((stretch, 2), lambda i: (i, 0)),
            pl.BlockSpec((width,), lambda i: (0,)),
        ],
        out_specs=[tile, tile, part, part, part],
        out_shape=[array, array, parts, parts, parts],
        num_warps=BACKWARD_WARPS,
        num_stages=1,
    )


def _kept(first, second, rows, columns, tokens, size, rate):
    start = spread((rows % tokens) * jnp.int32(size)) + first
    return keep(start[:, None] + spread(columns)[None, :], jnp.uint32(0), second[:, None], rate)


def _forward(
    x_ref, residual_ref, keys_ref, bias_ref, scale_ref, shift_ref,
    out_ref, sum_ref, means_ref, inverses_ref, *, size, rate, eps, tokens,
):  # fmt: skip
    rows, width = x_ref.shape
    columns = jnp.arange(width)
    real = columns < size
    mask = jnp.broadcast_to(real[None, :], (rows, width))

    def load(ref, where):
        return plgpu.load(ref, mask=where, other=0.0).astype(jnp.float32)

    x = load(x_ref, mask) + load(bias_ref, real)[None, :]
    if rate:
        place = pl.program_id(0) * rows + jnp.arange(rows)
        kept = _kept(keys_ref[:, 0], keys_ref[:, 1], place, columns, tokens, size, rate)
        x = jnp.where(kept, x * (1.0 / (1.0 - rate)), 0.0)
    # Rounded before it is normalised: the backward pass reads the rounded sum.
    x = (x + load(residual_ref, mask)).astype(sum_ref.dtype)
    plgpu.store(sum_ref, x, mask=mask)
    x = x.astype(jnp.float32)
    mean = jnp.sum(x, axis=1) / size
    centred = jnp.where(mask, x - mean[:, None], 0.0)
    inverse = jax.lax.rsqrt(jnp.sum(centred * centred, axis=1) / size + eps)
    normed = centred * inverse[:, None]
    out = normed * load(scale_ref, real)[None, :] + load(shift_ref, real)[None, :]
    plgpu.store(out_ref, out.astype(out_ref.dtype), mask=mask)
    means_ref[...] = mean
    inverses_ref[...] = inverse


def _backward(
    g_ref, g_residual_ref, sum_ref, means_ref, inverses_ref, keys_ref, scale_ref,
    dx_ref, dresidual_ref, dbias_ref, dscale_ref, dshift_ref, *, size, rate, rows, tokens,
):  # fmt: skip
    stretch, width = g_ref.shape
    columns = jnp.arange(width)
    real = columns < size
    mask = jnp.broadcast_to(real[None, :], (rows, width))
    scale = plgpu.load(scale_ref, mask=real, other=0.0)
    first_row = pl.program_id(0) * stretch

    def body(j, carry):
        dbias, dscale, dshift = carry
        here = pl.ds(j * rows, rows)

        def load(ref):
            return plgpu.load(ref.at[here, :], mask=mask, other=0.0).astype(jnp.float32)

        g = load(g_ref) + load(g_residual_ref)
        inverse = inverses_ref[here]
        centred = jnp.where(mask, load(sum_ref) - means_ref[here][:, None], 0.0)
        normed = centred * inverse[:, None]
        scaled = g * scale[None, :]
        mean = jnp.sum(scaled, axis=1) / size
        along = jnp.sum(scaled * normed, axis=1) / size
        dx = (scaled - mean[:, None] - normed * along[:, None]) * inverse[:, None]
        dx = jnp.where(mask, dx, 0.0)
        plgpu.store(dresidual_ref.at[here, :], dx.astype(dresidual_ref.dtype), mask=mask)
        if rate:
            place = first_row + j * rows + jnp.arange(rows)
            first, second = keys_ref[here, 0], keys_ref[here, 1]
            kept = _kept(first, second, place, columns, tokens, size, rate)
            dx = jnp.where(kept, dx * (1.0 / (1.0 - rate)), 0.0)
        plgpu.store(dx_ref.at[here, :], dx.astype(dx_ref.dtype), mask=mask)
        return (
            dbias + jnp.sum(dx, axis=0),
            dscale + jnp.sum(g * normed, axis=0),
            dshift + jnp.sum(g, axis=0),
        )

    nothing = jnp.zeros((width,), jnp.float32)
    sums = jax.lax.fori_loop(0, stretch // rows, body, (nothing, nothing, nothing))
    for ref, value in zip((dbias_ref, dscale_ref, dshift_ref), sums, strict=True):
        plgpu.store(ref, value, mask=real)
