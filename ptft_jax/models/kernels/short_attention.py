"""Self-attention of rows of up to 128 tokens: a whole row and head in one block, both ways.

The softmax of a row is there at once, so the forward pass keeps nothing but its input, and the
backward pass takes five products. Query, key and value come without their biases, which are added
on the way in; the biases' gradients are summed over tokens on the way out.

Shape suffixes: B batch, T tokens, N heads, C query, key and value (3), H head size. S is T padded
to a power of two.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from ptft_jax.models.dropout import keep, spread
from ptft_jax.models.kernels.launch import launch, power_of_two

MAX_TOKENS = 128
# Measured on an H200 (docs/performance.md).
HEADS_PER_BLOCK = 1
FORWARD_WARPS, BACKWARD_WARPS = 4, 8
STAGES = 1

_LOWEST = -1e30  # finite, so that a masked score less a row's highest is no NaN


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
) -> tuple[jax.Array, jax.Array]:
    """Returns the gradients of qkv [B, T, N, 3, H] and, by row, of its biases [B, N, 3, H]."""
    batch, tokens, heads, _, size = qkv_BTNCH.shape
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
        out_specs=[specs["qkv"], specs["sums"]],
        out_shape=[
            jax.ShapeDtypeStruct(qkv_BTNCH.shape, qkv_BTNCH.dtype),
            jax.ShapeDtypeStruct((batch, heads, 3, size), jnp.float32),
        ],
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
        "sums": pl.BlockSpec((None, group, 3, size), lambda n, b: (b, n, 0, 0)),
    }


def _load(ref, head, part, bias_ref, there):
    """Loads query, key or value of a head [S, H] and adds the bias; rows past the last are 0."""
    bias = bias_ref[head, part, :].astype(jnp.float32)
    x = plgpu.load(ref.at[:, head, jnp.int32(part), :], mask=there, other=0.0)
    return (x.astype(jnp.float32) + bias[None, :]).astype(x.dtype)


def _probabilities(q, k, visible, *, packed):
    """Returns the softmax [S, S] in float32."""
    scores = plgpu.dot(q, k.T) * (math.log2(math.e) / math.sqrt(q.shape[-1]))
    allowed = visible[None, :] > 0
    if packed:
        allowed &= visible[:, None] == visible[None, :]
    scores = jnp.where(allowed, scores, _LOWEST)
    weights = jnp.exp2(scores - jnp.max(scores, axis=1)[:, None])
    return weights * (1.0 / jnp.sum(weights, axis=1))[:, None]


def _kept(keys_ref, head, size, tokens, rate):
    rows = jax.lax.broadcasted_iota(jnp.uint32, (size, 1), 0)
    columns = jax.lax.broadcasted_iota(jnp.uint32, (1, size), 1)
    position = spread(rows * jnp.uint32(tokens)) + spread(columns)
    return keep(position, keys_ref[head, 0], keys_ref[head, 1], rate)


def _forward(qkv_ref, bias_ref, visible_ref, keys_ref, out_ref, *, rate, packed, tokens):
    rows, group, _, size = qkv_ref.shape
    index = jax.lax.broadcasted_iota(jnp.int32, (rows, 1), 0)
    there = jnp.broadcast_to(index < tokens, (rows, size))
    visible = plgpu.load(visible_ref, mask=jnp.arange(rows) < tokens, other=-1)

    def one(head, _):
        q, k, v = (_load(qkv_ref, head, part, bias_ref, there) for part in range(3))
        probs = _probabilities(q, k, visible, packed=packed)
        if rate:
            probs = jnp.where(_kept(keys_ref, head, rows, tokens, rate), probs, 0.0)
        context = plgpu.dot(probs.astype(v.dtype), v) * (1.0 / (1.0 - rate))
        plgpu.store(out_ref.at[:, head, :], context.astype(out_ref.dtype), mask=there)

    jax.lax.fori_loop(0, group, one, None)


def _backward(
    qkv_ref, bias_ref, visible_ref, keys_ref, g_ref, out_ref, sums_ref, *, rate, packed, tokens
):
    rows, group, _, size = qkv_ref.shape
    index = jax.lax.broadcasted_iota(jnp.int32, (rows, 1), 0)
    there = jnp.broadcast_to(index < tokens, (rows, size))
    visible = plgpu.load(visible_ref, mask=jnp.arange(rows) < tokens, other=-1)

    def one(head, _):
        q, k, v = (_load(qkv_ref, head, part, bias_ref, there) for part in range(3))
        g = plgpu.load(g_ref.at[:, head, :], mask=there, other=0.0)
        probs = _probabilities(q, k, visible, packed=packed)
        dprobs = plgpu.dot(g, v.T)
        dropped = probs
        if rate:
            scale = jnp.where(_kept(keys_ref, head, rows, tokens, rate), 1.0 / (1.0 - rate), 0.0)
            dropped, dprobs = probs * scale, dprobs * scale
        dv = plgpu.dot(dropped.astype(g.dtype).T, g)
        mean = jnp.sum(probs * dprobs, axis=1)
        ds = (probs * (dprobs - mean[:, None]) * (1.0 / math.sqrt(size))).astype(q.dtype)
        for part, gradient in enumerate((plgpu.dot(ds, k), plgpu.dot(ds.T, q), dv)):
            plgpu.store(
                out_ref.at[:, head, jnp.int32(part), :], gradient.astype(out_ref.dtype), mask=there
            )
            sums_ref[head, part, :] = jnp.sum(jnp.where(there, gradient, 0.0), axis=0)

    jax.lax.fori_loop(0, group, one, None)
