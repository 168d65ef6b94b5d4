"""Self-attention of rows of more than 128 tokens: block by block, past the blocks of others.

Forward is FlashAttention (Dao et al. 2022, algorithm 1), with the logarithm of each softmax's sum
kept for the backward pass. That one goes through the blocks of queries once for each block of keys
and writes the gradient of the scores, from which a second kernel takes the queries' gradient: it
costs memory for one layer's [T, T], and saves to compute scores, softmax and dropout once more.

A block of queries meets only the blocks in which its examples lie, so that packed rows and padding
cost what their real pairs cost. A query that is padding gets some finite context, 0 where it meets
nothing; XLA's path gives it another one, and nothing reads either.

Shape suffixes: B batch, T tokens (a multiple of `BLOCK`), N heads, C query, key and value (3), H
head size, S key tokens.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from ptft_jax.models.kernels.launch import launch
from ptft_jax.models.kernels.scores import FAR, dropout_factors, mask_scores

# Of queries and of keys. Both backward kernels have to cut alike: the second one reads no block
# that the first one has not written. Blocks of 128 or eight warps took up to 2.6 times as long on
# an H200, other numbers of stages up to 1.2 times.
BLOCK = 64
_WARPS, _STAGES = 4, 3
_FORWARD_QUERIES = 128  # where they divide the row

_LOG2_E = math.log2(math.e)


def forward(
    qkv_BTNCH: jax.Array,
    visible_BT: jax.Array,
    keys_BNK: jax.Array,
    *,
    rate: float,
    packed: bool,
) -> tuple[jax.Array, jax.Array]:
    """Returns the context [B, T, N, H] and log2 of the softmax's sums, float32 [B, N, T].

    Args:
        qkv_BTNCH: queries, keys and values, with their biases.
        visible_BT: numbers of the examples, which lie one after the other; 0 for padding.
        keys_BNK: the dropout key of each row and head, uint32.
        rate: dropout of the probabilities.
        packed: whether a row holds several examples; otherwise padding may lie anywhere.
    """
    batch, total, heads, _, size = qkv_BTNCH.shape
    queries = BLOCK if total % _FORWARD_QUERIES else _FORWARD_QUERIES
    return launch(
        partial(_forward, rate=rate),
        *(qkv_BTNCH,) * 3,
        visible_BT,
        keys_BNK,
        *_bounds(visible_BT, queries, packed),
        name="long_attention_forward",
        grid=(total // queries, heads, batch),
        in_specs=[_part(0, queries, size), *_whole_parts(1, 2, total, size), *_row_specs(total)],
        out_specs=[
            pl.BlockSpec((None, queries, None, size), lambda i, n, b: (b, i, n, 0)),
            pl.BlockSpec((None, None, queries), lambda i, n, b: (b, n, i)),
        ],
        out_shape=[
            jax.ShapeDtypeStruct((batch, total, heads, size), qkv_BTNCH.dtype),
            jax.ShapeDtypeStruct((batch, heads, total), jnp.float32),
        ],
        num_warps=_WARPS,
        num_stages=_STAGES,
    )


def backward(
    qkv_BTNCH: jax.Array,
    visible_BT: jax.Array,
    keys_BNK: jax.Array,
    context_BTNH: jax.Array,
    log_sums_BNT: jax.Array,
    g_BTNH: jax.Array,
    *,
    rate: float,
    packed: bool,
) -> jax.Array:
    """Returns the gradient of qkv [B, T, N, 3, H], of arguments as in `forward`."""
    batch, total, heads, _, size = qkv_BTNCH.shape
    products = context_BTNH.astype(jnp.float32) * g_BTNH.astype(jnp.float32)
    means_BNT = jnp.swapaxes(jnp.sum(products, axis=-1), 1, 2)
    bounds = _bounds(visible_BT, BLOCK, packed)
    line = pl.BlockSpec((None, None, total), lambda i, n, b: (b, n, 0))
    gradient = jax.ShapeDtypeStruct(qkv_BTNCH.shape, qkv_BTNCH.dtype)
    grid = (total // BLOCK, heads, batch)
    gradient_BTNCH, dscores_BNTS = launch(
        partial(_backward, rate=rate),
        *(qkv_BTNCH,) * 3,
        visible_BT,
        keys_BNK,
        *bounds,
        g_BTNH,
        log_sums_BNT,
        means_BNT,
        name="long_attention_backward",
        grid=grid,
        in_specs=[
            *_whole_parts(0, 1, 2, total, size),
            *_row_specs(total),
            pl.BlockSpec((None, total, None, size), lambda i, n, b: (b, 0, n, 0)),
            line,
            line,
        ],
        out_specs=[
            pl.BlockSpec((None, BLOCK, None, 3, size), lambda i, n, b: (b, i, n, 0, 0)),
            pl.BlockSpec((None, None, total, BLOCK), lambda i, n, b: (b, n, 0, i)),
        ],
        out_shape=[gradient, jax.ShapeDtypeStruct((batch, heads, total, total), qkv_BTNCH.dtype)],
        num_warps=_WARPS,
        num_stages=_STAGES,
    )
    return launch(
        _backward_queries,
        dscores_BNTS,
        qkv_BTNCH,
        *bounds,
        gradient_BTNCH,
        name="long_attention_backward_queries",
        grid=grid,
        in_specs=[
            pl.BlockSpec((None, None, BLOCK, total), lambda i, n, b: (b, n, i, 0)),
            *_whole_parts(1, total, size),
            *_bound_specs(),
            _part(0, BLOCK, size),
        ],
        out_specs=_part(0, BLOCK, size),
        out_shape=gradient,
        num_warps=_WARPS,
        num_stages=_STAGES,
        aliases={4: 0},
    )


def _part(part: int, rows: int, size: int) -> pl.BlockSpec:
    """Returns a block of rows of one head's queries, keys or values (0, 1, 2)."""
    return pl.BlockSpec((None, rows, None, None, size), lambda i, n, b: (b, i, n, part, 0))


