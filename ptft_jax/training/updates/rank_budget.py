"""AdaLoRA's budget of ranks (Zhang et al. 2023, sections 3.2 and 3.3), as PEFT's `RankAllocator`.

Of all triplets (a column of A, a value of e, a row of B) of all maps those that matter least lose
their value: at first none, at last so many that `rank` a map are left on average.

Shape suffixes: L layers, K rank.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec as P

from ptft_jax.models import partition
from ptft_jax.models.config import AdapterConfig

Params = dict[str, Any]
_BETA_1, _BETA_2 = 0.85, 0.85


class BudgetState(NamedTuple):
    """What the allocation remembers.

    Attributes:
        inner: the state of the transformation inside.
        count: updates made, int32.
        importance, uncertainty: moving averages of |parameter × gradient| and of how far it is from
            its average, float32, in the form of the adapters.
        kept: which values are not held at zero, bool [L, K] by adapter.
    """

    inner: Any
    count: jax.Array
    importance: list[Params]
    uncertainty: list[Params]
    kept: list[jax.Array]


def orthogonal(adapter: AdapterConfig) -> optax.GradientTransformation:
    """Adds the gradient of what keeps A and B orthogonal: the mean over both and all layers of
    ‖AᵀA − I‖ (Frobenius), times `orthogonal_weight` (eq. 4).
    """

    def update(updates: Any, params: Any) -> Any:
        found = _adapters(params)
        weight = adapter.orthogonal_weight / sum(2 * len(own["e"]) for own in found)
        changes = [
            {name: weight * _towards_orthogonal(own[name], name) for name in ("a", "b")}
            for own in found
        ]
        grads = [
            {name: own[name] + change.get(name, 0.0) for name in own}
            for own, change in zip(_adapters(updates), changes, strict=True)
        ]
        return _with_adapters(updates, grads)

    return optax.stateless(update)


def budgeted(
    inner: optax.GradientTransformation, adapter: AdapterConfig, steps: int
) -> optax.GradientTransformation:
    """Returns a transformation that also decides which values are kept.

    Args:
        inner: makes updates of clipped gradients.
        adapter: whose `initial_rank` goes down to `rank`, from `warmup_ratio` of the run to
            `final_ratio` before its end.
        steps: of the run.
    """
    first = int(adapter.warmup_ratio * steps)
    last = max(steps - int(adapter.final_ratio * steps), first + 1)

    def init(params: Any) -> BudgetState:
        found = _adapters(params)
        zeros = jax.tree.map(jnp.zeros_like, found)
        kept = [jnp.ones_like(own["e"], bool) for own in found]
        return BudgetState(inner.init(params), jnp.int32(0), zeros, zeros, kept)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        grads = updates
        made: tuple[Any, Any] = inner.update(grads, state.inner, params)
        updates, after = made
        count, own = state.count + 1, _adapters(params)
        moved = jax.tree.map(lambda p, u: p + u, own, _adapters(updates))
        found = jax.tree.map(lambda p, g: jnp.abs(p * g), moved, _adapters(grads))
        learns = count < last

        def averaged(old: Any, new: Any, beta: float) -> Any:
            return jax.tree.map(
                lambda a, b: jnp.where(learns, beta * a + (1 - beta) * b, a), old, new
            )

        importance = averaged(state.importance, found, _BETA_1)
        distance = jax.tree.map(lambda a, b: jnp.abs(a - b), found, importance)
        uncertainty = averaged(state.uncertainty, distance, _BETA_2)
        scores = [_score(one, other) for one, other in zip(importance, uncertainty, strict=True)]
        ranks = sum(score.size for score in scores)
        target = adapter.rank * ranks // adapter.initial_rank
        left = jnp.clip(1 - (count - first) / (last - first), 0.0, 1.0) ** 3
        dropped = ranks - ((ranks - target) * left + target).astype(jnp.int32)
        ordered = jnp.sort(jnp.concatenate([score.reshape(-1) for score in scores]))
        threshold = ordered[jnp.maximum(dropped - 1, 0)]
        decides = (count > first) & (count <= last) & (dropped > 0)
        kept = [
            jnp.where(decides, score > threshold, before)
            for score, before in zip(scores, state.kept, strict=True)
        ]
        changed = [
            {**change, "e": jnp.where(keep, change["e"], -one["e"])}
            for change, keep, one in zip(_adapters(updates), kept, own, strict=True)
        ]
        state = BudgetState(after, count, importance, uncertainty, kept)
        return _with_adapters(updates, changed), state

    return optax.GradientTransformation(init, update)


def _score(importance: Params, uncertainty: Params) -> jax.Array:
    """Returns how much each triplet matters, [L, K] (eq. 8 to 10)."""
    score = jax.tree.map(lambda a, b: a * b, importance, uncertainty)
    a, b = score["a"], score["b"]
    return (
        score["e"]
        + jnp.mean(a, axis=tuple(range(1, a.ndim - 1)))
        + jnp.mean(b, axis=tuple(range(2, b.ndim)))
    )


def _towards_orthogonal(matrix: jax.Array, name: str) -> jax.Array:
    """Returns the gradient of the sum over layers of ‖MᵀM − I‖, with M's columns the rank."""
    others = "xyz"[: matrix.ndim - 2]
    letters = f"l{others}k" if name == "a" else f"lk{others}"
    split = P() if partition.has_mesh() else None
    again = letters.replace("k", "m")
    square_LKK = jnp.einsum(f"{letters},{again}->lkm", matrix, matrix, out_sharding=split)
    off_LKK = square_LKK - jnp.eye(square_LKK.shape[-1])
    size_L11 = jnp.sqrt(jnp.sum(jnp.square(off_LKK), axis=(1, 2), keepdims=True))
    unit_LKK = 2 * off_LKK / jnp.maximum(size_L11, jnp.finfo(jnp.float32).tiny)
    return jnp.einsum(f"{again},lkm->{letters}", matrix, unit_LKK)


def _adapters(params: Params) -> list[Params]:
    """Returns the parameters of each adapter, in the order of their paths."""
    return list(_found(params))


def _found(params: Params) -> Iterator[Params]:
    for name, value in sorted(params.items()):
        if isinstance(value, dict):
            if name == "adapter":
                yield value
            else:
                yield from _found(value)


def _with_adapters(params: Params, adapters: list[Params]) -> Params:
    """Returns the tree with other adapters, in the order of `_adapters`."""
    left = iter(adapters)

    def put(tree: Params) -> Params:
        new = dict(tree)
        for name, value in sorted(tree.items()):
            if isinstance(value, dict):
                new[name] = next(left) if name == "adapter" else put(value)
        return new

    return put(params)
