"""What an objective returns: sums only, so that any split of a batch adds up to the same number."""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
from jaxtyping import Array, Float

from ptft_jax.models.build import Batch, Encoder
from ptft_jax.models.dropout import RowKeys, fold_rows
from ptft_jax.objectives.classes import divergence

# Row keys are folded with this before the dropout of a head; the encoder folds 0 … L.
_HEAD_SITE = 1 << 16


class Totals(NamedTuple):
    """Sums over the rows of a batch or micro-batch; divided once, after the last sum.

    Attributes:
        loss: summed loss of each term, float32 scalars.
        weight: what to divide each term's loss by; same keys as `loss`. The training loss is
            the sum over terms of loss / weight.
        metrics: pairs (sum, count), each a float32 scalar, reported as sum / count.
    """

    loss: dict[str, Float[Array, ""]]
    weight: dict[str, Float[Array, ""]]
    metrics: dict[str, tuple[Float[Array, ""], Float[Array, ""]]]


@runtime_checkable
class Objective(Protocol):
    """A training objective over batches of one form."""

    def weights(self, batch: Batch) -> dict[str, Float[Array, ""]]:
        """Returns `Totals.weight` from the batch alone.

        The step needs it over the whole batch before it takes the gradient of a part: with two
        terms of different weights, gradients of parts cannot be divided afterwards.
        """
        ...

    def __call__(self, encoder: Encoder, batch: Batch, *, keys: RowKeys) -> Totals:
        """Returns the sums over the batch's rows; `keys` None means evaluation (no dropout)."""
        ...


class ScoringObjective(Objective, Protocol):
    """An objective whose outputs are compared with labels on the host."""

    def outputs(self, encoder: Encoder, batch: Batch) -> dict[str, jax.Array]:
        """Returns arrays [B, …] by name, without dropout."""
        ...


@runtime_checkable
class LogitsObjective(Objective, Protocol):
    """An objective of which logits, those of all positions, give loss and outputs."""

    def logits(self, encoder: Encoder, batch: Batch, keys: RowKeys = None) -> Any:
        """Returns the float32 logits; `keys` None turns dropout off."""
        ...

    def totals(self, logits: Any, batch: Batch) -> Totals:
        """Returns the sums over the batch's rows."""
        ...

    def counts(self, batch: Batch) -> Float[Array, "B M"]:
        """Returns how much each position counts, whatever its class: 0 where there is none."""
        ...

    def divergences(self, logits: Any, others: Any) -> Float[Array, "B M"]:
        """Returns KL(p‖q) of the distributions that two arrays of logits stand for, at each
        position.
        """
        ...

    def __call__(self, encoder: Encoder, batch: Batch, *, keys: RowKeys) -> Totals:
        return self.totals(self.logits(encoder, batch, keys), batch)


@runtime_checkable
class CoupledObjective(Objective, Protocol):
    """An objective whose loss is one of all examples of a batch, by way of vectors of each.

    A micro-batch alone does not have it: it is given `losses`, its examples' parts of the loss, and
    `cotangents`, the derivative of the whole loss by its vectors; see `training.coupled`.
    """

    def vectors(self, encoder: Encoder, batch: Batch, keys: RowKeys) -> Float[Array, "B P C D"]:
        """Returns the vectors of each example."""
        ...

    def coupled(self, vectors: Float[Array, "*R P C D"], batch: Batch) -> Float[Array, "*R P"]:
        """Returns each example's part of the loss, from the vectors of all."""
        ...


def coupled_loss(objective: CoupledObjective, vectors: jax.Array, batch: Batch) -> jax.Array:
    """Returns the summed loss of a batch's vectors, or of those of a micro-batch.

    The latter is a constant to which each vector adds what moves it as its cotangent says.
    """
    if "cotangents" not in batch:
        return jax.numpy.sum(objective.coupled(vectors, batch))
    moved = jax.numpy.sum(vectors * batch["cotangents"])
    return jax.numpy.sum(batch["losses"]) + moved - jax.lax.stop_gradient(moved)


class TaskObjective(LogitsObjective, ScoringObjective, Protocol):
    """An objective of a task that models are fine-tuned on: of classes, unless it says otherwise.

    What is in a batch is in docs/architecture.md.
    """

    def counts(self, batch: Batch) -> Float[Array, "B M"]:
        """Returns 1 for each real example."""
        return batch["weights"]

    def divergences(self, logits: Any, others: Any) -> Float[Array, "B M"]:
        """Returns KL(p‖q) of two distributions over classes."""
        return divergence(logits, others)

    def outputs(self, encoder: Encoder, batch: Batch) -> dict[str, jax.Array]:
        """Returns the `logits`."""
        return {"logits": self.logits(encoder, batch)}


def head_keys(keys: RowKeys) -> RowKeys:
    """Returns the row keys for the dropout of a head."""
    return fold_rows(keys, _HEAD_SITE)


def add(a: Any, b: Any) -> Any:
    """Adds two trees of sums."""
    return jax.tree.map(lambda x, y: x + y, a, b)


def loss_of(totals: Totals, weight: dict[str, Any]) -> Any:
    """Returns the sum over terms of loss / weight; a term without weight counts nothing.

    Args:
        totals: sums over all or part of a batch.
        weight: each term's weight over the whole batch.
    """
    # Weights of classes may add up to very little.
    least = jax.numpy.finfo(jax.numpy.float32).tiny
    return sum(totals.loss[term] / jax.numpy.maximum(weight[term], least) for term in totals.loss)