def _whole_parts(*parts_total_size: int) -> list[pl.BlockSpec]:
    """Returns all rows of one head's given parts."""
    *parts, total, size = parts_total_size
    shape = (None, total, None, None, size)
    return [pl.BlockSpec(shape, lambda i, n, b, part=part: (b, 0, n, part, 0)) for part in parts]


def _row_specs(total: int) -> list[pl.BlockSpec]:
    """Returns the blocks of the examples' numbers, of the dropout key and of the bounds."""
    return [
        pl.BlockSpec((None, total), lambda i, n, b: (b, 0)),
        pl.BlockSpec((None, None, 2), lambda i, n, b: (b, n, 0)),
        *_bound_specs(),
    ]


def _bound_specs() -> list[pl.BlockSpec]:
    return [pl.BlockSpec((None, 1), lambda i, n, b: (b, i))] * 2


def _bounds(visible_BT: jax.Array, block: int, packed: bool) -> tuple[jax.Array, jax.Array]:
    """Returns, for blocks of so many tokens, the first `BLOCK` met and the one after the last.

    Examples lie one after the other, so what a block's tokens may attend to is one stretch. A block
    of padding meets none.
    """
    batch, total = visible_BT.shape
    place = jnp.arange(total, dtype=jnp.int32)
    real = visible_BT > 0
    if packed:
        changes = visible_BT[:, 1:] != visible_BT[:, :-1]
        edge = jnp.ones((batch, 1), bool)
        begins = jnp.concatenate([edge, changes], axis=1)
        ends = jnp.concatenate([changes, edge], axis=1)
        first = jax.lax.cummax(jnp.where(begins, place, 0), axis=1)
        last = jax.lax.cummin(jnp.where(ends, place + 1, total), axis=1, reverse=True)
    else:
        first = jnp.min(jnp.where(real, place, total), axis=1, keepdims=True)
        last = jnp.max(jnp.where(real, place + 1, 0), axis=1, keepdims=True)
    first = jnp.where(real, first, total).reshape(batch, -1, block).min(axis=2)
    last = jnp.where(real, last, 0).reshape(batch, -1, block).max(axis=2)
    return first // BLOCK, (last + BLOCK - 1) // BLOCK


