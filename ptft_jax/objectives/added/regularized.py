"""Losses that keep a model from learning a small data set by heart, around the loss of a task.

Each takes further passes through the model in training; evaluation is the task's own. Divergences
are taken at real positions only, in float32.

Shape suffixes: B batch, T tokens, S tokens, too, D hidden.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ptft_jax.errors import ConfigError
from ptft_jax.models.build import Batch, Encoder
from ptft_jax.models.dropout import RowKeys, fold_rows
from ptft_jax.objectives.added.mixup import Mixup
from ptft_jax.objectives.totals import LogitsObjective, Objective, Totals

# Row keys are folded with these for a second pass and for noise; see `totals.head_keys`.
_SECOND_SITE, _NOISE_SITE = (1 << 16) + 1, (1 << 16) + 2


@dataclasses.dataclass(frozen=True)
class RDrop:
    """R-Drop (Wu et al. 2021): two passes with different dropout masks have to agree.

    The loss is the mean of both, and `weight` times (KL(p‖q) + KL(q‖p)) / 2 of their outputs p and
    q; of values half the squared difference.
    """

    task: LogitsObjective
    weight: float = 1.0

    def weights(self, batch: Batch) -> dict[str, Float[Array, ""]]:
        """Returns those of the task, and the number of real positions."""
        return _divergence_weights(self.task, batch)

    def __call__(self, encoder: Encoder, batch: Batch, *, keys: RowKeys) -> Totals:
        """Returns the sums over a batch; see `Objective`."""
        if keys is None:
            return self.task(encoder, batch, keys=None)
        passes = (keys, second_keys(keys))
        logits, others = (self.task.logits(encoder, batch, one) for one in passes)
        both = [self.task.totals(one, batch) for one in (logits, others)]
        totals = jax.tree.map(lambda a, b: (a + b) / 2, *both)
        divergence = _divergence(self.task, logits, others, batch) / 2
        return _with_divergence(self.task, totals, divergence, self.weight, batch)


@dataclasses.dataclass(frozen=True)
class FastGradient:
    """FGM (Miyato et al. 2017): the loss, and `weight` times that of disturbed word embeddings.

    The embeddings of a text are moved together by `epsilon` (their Euclidean norm) in the direction
    in which its loss grows fastest. Both passes have the same dropout masks.
    """

    task: LogitsObjective
    weight: float = 1.0
    epsilon: float = 0.5

    def weights(self, batch: Batch) -> dict[str, Float[Array, ""]]:
        """Returns those of the task, once for each pass."""
        weights = self.task.weights(batch)
        return weights | {f"adversarial_{term}": weight for term, weight in weights.items()}

    def __call__(self, encoder: Encoder, batch: Batch, *, keys: RowKeys) -> Totals:
        """Returns the sums over a batch; see `Objective`."""
        totals = self.task(encoder, batch, keys=keys)
        if keys is None:
            return totals
        fixed = encoder.without_gradient()

        def loss(shift_BTD: jax.Array) -> jax.Array:
            moved = self.task(fixed, batch | {"embedding_shift": shift_BTD}, keys=keys)
            return sum(moved.loss.values(), start=jnp.zeros(()))

        gradient_BTD = jax.grad(loss)(encoder.no_shift(batch))
        squares_BT = jnp.sum(jnp.square(gradient_BTD), axis=-1)
        norm_BT = jnp.sqrt(jnp.sum(_of_own_text(squares_BT, batch), axis=-1))
        shift_BTD = self.epsilon * _divided(gradient_BTD, norm_BT)
        moved = self.task(encoder, batch | {"embedding_shift": shift_BTD}, keys=keys)
        more = {f"adversarial_{term}": self.weight * loss for term, loss in moved.loss.items()}
        return Totals(totals.loss | more, self.weights(batch), totals.metrics)


@dataclasses.dataclass(frozen=True)
class Smart:
    """SMART (Jiang et al. 2020, section 3.1): outputs change little where embeddings change little.

    To the loss comes `weight` times KL(p‖q) + KL(q‖p) (of values the squared difference) of the
    outputs p and those q of disturbed word embeddings. What disturbs them is normal noise of
    standard deviation `epsilon`, moved by one step up the gradient of that divergence (its largest
    entry in a text is `step_size`), and cut to entries from -`epsilon` to `epsilon`. All passes
    have the same dropout masks.
    """

    task: LogitsObjective
    weight: float = 1.0
    epsilon: float = 1e-3
    step_size: float = 0.1

    def weights(self, batch: Batch) -> dict[str, Float[Array, ""]]:
        """Returns those of the task, and the number of real positions."""
        return _divergence_weights(self.task, batch)

    def __call__(self, encoder: Encoder, batch: Batch, *, keys: RowKeys) -> Totals:
        """Returns the sums over a batch; see `Objective`."""
        logits = self.task.logits(encoder, batch, keys)
        totals = self.task.totals(logits, batch)
        if keys is None:
            return totals
        fixed = encoder.without_gradient()

        def moved_by(shift_BTD: jax.Array, encoder: Encoder) -> jax.Array:
            return self.task.logits(encoder, batch | {"embedding_shift": shift_BTD}, keys)

        def divergence(shift_BTD: jax.Array) -> jax.Array:
            unmoved = jax.lax.stop_gradient(logits)
            return _divergence(self.task, moved_by(shift_BTD, fixed), unmoved, batch)

        noise_BTD = self.epsilon * noise(keys, encoder.no_shift(batch))
        gradient_BTD = jax.grad(divergence)(noise_BTD)
        largest_BT = jnp.max(jnp.abs(gradient_BTD), axis=-1)
        largest_BT = jnp.max(_of_own_text(largest_BT, batch), axis=-1)
        shift_BTD = noise_BTD + self.step_size * _divided(gradient_BTD, largest_BT)
        shift_BTD = jnp.clip(shift_BTD, -self.epsilon, self.epsilon)
        added = _divergence(self.task, moved_by(shift_BTD, encoder), logits, batch)
        return _with_divergence(self.task, totals, added, self.weight, batch)


REGULARIZERS = {"r_drop": RDrop, "fgm": FastGradient, "smart": Smart, "mixup": Mixup}


def regularizer_settings(name: str, given: Mapping[str, float | None]) -> dict[str, float]:
    """Returns the settings of a regularizer: those given, and its own for those that are None.

    Raises:
        ConfigError: there is no such regularizer, it has no such setting, or a value cannot be.
    """
    chosen = {key: value for key, value in given.items() if value is not None}
    if name and name not in REGULARIZERS:
        raise ConfigError(
            f"--config.regularizer.name={name!r}: expected one of {', '.join(REGULARIZERS)}, or "
            "nothing for none."
        )
    fields = dataclasses.fields(REGULARIZERS[name]) if name else ()
    known: dict[str, Any] = {field.name: field.default for field in fields if field.name != "task"}
    for key, value in chosen.items():
        if key not in known:
            has = f"{name} has {', '.join(known)}" if name else "there is no regularizer.name"
            raise ConfigError(f"--config.regularizer.{key}={value}: {has}; leave it out.")
        if not (0 < value < math.inf or (key == "weight" and value == 0)):
            least = "of at least 0" if key == "weight" else "above 0"
            raise ConfigError(
                f"--config.regularizer.{key}={value}: expected a finite number {least}."
            )
    return known | chosen


def regularized(task: Any, name: str, settings: Mapping[str, Any]) -> Objective:
    """Returns the objective of a task under a regularizer; "" is none."""
    return REGULARIZERS[name](task, **settings) if name else task


def second_keys(keys: RowKeys) -> RowKeys:
    """Returns the row keys for the dropout of a second pass."""
    return fold_rows(keys, _SECOND_SITE)


def noise(keys: RowKeys, like_BTD: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
    """Returns standard normal noise in the layout of `like_BTD`, of each row by its own key."""
    words_BK = fold_rows(keys, _NOISE_SITE)
    assert words_BK is not None
    keys_B = jax.random.wrap_key_data(words_BK, impl="threefry2x32")
    return jax.vmap(lambda key, row: jax.random.normal(key, row.shape))(keys_B, like_BTD)


def _divergence(task: LogitsObjective, logits: jax.Array, others: jax.Array, batch: Batch) -> Any:
    apart = task.divergences(logits, others) + task.divergences(others, logits)
    return jnp.sum(apart * task.counts(batch))


def _divergence_weights(task: LogitsObjective, batch: Batch) -> dict[str, Float[Array, ""]]:
    return task.weights(batch) | {"divergence": jnp.sum(task.counts(batch))}


def _with_divergence(
    task: LogitsObjective, totals: Totals, divergence: jax.Array, weight: float, batch: Batch
) -> Totals:
    weights = _divergence_weights(task, batch)
    return Totals(
        totals.loss | {"divergence": weight * divergence},
        weights,
        totals.metrics | {"divergence": (divergence, weights["divergence"])},
    )


def _of_own_text(values_BT: Float[Array, "B T"], batch: Batch) -> Float[Array, "B T S"]:
    """Returns for each token the values of the tokens of its text, and 0 for those of others."""
    texts_BT = batch.get("segment_ids", batch["attention_mask"])
    return jnp.where(texts_BT[:, :, None] == texts_BT[:, None, :], values_BT[:, None, :], 0.0)


def _divided(gradient_BTD: jax.Array, size_BT: jax.Array) -> jax.Array:
    """Returns a gradient in units of its size; 0, without a gradient of its own, where it is 0."""
    size_BT1 = size_BT[:, :, None]
    found = gradient_BTD / jnp.where(size_BT1 > 0, size_BT1, 1.0)
    return jax.lax.stop_gradient(found)
