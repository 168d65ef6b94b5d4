"""Self-attention of rows of more than 128 tokens: block by block, past the blocks of others.

Forward is FlashAttention (Dao et al. 2022, algorithm 1), with the logarithm of each softmax's sum
kept for the backward pass. A block of queries meets only the blocks in which its examples lie, so
packed rows and padding cost what their real pairs cost.

A query that is padding gets the context 0, where XLA's path attends evenly; nothing reads either.

Shape suffixes: B batch, T tokens (a multiple of `BLOCK`), N heads, C query, key and value (3), H
head size, G blocks of tokens.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from ptft_jax.models.dropout import keep, of_columns, of_lines
from ptft_jax.models.kernels.launch import launch, mask_scores

BLOCK = 64
# Measured on an H200 (docs/performance.md).
FORWARD_QUERIES, FORWARD_KEYS, FORWARD_WARPS, FORWARD_STAGES = 128, 64, 4, 3
BACKWARD_KEYS, BACKWARD_QUERIES, BACKWARD_WARPS, BACKWARD_STAGES = 64, 64, 4, 3
QUERY_QUERIES, QUERY_KEYS, QUERY_WARPS, QUERY_STAGES = 64, 64, 4, 3
STORE_SCORES = True

_LOWEST = -1e30
_LOG2_E = math.log2(math.e)


def forward(
    qkv_BTNCH: jax.Array, visible_BT: jax.Array, keys_BNK: jax.Array, *, rate: float
) -> tuple[jax.Array, jax.Array]:
    """Returns the context [B, T, N, H] and log2 of the softmax's sums, float32 [B, N, T].

    Args:
        qkv_BTNCH: queries, keys and values, with their biases.
        visible_BT: numbers of the examples, 0 for padding.
        keys_BNK: the dropout key of each row and head, uint32 [B, N, 2].
        rate: dropout of the probabilities.
    """
    batch, total, heads, _, size = qkv_BTNCH.shape
    queries = FORWARD_QUERIES if total % FORWARD_QUERIES == 0 else BLOCK
    bounds = _bounds(visible_BT, queries, FORWARD_KEYS)
    return launch(
        partial(_forward, rate=rate),
        qkv_BTNCH,
        qkv_BTNCH,
        qkv_BTNCH,
        visible_BT,
        keys_BNK,
        *bounds,
        name="long_attention_forward",
        grid=(total // queries, heads, batch),
        in_specs=[
            _part(0, queries, size, tiled=True),
            _part(1, total, size),
            _part(2, total, size),
            *_row_specs(total),
            *_bound_specs(2),
        ],
        out_specs=[
            pl.BlockSpec((None, queries, None, size), lambda i, n, b: (b, i, n, 0)),
            pl.BlockSpec((None, None, queries), lambda i, n, b: (b, n, i)),
        ],
        out_shape=[
            jax.ShapeDtypeStruct((batch, total, heads, size), qkv_BTNCH.dtype),
            jax.ShapeDtypeStruct((batch, heads, total), jnp.float32),
        ],
        num_warps=FORWARD_WARPS,
        num_stages=FORWARD_STAGES,
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
) -> tuple[jax.Array, jax.Array]:
    """Returns the gradient of qkv [B, T, N, 3, H] and its sums over tokens [B, N, 3, H]."""
    batch, total, heads, _, size = qkv_BTNCH.shape
    products = context_BTNH.astype(jnp.float32) * g_BTNH.astype(jnp.float32)
    means_BNT = jnp.swapaxes(jnp.sum(products, axis=-1), 1, 2)
    bounds = _bounds(visible_BT, BACKWARD_KEYS, BACKWARD_QUERIES)
    whole = pl.BlockSpec((None, total, None, size), lambda i, n, b: (b, 0, n, 0))
    line = pl.BlockSpec((None, None, total), lambda i, n, b: (b, n, 0))
    blocks = total // BACKWARD_KEYS
    shapes = [
        jax.ShapeDtypeStruct(qkv_BTNCH.shape, qkv_BTNCH.dtype),
        jax.ShapeDtypeStruct((batch, heads, blocks, 3, size), jnp.float32),
    ]
    specs = [
        pl.BlockSpec((None, BACKWARD_KEYS, None, 3, size), lambda i, n, b: (b, i, n, 0, 0)),
        pl.BlockSpec((None, None, None, 3, size), lambda i, n, b: (b, n, i, 0, 0)),
    ]
    if STORE_SCORES:
        shapes.append(jax.ShapeDtypeStruct((batch, heads, total, total), qkv_BTNCH.dtype))
        specs.append(pl.BlockSpec((None, None, total, BACKWARD_KEYS), lambda i, n, b: (b, n, 0, i)))
    found = launch(
        partial(_backward, rate=rate, store=STORE_SCORES),
        qkv_BTNCH,
        qkv_BTNCH,
        qkv_BTNCH,
        visible_BT,
        keys_BNK,
        *bounds,
        g_BTNH,
        log_sums_BNT,
        means_BNT,
        name="long_attention_backward",
        grid=(blocks, heads, batch),
        in_specs=[
            *(_part(part, total, size) for part in range(3)),
            *_row_specs(total),
            *_bound_specs(2),
            whole,
            line,
            line,
        ],
        out_specs=specs,
        out_shape=shapes,
        num_warps=BACKWARD_WARPS,
        num_stages=BACKWARD_STAGES,
    )
    if not STORE_SCORES:
        return found[0], jnp.sum(found[1], axis=2)
    gradient, sums, scores_BNTS = found
    blocks = total // QUERY_QUERIES
    gradient, query_sums = launch(
        _backward_queries,
        scores_BNTS,
        qkv_BTNCH,
        *_bounds(visible_BT, QUERY_QUERIES, QUERY_KEYS),
        gradient,
        name="long_attention_backward_queries",
        grid=(blocks, heads, batch),
        in_specs=[
            pl.BlockSpec((None, None, QUERY_QUERIES, total), lambda i, n, b: (b, n, i, 0)),
            _part(1, total, size),
            *_bound_specs(2),
            _part(0, QUERY_QUERIES, size, tiled=True),
        ],
        out_specs=[
            _part(0, QUERY_QUERIES, size, tiled=True),
            pl.BlockSpec((None, None, None, size), lambda i, n, b: (b, n, i, 0)),
        ],
        out_shape=[
            shapes[0],
            jax.ShapeDtypeStruct((batch, heads, blocks, size), jnp.float32),
        ],
        num_warps=QUERY_WARPS,
        num_stages=QUERY_STAGES,
        aliases={4: 0},
    )
    sums = jnp.sum(sums, axis=2).at[:, :, 0].set(jnp.sum(query_sums, axis=2))
    return gradient, sums


def _part(part: int, rows: int, size: int, *, tiled: bool = False) -> pl.BlockSpec:
    """Returns the block of query, key or value (0, 1, 2) of one head: all rows, or a tile."""
    return pl.BlockSpec(
        (None, rows, None, None, size), lambda i, n, b: (b, i if tiled else 0, n, part, 0)
    )


def _row_specs(total: int) -> list[pl.BlockSpec]:
    return [
        pl.BlockSpec((None, total), lambda i, n, b: (b, 0)),
        pl.BlockSpec((None, None, 2), lambda i, n, b: (b, n, 0)),
    ]


def _bound_specs(count: int) -> list[pl.BlockSpec]:
    return [pl.BlockSpec((None, 1), lambda i, n, b: (b, i))] * count


def _bounds(visible_BT: jax.Array, block: int, inner: int) -> tuple[jax.Array, jax.Array]:
    """Returns, for each block of tokens, the first and the last but one inner block it meets.

    Examples lie one after the other, so what a block's tokens may attend to is one stretch.
    """
    batch, total = visible_BT.shape
    place = jnp.arange(total, dtype=jnp.int32)
    changes = visible_BT[:, 1:] != visible_BT[:, :-1]
    edge = jnp.ones((batch, 1), bool)
    begins = jnp.concatenate([edge, changes], axis=1)
    ends = jnp.concatenate([changes, edge], axis=1)
    first = jax.lax.cummax(jnp.where(begins, place, 0), axis=1)
    last = jax.lax.cummin(jnp.where(ends, place + 1, total), axis=1, reverse=True)
    real = visible_BT > 0
    first = jnp.where(real, first, total).reshape(batch, -1, block).min(axis=2)
    last = jnp.where(real, last, 0).reshape(batch, -1, block).max(axis=2)
    return first // inner, (last + inner - 1) // inner


def _factors(keys_ref, rows, columns, rate):
    """Returns 1 / (1 - rate) for a probability that stays and 0 for one that is dropped.

    To multiply with: a selection would be moved behind the rounding to bfloat16, whose pairs of
    numbers would have to be taken apart for it.
    """
    entries = of_lines(rows, keys_ref[0])[:, None] + of_columns(columns)[None, :]
    return jnp.where(keep(entries, keys_ref[1], rate), 1.0 / (1.0 - rate), 0.0)


def _forward(
    q_ref, k_ref, v_ref, visible_ref, keys_ref, low_ref, high_ref, out_ref, log_sums_ref, *,
    rate,
):  # fmt: skip
    queries, size = q_ref.shape
    rows = pl.program_id(0) * queries + jnp.arange(queries)
    q, visible_q = q_ref[...], visible_ref[pl.ds(pl.program_id(0) * queries, queries)]
    scale = _LOG2_E / math.sqrt(size)

    def body(j, carry):
        context, highest, total = carry
        here = pl.ds(j * FORWARD_KEYS, FORWARD_KEYS)
        scores = mask_scores(plgpu.dot(q, k_ref[here, :].T), visible_q, visible_ref[here])
        above = jnp.maximum(highest, jnp.max(scores, axis=1) * scale)
        shrink = jnp.exp2(highest - above)
        weights = jnp.exp2(scores * scale - above[:, None])
        total = total * shrink + jnp.sum(weights, axis=1)
        if rate:
            columns = j * FORWARD_KEYS + jnp.arange(FORWARD_KEYS)
            weights *= _factors(keys_ref, rows, columns, rate)
        v = v_ref[here, :]
        context = context * shrink[:, None] + plgpu.dot(weights.astype(v.dtype), v)
        return context, above, total

    start = (
        jnp.zeros((queries, size), jnp.float32),
        jnp.full((queries,), _LOWEST, jnp.float32),
        jnp.zeros((queries,), jnp.float32),
    )
    context, highest, total = jax.lax.fori_loop(low_ref[0], high_ref[0], body, start)
    total = jnp.maximum(total, 1e-30)
    out_ref[...] = (context * (1.0 / total)[:, None]).astype(out_ref.dtype)
    log_sums_ref[...] = highest + jnp.log2(total)


def _backward(
    q_ref, k_ref, v_ref, visible_ref, keys_ref, low_ref, high_ref, g_ref, log_sums_ref, means_ref,
    out_ref, sums_ref, scores_ref=None, *, rate, store,
):  # fmt: skip
    size = q_ref.shape[1]
    here = pl.ds(pl.program_id(0) * BACKWARD_KEYS, BACKWARD_KEYS)
    place = pl.program_id(0) * BACKWARD_KEYS + jnp.arange(BACKWARD_KEYS)
    k, v, visible = k_ref[here, :], v_ref[here, :], visible_ref[here]
    scale = 1.0 / math.sqrt(size)

    def pair(q, k, v, g, visible_q, visible_k, rows, columns, log_sums, means):
        """Returns dropped probabilities and the gradient of the scores."""
        scores = mask_scores(plgpu.dot(q, k.T), visible_q, visible_k)
        probs = jnp.exp2(scores * (scale * _LOG2_E) - log_sums[:, None])
        dprobs = plgpu.dot(g, v.T)
        dropped = probs
        if rate:
            factors = _factors(keys_ref, rows, columns, rate)
            dropped, dprobs = probs * factors, dprobs * factors
        return dropped, probs * (dprobs - means[:, None]) * scale

    def over_queries(j, carry):
        dk, dv = carry
        there = pl.ds(j * BACKWARD_QUERIES, BACKWARD_QUERIES)
        q, g = q_ref[there, :], g_ref[there, :]
        rows = j * BACKWARD_QUERIES + jnp.arange(BACKWARD_QUERIES)
        dropped, dscores = pair(
            q, k, v, g, visible_ref[there], visible, rows, place,
            log_sums_ref[there], means_ref[there],
        )  # fmt: skip
        dv += plgpu.dot(dropped.astype(g.dtype).T, g)
        dscores = dscores.astype(q.dtype)
        if store:
            scores_ref[there, :] = dscores
        dk += plgpu.dot(dscores.T, q)
        return dk, dv

    nothing = jnp.zeros((BACKWARD_KEYS, size), jnp.float32)
    dk, dv = jax.lax.fori_loop(low_ref[0], high_ref[0], over_queries, (nothing, nothing))
    found = [(1, dk), (2, dv)]
    if not store:
        q, g = q_ref[here, :], g_ref[here, :]
        log_sums, means = log_sums_ref[here], means_ref[here]

        def over_keys(j, dq):
            there = pl.ds(j * BACKWARD_QUERIES, BACKWARD_QUERIES)
            k = k_ref[there, :]
            _, dscores = pair(
                q, k, v_ref[there, :], g, visible, visible_ref[there], place,
                j * BACKWARD_QUERIES + jnp.arange(BACKWARD_QUERIES), log_sums, means,
            )  # fmt: skip
            return dq + plgpu.dot(dscores.astype(k.dtype), k)

        found.append((0, jax.lax.fori_loop(low_ref[0], high_ref[0], over_keys, nothing)))
    for part, gradient in found:
        out_ref[:, part, :] = gradient.astype(out_ref.dtype)
        sums_ref[part, :] = jnp.sum(gradient, axis=0)


def _backward_queries(scores_ref, k_ref, low_ref, high_ref, _, out_ref, sums_ref):
    def body(j, dq):
        there = pl.ds(j * QUERY_KEYS, QUERY_KEYS)
        return dq + plgpu.dot(scores_ref[:, there], k_ref[there, :])

    nothing = jnp.zeros((QUERY_QUERIES, k_ref.shape[1]), jnp.float32)
    dq = jax.lax.fori_loop(low_ref[0], high_ref[0], body, nothing)
    out_ref[...] = dq.astype(out_ref.dtype)
    sums_ref[...] = jnp.sum(dq, axis=0)
