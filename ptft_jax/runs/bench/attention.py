"""Attention alone: each backend that can do a request, forward and with its backward pass.

Shape suffixes: B rows, T tokens, N heads, C query, key and value, H head size, K words of a key.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ptft_jax.data.progress import Progress, no_progress
from ptft_jax.models import attention as backends
from ptft_jax.models.dropout import fold_rows, row_keys
from ptft_jax.models.partition import current_device
from ptft_jax.runs.bench.rounds import repeated, spread, take_turns


@dataclasses.dataclass(frozen=True)
class Shape:
    """What is asked of the backends; `segments` examples of equal length share a row."""

    batch: int
    tokens: int
    heads: int
    head_size: int
    dtype: str
    dropout: float
    segments: int


def measure(
    shape: Shape, *, rounds: int, calls: int, progress: Progress = no_progress
) -> dict[str, Any]:
    """Measures rounds of calls, each after one that is not timed, all backends in turn.

    Returns:
        JSON values: the figures of each backend and pass, and why others cannot do it. FLOPs are
        those of two products of [T, T] forward and four backward, segments not counted out.
    """
    request = backends.Request(
        dtype=shape.dtype,
        head_size=shape.head_size,
        tokens=shape.tokens,
        packed=shape.segments > 1,
        dropout=shape.dropout,
    )
    refused, sides, factors = {}, {}, {}
    for name in backends.BACKENDS:
        reason = backends.refusal(name, request, current_device())
        if reason is not None:
            refused[name] = reason
            continue
        progress(f"{name}: compiling", 0, 1)
        forward, backward = _passes(name, shape)
        for kind, call, factor in (("forward", forward, 1), ("forward + backward", backward, 3)):
            jax.block_until_ready(call())
            sides[f"{name}, {kind}"] = repeated(call, calls, jax.block_until_ready)
            factors[f"{name}, {kind}"] = factor
        progress(f"{name}: compiling", 1, 1)
    flops = 4 * shape.batch * shape.heads * shape.tokens**2 * shape.head_size
    figures = {}
    for name, seconds in take_turns(sides, rounds, progress).items():
        taken = spread([1e3 * one / calls for one in seconds])
        tflops = factors[name] * flops / taken["median"] / 1e9
        figures[name] = {"seconds": seconds, "call_ms": taken, "tflops": tflops}
    return {
        "shape": dataclasses.asdict(shape),
        "rounds": rounds,
        "calls": calls,
        "sides": figures,
        "refused": refused,
    }


def _passes(name: str, shape: Shape) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Returns a backend going forward, and with its backward pass."""
    rng = np.random.default_rng(0)
    size = (shape.batch, shape.tokens, shape.heads, 3, shape.head_size)
    qkv_BTNCH = jnp.asarray(rng.standard_normal(size, np.float32), shape.dtype)
    bias_NCH = jnp.zeros(size[2:], jnp.float32)
    weight_BTNH = jnp.asarray(
        rng.standard_normal((*size[:3], shape.head_size), np.float32), shape.dtype
    )
    segment_T = 1 + np.arange(shape.tokens) * shape.segments // shape.tokens
    visible_BT = jnp.asarray(np.tile(segment_T.astype(np.int32), (shape.batch, 1)))
    keys_BNK = None
    if shape.dropout:
        keys_BK = row_keys(0, jnp.int32(0), shape.batch)
        keys_BNK = fold_rows(keys_BK[:, None], jnp.arange(shape.heads))
    options = {"rate": shape.dropout, "packed": shape.segments > 1}

    def attend(qkv_BTNCH: jax.Array, bias_NCH: jax.Array) -> jax.Array:
        return backends.attend(name, qkv_BTNCH, bias_NCH, visible_BT, keys_BNK, **options)

    def weighted(qkv_BTNCH: jax.Array, bias_NCH: jax.Array) -> jax.Array:
        return jnp.sum((attend(qkv_BTNCH, bias_NCH) * weight_BTNH).astype(jnp.float32))

    forward, backward = jax.jit(attend), jax.jit(jax.grad(weighted, argnums=(0, 1)))
    return lambda: forward(qkv_BTNCH, bias_NCH), lambda: backward(qkv_BTNCH, bias_NCH)
