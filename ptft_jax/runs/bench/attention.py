"""Attention alone: each backend that can do a request, forward and with its backward pass.

Shape suffixes: B rows, T tokens, N heads, C query, key and value, H head size, K words of a key.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ptft_jax.data.progress import Progress, no_progress
from ptft_jax.models import attention as backends
from ptft_jax.models.dropout import fold_rows, row_keys
from ptft_jax.models.partition import current_device
from ptft_jax.runs.bench.rounds import Spread, take_turns

PASSES = ("forward", "forward + backward")


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
    device = current_device()
    request = backends.Request(
        dtype=shape.dtype,
        head_size=shape.head_size,
        tokens=shape.tokens,
        packed=shape.segments > 1,
        dropout=shape.dropout,
    )
    refused, sides = {}, {}
    for name in backends.BACKENDS:
        reason = backends.refusal(name, request, device)
        if reason is not None:
            refused[name] = reason
            continue
        progress(f"{name}: compiling", 0, 1)
        for kind, call in _calls(name, shape).items():
            sides[f"{name}, {kind}"] = _round(call, calls)
        progress(f"{name}: compiling", 1, 1)
    found = take_turns(sides, rounds, progress)
    flops = 4 * shape.batch * shape.heads * shape.tokens**2 * shape.head_size
    figures = {}
    for name, seconds in found.items():
        spread = Spread.of([1e3 * one / calls for one in seconds])
        factor = 1 if name.endswith(f", {PASSES[0]}") else 3
        figures[name] = {
            "seconds": seconds,
            "call_ms": dataclasses.asdict(spread),
            "tflops": factor * flops / spread.median / 1e9,
        }
    return {
        "shape": dataclasses.asdict(shape),
        "rounds": rounds,
        "calls": calls,
        "sides": figures,
        "refused": refused,
    }


def _calls(name: str, shape: Shape) -> dict[str, Callable[[], Any]]:
    """Returns the passes of a backend, compiled."""
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

    def attend(qkv_BTNCH: jax.Array, bias_NCH: jax.Array) -> jax.Array:
        return backends.attend(
            name,
            qkv_BTNCH,
            bias_NCH,
            visible_BT,
            keys_BNK,
            rate=shape.dropout,
            packed=shape.segments > 1,
        )

    def weighted(qkv_BTNCH: jax.Array, bias_NCH: jax.Array) -> jax.Array:
        return jnp.sum((attend(qkv_BTNCH, bias_NCH) * weight_BTNH).astype(jnp.float32))

    forward, backward = jax.jit(attend), jax.jit(jax.grad(weighted, argnums=(0, 1)))
    calls = {PASSES[0]: forward, PASSES[1]: backward}
    for call in calls.values():
        jax.block_until_ready(call(qkv_BTNCH, bias_NCH))
    return {kind: lambda call=call: call(qkv_BTNCH, bias_NCH) for kind, call in calls.items()}


def _round(call: Callable[[], Any], calls: int) -> Callable[[], float]:
    def make_round() -> float:
        jax.block_until_ready(call())
        began = time.perf_counter()
        jax.block_until_ready([call() for _ in range(calls)])
        return time.perf_counter() - began

    return make_round
