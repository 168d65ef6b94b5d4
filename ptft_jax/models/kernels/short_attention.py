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

from ptft_jax.models.kernels.launch import launch, power_of_two
from ptft_jax.models.kernels.scores import dropout_factors, mask_scores

# Four warps took 1.2 and 4.3 times as long on an H200, several heads in turn 1.6 and 1.1 times.
_WARPS = 8


def forward(
    qkv_BTNCH: jax.Array,
    bias_NCH: jax.Array,
    visible_BT: jax.Array,
    keys_BNK: jax.Array,
    *,
    rate: float,
    packed: bool,
) -> jax.Array:
    """Returns the context [B, T, N, H]; arguments as in `ptft_jax.models.attention`."""
    batch, tokens, heads, _, size = qkv_BTNCH.shape
    inputs, context, _ = _specs(tokens, size)
    return launch(
        partial(_forward, rate=rate, packed=packed, tokens=tokens),
        *(qkv_BTNCH,) * 3,
        bias_NCH,
        visible_BT,
        keys_BNK,
        name="short_attention_forward",
        grid=(heads, batch),
        in_specs=inputs,
        out_specs=context,
        out_shape=jax.ShapeDtypeStruct((batch, tokens, heads, size), qkv_BTNCH.dtype),
        num_warps=_WARPS,
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
    batch, tokens, heads, _, size = qkv_BTNCH.shape
    inputs, context, qkv = _specs(tokens, size)
    return launch(
        partial(_backward, rate=rate, packed=packed, tokens=tokens),
        *(qkv_BTNCH,) * 3,
        bias_NCH,
        visible_BT,
        keys_BNK,
        g_BTNH,
        name="short_attention_backward",
        grid=(heads, batch),
        in_specs=[*inputs, context],
        out_specs=qkv,
        out_shape=jax.ShapeDtypeStruct(qkv_BTNCH.shape, qkv_BTNCH.dtype),
        num_warps=_WARPS,
    )


def _specs(tokens: int, size: int) -> tuple[list[pl.BlockSpec], pl.BlockSpec, pl.BlockSpec]:
    """Returns the blocks of the inputs, of an array like the context, and of one like qkv."""
    rows = power_of_two(max(tokens, 16))

    def part(number: int) -> pl.BlockSpec:
        return pl.BlockSpec((None, rows, None, None, size), lambda n, b: (b, 0, n, number, 0))

    inputs = [
        *(part(number) for number in range(3)),
        pl.BlockSpec((None, 3, size), lambda n, b: (n, 0, 0)),
        pl.BlockSpec((None, rows), lambda n, b: (b, 0)),
        pl.BlockSpec((None, None, 2), lambda n, b: (b, n, 0)),
    ]
    context = pl.BlockSpec((None, rows, None, size), lambda n, b: (b, 0, n, 0))
    return inputs, context, pl.BlockSpec((None, rows, None, 3, size), lambda n, b: (b, 0, n, 0, 0))


def _there(rows, size, tokens):
    """Returns which rows of a block exist [S, H], None if all do."""
    if rows == tokens:
        return None
    return jax.lax.broadcasted_iota(jnp.int32, (rows, size), 0) < tokens


def _load(ref, there):
    return plgpu.load(ref, mask=there, other=None if there is None else 0.0)


def _inputs(q_ref, k_ref, v_ref, bias_ref, visible_ref, there, tokens):
    """Returns query, key and value [S, H] with their biases, and the examples' numbers [S]."""
    parts = []
    for number, ref in enumerate((q_ref, k_ref, v_ref)):
        x = _load(ref, there).astype(jnp.float32) + bias_ref[number, :][None, :]
        parts.append(x.astype(ref.dtype))
    if there is None:
        return *parts, visible_ref[...]
    real = jnp.arange(visible_ref.shape[0]) < tokens
    return *parts, plgpu.load(visible_ref, mask=real, other=-1)


def _weights(q, k, visible, *, packed):
    """Returns the softmax [S, S] in float32 without its division, and what to multiply it with."""
    scores = mask_scores(plgpu.dot(q, k.T), visible, visible, packed=packed)
    scale = math.log2(math.e) / math.sqrt(q.shape[-1])
    weights = jnp.exp2((scores - jnp.max(scores, axis=1)[:, None]) * scale)
    return weights, (1.0 / jnp.sum(weights, axis=1))[:, None]


def _forward(
    q_ref, k_ref, v_ref, bias_ref, visible_ref, keys_ref, out_ref, *, rate, packed, tokens
):  # fmt: skip
    rows, size = q_ref.shape
    there = _there(rows, size, tokens)
    q, k, v, visible = _inputs(q_ref, k_ref, v_ref, bias_ref, visible_ref, there, tokens)
    weights, share = _weights(q, k, visible, packed=packed)
    if rate:
        weights *= dropout_factors(keys_ref, jnp.arange(rows), jnp.arange(rows), rate)
    context = plgpu.dot(weights.astype(v.dtype), v) * share
    plgpu.store(out_ref, context.astype(out_ref.dtype), mask=there)


def _backward(
    q_ref, k_ref, v_ref, bias_ref, visible_ref, keys_ref, g_ref, out_ref, *, rate, packed, tokens
):  # fmt: skip
    rows, size = q_ref.shape
    there = _there(rows, size, tokens)
    q, k, v, visible = _inputs(q_ref, k_ref, v_ref, bias_ref, visible_ref, there, tokens)
    g = _load(g_ref, there)
    weights, share = _weights(q, k, visible, packed=packed)
    probs = dropped = weights * share
    dprobs = plgpu.dot(g, v.T)
    if rate:
        factors = dropout_factors(keys_ref, jnp.arange(rows), jnp.arange(rows), rate)
        dropped, dprobs = probs * factors, dprobs * factors
    dv = plgpu.dot(dropped.astype(g.dtype).T, g)
    mean = jnp.sum(probs * dprobs, axis=1)
    dscores = (probs * (dprobs - mean[:, None]) * (1.0 / math.sqrt(size))).astype(q.dtype)
    for number, gradient in enumerate((plgpu.dot(dscores, k), plgpu.dot(dscores.T, q), dv)):
        # An index of JAX's: masked stores take no Python number in interpret mode (jax 0.12.0).
        out = out_ref.at[:, jnp.int32(number), :]
        plgpu.store(out, gradient.astype(out_ref.dtype), mask=there)
