"""LayerNorm(residual + dropout(x + bias)) in one pass over memory, and its gradient in another.

Forward keeps the sum in the activations' dtype, and mean and inverse deviation of each row in
float32. Backward takes two gradients of the output, from the next layer and from the residual, so
that no pass of its own adds them; the gradients of bias, scale and shift come as sums over blocks
of rows.

Shape suffixes: R rows (B x T), D hidden, G blocks of rows.
"""

import functools
from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from ptft_jax.models.dropout import keep, of_columns, of_lines
from ptft_jax.models.kernels.launch import launch, pieces, rows_per_block

# One warp takes a row of a block, in both directions: sums over a row need no barrier.
_ROWS = _WARPS = 4
# Blocks of rows that a program of the backward pass goes through: one of its sums is written for
# all of them.
_BLOCKS = 16


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
    rows = rows_per_block(total, _ROWS)
    covered = sum(pieces(size)[-1])
    tile = pl.BlockSpec((rows, covered), lambda i: (i, 0))
    line, keys = pl.BlockSpec((rows,), lambda i: (i,)), pl.BlockSpec((rows, 2), lambda i: (i, 0))
    parameter = pl.BlockSpec((covered,), lambda i: (0,))
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
        in_specs=[tile, tile, keys, parameter, parameter, parameter],
        out_specs=[tile, tile, line, line],
        out_shape=[array, array, statistic, statistic],
        num_warps=_WARPS,
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
    rows = rows_per_block(total, _ROWS)
    blocks = rows_per_block(total // rows, _BLOCKS)
    stretch = rows * blocks
    covered = sum(pieces(size)[-1])
    tile = pl.BlockSpec((stretch, covered), lambda i: (i, 0))
    line = pl.BlockSpec((stretch,), lambda i: (i,))
    keys = pl.BlockSpec((stretch, 2), lambda i: (i, 0))
    parameter = pl.BlockSpec((covered,), lambda i: (0,))
    part = pl.BlockSpec((None, covered), lambda i: (i, 0))
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
        in_specs=[tile, tile, tile, line, line, keys, parameter],
        out_specs=[tile, tile, part, part, part],
        out_shape=[array, array, parts, parts, parts],
        num_warps=_WARPS,
    )


class _Piece:
    """Some columns of a block of rows."""

    def __init__(self, start: int, width: int, size: int, rows: int):
        self.here = pl.ds(start, width)
        self.columns = start + jnp.arange(width)
        self._real = None if start + width <= size else self.columns < size
        self._rows = rows

    def _mask(self, ref):
        if self._real is None or ref.ndim == 1:
            return self._real
        return jnp.broadcast_to(self._real[None, :], (self._rows, *self._real.shape))

    def load(self, ref, rows=None):
        """Loads rows (None: a vector of parameters) in float32, 0 past the last column."""
        view = ref.at[self.here] if rows is None else ref.at[rows, self.here]
        other = None if self._real is None else 0.0
        return plgpu.load(view, mask=self._mask(view), other=other).astype(jnp.float32)

    def store(self, ref, value, rows=None):
        view = ref.at[self.here] if rows is None else ref.at[rows, self.here]
        plgpu.store(view, value.astype(ref.dtype), mask=self._mask(view))

    def real(self, x):
        """Sets what lies past the last column to 0."""
        return x if self._real is None else jnp.where(self._real[None, :], x, 0.0)

    def kept(self, keys_ref, rows, places, tokens, rate):
        """Says which entries dropout keeps."""
        first, second = keys_ref[rows, 0], keys_ref[rows, 1]
        lines = of_lines(places % tokens, first)
        return keep(lines[:, None] + of_columns(self.columns)[None, :], second[:, None], rate)


def _total(parts):
    """Adds up pieces entry by entry, so that one sum over a row is left."""
    return functools.reduce(jnp.add, parts)


def _forward(
    x_ref, residual_ref, keys_ref, bias_ref, scale_ref, shift_ref,
    out_ref, sum_ref, means_ref, inverses_ref, *, size, rate, eps, tokens,
):  # fmt: skip
    rows = x_ref.shape[0]
    cut = [_Piece(start, width, size, rows) for start, width in pieces(size)]
    every = pl.ds(0, rows)
    places = pl.program_id(0) * rows + jnp.arange(rows)
    summed = []
    for piece in cut:
        x = piece.load(x_ref, every) + piece.load(bias_ref)[None, :]
        if rate:
            kept = piece.kept(keys_ref, every, places, tokens, rate)
            x = jnp.where(kept, x * (1.0 / (1.0 - rate)), 0.0)
        # Rounded before it is normalised: the backward pass reads the rounded sum.
        x = (x + piece.load(residual_ref, every)).astype(sum_ref.dtype)
        piece.store(sum_ref, x, every)
        summed.append(piece.real(x.astype(jnp.float32)))
    mean = jnp.sum(_total(summed), axis=1) / size
    centred = [piece.real(x - mean[:, None]) for piece, x in zip(cut, summed, strict=True)]
    variance = jnp.sum(_total([x * x for x in centred]), axis=1) / size
    inverse = jax.lax.rsqrt(variance + eps)
    for piece, x in zip(cut, centred, strict=True):
        out = x * inverse[:, None] * piece.load(scale_ref)[None, :]
        piece.store(out_ref, out + piece.load(shift_ref)[None, :], every)
    means_ref[...] = mean
    inverses_ref[...] = inverse


def _backward(
    g_ref, g_residual_ref, sum_ref, means_ref, inverses_ref, keys_ref, scale_ref,
    dx_ref, dresidual_ref, dbias_ref, dscale_ref, dshift_ref, *, size, rate, rows, tokens,
):  # fmt: skip
    stretch = g_ref.shape[0]
    cut = [_Piece(start, width, size, rows) for start, width in pieces(size)]
    scales = [piece.load(scale_ref) for piece in cut]
    first_row = pl.program_id(0) * stretch

    def body(j, sums):
        here = pl.ds(j * rows, rows)
        places = first_row + j * rows + jnp.arange(rows)
        mean, inverse = means_ref[here][:, None], inverses_ref[here][:, None]
        read = []
        for piece, scale in zip(cut, scales, strict=True):
            g = piece.load(g_ref, here) + piece.load(g_residual_ref, here)
            normed = piece.real((piece.load(sum_ref, here) - mean) * inverse)
            read.append((g, normed, g * scale[None, :]))
        level = jnp.sum(_total([scaled for _, _, scaled in read]), axis=1) / size
        along = jnp.sum(_total([scaled * normed for _, normed, scaled in read]), axis=1) / size
        added = []
        for piece, (g, normed, scaled), (dbias, dscale, dshift) in zip(
            cut, read, sums, strict=True
        ):
            dx = (scaled - level[:, None] - normed * along[:, None]) * inverse
            piece.store(dresidual_ref, dx, here)
            if rate:
                kept = piece.kept(keys_ref, here, places, tokens, rate)
                dx = jnp.where(kept, dx * (1.0 / (1.0 - rate)), 0.0)
            piece.store(dx_ref, dx, here)
            added.append((dbias + dx, dscale + g * normed, dshift + g))
        return tuple(added)

    # Summed over rows once, at the end: inside the loop that would be a barrier each time.
    nothing = tuple((jnp.zeros((rows, *scale.shape), jnp.float32),) * 3 for scale in scales)
    found = jax.lax.fori_loop(0, stretch // rows, body, nothing)
    for piece, sums in zip(cut, found, strict=True):
        for ref, value in zip((dbias_ref, dscale_ref, dshift_ref), sums, strict=True):
            piece.store(ref, jnp.sum(value, axis=0))
