"""Self-attention of rows of up to 128 tokens: a whole row and head in one block, both ways.

The softmax of a row is there at once, so the forward pass keeps nothing but its input, and the
backward pass takes five products. Query, key and value come without their biases, which are added
on the way in. (The biases' gradients are a pass of their own: summed over tokens in here, they took
more than twice its time.)

Shape suffixes: B batch, T tokens, N heads, C query, key and value (3), H head size. S is T padded
to a power of two.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from ptft_jax.models.dropout import keep, of_columns, of_lines
from ptft_jax.models.kernels.launch import launch, mask_scores, power_of_two

MAX_TOKENS = 128
# Measured on an H200 (docs/performance.md).
HEADS_PER_BLOCK = 1
FORWARD_WARPS, BACKWARD_WARPS = 4, 8
STAGES = 1


def forward(
    qkv_BTNCH: jax.Array,
    bias_NCH: jax.Array,
    visible_BT: jax.Array,
    keys_BNK: jax.Array,
    *,
    rate: float,
    packed: bool,
) -> jax.Array:
    """Returns the context [B, T, N, H]; arguments as in `ptft_jax.models.attention_backends`."""
    batch, tokens, heads, _, size = qkv_BTNCH.shape
    grid, specs = _layout(qkv_BTNCH.shape)
    return launch(
        partial(_forward, rate=rate, packed=packed, tokens=tokens),
        qkv_BTNCH,
        bias_NCH,
        visible_BT,
        keys_BNK,
        name="short_attention_forward",
        grid=grid,
        in_specs=[specs["qkv"], specs["bias"], specs["visible"], specs["keys"]],
        out_specs=specs["context"],
        out_shape=jax.ShapeDtypeStruct((batch, tokens, heads, size), qkv_BTNCH.dtype),
        num_warps=FORWARD_WARPS,
        num_stages=STAGES,
    )


def backward(
    qkv_BTNCH: jax.Array,
    bias_NCH: jax.Array,
    visible_BT: jax.Array,
    keys_BNK: jax.Array,
    g_BTNH: jax.Array,
    *,
    rate: float,
    packed: bool,
) -> jax.Array:
    """Returns the gradient of qkv [B, T, N, 3, H]."""
    tokens = qkv_BTNCH.shape[1]
    grid, specs = _layout(qkv_BTNCH.shape)
    return launch(
        partial(_backward, rate=rate, packed=packed, tokens=tokens),
        qkv_BTNCH,
        bias_NCH,
        visible_BT,
        keys_BNK,
        g_BTNH,
        name="short_attention_backward",
        grid=grid,
        in_specs=[specs[name] for name in ("qkv", "bias", "visible", "keys", "context")],
        out_specs=specs["qkv"],
        out_shape=jax.ShapeDtypeStruct(qkv_BTNCH.shape, qkv_BTNCH.dtype),
        num_warps=BACKWARD_WARPS,
        num_stages=STAGES,
    )


def _layout(shape: tuple[int, ...]) -> tuple[tuple[int, int], dict[str, pl.BlockSpec]]:
    batch, tokens, heads, _, size = shape
    rows = power_of_two(max(tokens, 16))
    group = math.gcd(heads, HEADS_PER_BLOCK)
    return (heads // group, batch), {
        "qkv": pl.BlockSpec((None, rows, group, 3, size), lambda n, b: (b, 0, n, 0, 0)),
        "bias": pl.BlockSpec((group, 3, size), lambda n, b: (n, 0, 0)),
        "visible": pl.BlockSpec((None, rows), lambda n, b: (b, 0)),
        "keys": pl.BlockSpec((None, group, 2), lambda n, b: (b, n, 0)),
        "context": pl.BlockSpec((None, rows, group, size), lambda n, b: (b, 0, n, 0)),
    }


def _real(visible_ref, rows, size, tokens):
    """Returns which rows exist [S, H], None if all do, and the examples' numbers, -1 past them."""
    if rows == tokens:
        return None, visible_ref[...]
    index = jax.lax.broadcasted_iota(jnp.int32, (rows, size), 0)
    visible = plgpu.load(visible_ref, mask=jnp.arange(rows) < tokens, other=-1)
    return index < tokens, visible


def _zero(there):
    return None if there is None else 0.0


def _load(ref, head, part, bias_ref, there):
    """Loads query, key or value of a head [S, H] and adds the bias; rows past the last are 0."""
    bias = bias_ref[head, part, :].astype(jnp.float32)
    x = plgpu.load(ref.at[:, head, jnp.int32(part), :], mask=there, other=_zero(there))
    return (x.astype(jnp.float32) + bias[None, :]).astype(x.dtype)


def _weights(q, k, visible, *, packed):
    """Returns the softmax [S, S] in float32 without its division, and what to multiply it with."""
    scores = mask_scores(plgpu.dot(q, k.T), visible, visible, packed=packed)
    scale = math.log2(math.e) / math.sqrt(q.shape[-1])
    weights = jnp.exp2(scores * scale - (jnp.max(scores, axis=1) * scale)[:, None])
    return weights, (1.0 / jnp.sum(weights, axis=1))[:, None]


def _factors(keys_ref, head, rows, rate):
    """Returns what dropout multiplies the probabilities with; see `long_attention`."""
    index = jnp.arange(rows)
    entries = of_lines(index, keys_ref[head, 0])[:, None] + of_columns(index)[None, :]
    return jnp.where(keep(entries, keys_ref[head, 1], rate), 1.0 / (1.0 - rate), 0.0)


def _forward(qkv_ref, bias_ref, visible_ref, keys_ref, out_ref, *, rate, packed, tokens):
    rows, group, _, size = qkv_ref.shape
    there, visible = _real(visible_ref, rows, size, tokens)

    def one(head, _):
        q, k, v = (_load(qkv_ref, head, part, bias_ref, there) for part in range(3))
        weights, share = _weights(q, k, visible, packed=packed)
        if rate:
            weights *= _factors(keys_ref, head, rows, rate)
        context = plgpu.dot(weights.astype(v.dtype), v) * share
        plgpu.store(out_ref.at[:, head, :], context.astype(out_ref.dtype), mask=there)

    jax.lax.fori_loop(0, group, one, None)


def _backward(qkv_ref, bias_ref, visible_ref, keys_ref, g_ref, out_ref, *, rate, packed, tokens):
    rows, group, _, size = qkv_ref.shape
    there, visible = _real(visible_ref, rows, size, tokens)

    def one(head, _):
        q, k, v = (_load(qkv_ref, head, part, bias_ref, there) for part in range(3))
        g = plgpu.load(g_ref.at[:, head, :], mask=there, other=_zero(there))
        weights, share = _weights(q, k, visible, packed=packed)
        probs = weights * share
        dprobs = plgpu.dot(g, v.T)
        dropped = probs
        if rate:
            factors = _factors(keys_ref, head, rows, rate)
            dropped, dprobs = probs * factors, dprobs * factors
        dv = plgpu.dot(dropped.astype(g.dtype).T, g)
        mean = jnp.sum(probs * dprobs, axis=1)
        ds = (probs * (dprobs - mean[:, None]) * (1.0 / math.sqrt(size))).astype(q.dtype)
        for part, gradient in enumerate((plgpu.dot(ds, k), plgpu.dot(ds.T, q), dv)):
            plgpu.store(
                out_ref.at[:, head, jnp.int32(part), :], gradient.astype(out_ref.dtype), mask=there
            )

    jax.lax.fori_loop(0, group, one, None)