def _forward(
    q_ref, k_ref, v_ref, visible_ref, keys_ref, low_ref, high_ref, out_ref, log_sums_ref, *, rate
):  # fmt: skip
    queries, size = q_ref.shape
    start = pl.program_id(0) * queries
    places = start + jnp.arange(queries)
    q, visible = q_ref[...], visible_ref[pl.ds(start, queries)]
    scale = _LOG2_E / math.sqrt(size)

    def body(j, carry):
        context, highest, total = carry
        here = pl.ds(j * BLOCK, BLOCK)
        scores = mask_scores(plgpu.dot(q, k_ref[here, :].T), visible, visible_ref[here])
        above = jnp.maximum(highest, jnp.max(scores, axis=1))
        shrink = jnp.exp2((highest - above) * scale)
        weights = jnp.exp2((scores - above[:, None]) * scale)
        total = total * shrink + jnp.sum(weights, axis=1)
        if rate:
            weights *= dropout_factors(keys_ref, places, j * BLOCK + jnp.arange(BLOCK), rate)
        v = v_ref[here, :]
        context = context * shrink[:, None] + plgpu.dot(weights.astype(v.dtype), v)
        return context, above, total

    nothing = (
        jnp.zeros((queries, size), jnp.float32),
        jnp.full((queries,), -FAR, jnp.float32),
        jnp.zeros((queries,), jnp.float32),
    )
    context, highest, total = jax.lax.fori_loop(low_ref[0], high_ref[0], body, nothing)
    # A query that met nothing gets 0, and no weight in the backward pass.
    met = highest > -0.5 * FAR
    share = jnp.where(met, 1.0 / total, 0.0)
    out_ref[...] = (context * share[:, None]).astype(out_ref.dtype)
    log_sums_ref[...] = jnp.where(met, highest * scale + jnp.log2(total), FAR)


def _backward(
    q_ref, k_ref, v_ref, visible_ref, keys_ref, low_ref, high_ref, g_ref, log_sums_ref, means_ref,
    out_ref, dscores_ref, *, rate,
):  # fmt: skip
    size = q_ref.shape[1]
    start = pl.program_id(0) * BLOCK
    here, places = pl.ds(start, BLOCK), start + jnp.arange(BLOCK)
    k, v, visible = k_ref[here, :], v_ref[here, :], visible_ref[here]
    scale = 1.0 / math.sqrt(size)

    def over_queries(j, carry):
        dk, dv = carry
        there = pl.ds(j * BLOCK, BLOCK)
        # All is read before the first product: read between products, registers ran out.
        q, g, seen = q_ref[there, :], g_ref[there, :], visible_ref[there]
        log_sums, means = log_sums_ref[there], means_ref[there]
        scores = mask_scores(plgpu.dot(q, k.T), seen, visible)
        probs = dropped = jnp.exp2(scores * (scale * _LOG2_E) - log_sums[:, None])
        dprobs = plgpu.dot(g, v.T)
        if rate:
            factors = dropout_factors(keys_ref, j * BLOCK + jnp.arange(BLOCK), places, rate)
            dropped, dprobs = probs * factors, dprobs * factors
        dv += plgpu.dot(dropped.astype(g.dtype).T, g)
        dscores = (probs * (dprobs - means[:, None]) * scale).astype(q.dtype)
        dscores_ref[there, :] = dscores
        return dk + plgpu.dot(dscores.T, q), dv

    nothing = jnp.zeros((BLOCK, size), jnp.float32)
    dk, dv = jax.lax.fori_loop(low_ref[0], high_ref[0], over_queries, (nothing, nothing))
    out_ref[:, 1, :] = dk.astype(out_ref.dtype)
    out_ref[:, 2, :] = dv.astype(out_ref.dtype)


def _backward_queries(dscores_ref, k_ref, low_ref, high_ref, _, out_ref):
    def over_keys(j, dq):
        there = pl.ds(j * BLOCK, BLOCK)
        return dq + plgpu.dot(dscores_ref[:, there], k_ref[there, :])

    nothing = jnp.zeros((BLOCK, k_ref.shape[1]), jnp.float32)
    dq = jax.lax.fori_loop(low_ref[0], high_ref[0], over_keys, nothing)
    out_ref[...] = dq.astype(out_ref.dtype)
