"""Mixup of hidden states: a classifier learns from vectors between two texts (Verma et al. 2019).

The pooled vectors of two examples are mixed, and so are their labels ("senMixup" of Guo et al.
2019). The other example is the next one in the same packed row, so that neither a mesh nor
micro-batches change which two are mixed, and no text is encoded twice.

Shape suffixes: B batch, P pooled positions, D hidden.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ptft_jax.models.build import Batch, Encoder, take_positions
from ptft_jax.models.dropout import RowKeys
from ptft_jax.objectives.classification import ClassificationObjective
from ptft_jax.objectives.totals import Totals, head_keys


@dataclasses.dataclass(frozen=True)
class Mixup:
    """The loss of mixed examples; evaluation is the task's own.

    Attributes:
        task: the objective of the examples.
        alpha: each example's share in its mixture, the other one's is the rest, comes from
            Beta(alpha, alpha): `data.tasks.training.shares.WithShares` draws it.
    """

    task: ClassificationObjective
    alpha: float = 0.4

    def weights(self, batch: Batch) -> dict[str, Float[Array, ""]]:
        """Returns those of the task."""
        return self.task.weights(batch)

    def __call__(self, encoder: Encoder, batch: Batch, *, keys: RowKeys) -> Totals:
        """Returns the sums over a batch, which has `shares`, float32 [B, P]; see `Objective`.

        The loss is that against either label, by their shares; for a score the gradient is that of
        the mixed score.
        """
        if keys is None:
            return self.task(encoder, batch, keys=None)
        share_BP, next_BP = batch["shares"], following(batch)
        hidden_BTD = encoder.last_hidden_state(batch, keys)
        pooled_BPD = encoder.pooled(hidden_BTD, batch["pooled_positions"])
        share_BP1 = share_BP[:, :, None]
        other_BPD = take_positions(pooled_BPD, next_BP)
        mixed_BPD = share_BP1 * pooled_BPD + (1 - share_BP1) * other_BPD
        logits_BPK = encoder.logits(
            "classification", mixed_BPD.astype(pooled_BPD.dtype), head_keys(keys)
        )
        labels = batch["labels"]
        places = next_BP if labels.ndim == 2 else next_BP[:, :, None]
        others = jnp.take_along_axis(labels, places, axis=1)
        found = [
            self.task.totals(
                logits_BPK, {**batch, "labels": of, "weights": batch["weights"] * part}
            )
            for of, part in ((labels, share_BP), (others, 1 - share_BP))
        ]
        totals = jax.tree.map(lambda one, other: one + other, *found)
        return totals._replace(weight=self.weights(batch))


def following(batch: Batch) -> Int[Array, "B P"]:
    """Returns the place of the next example in each row, int32; that of the last one is the first.

    An example that is alone in its row is mixed with itself.
    """
    is_real_BP = batch["weights"] > 0
    count_B1 = jnp.sum(is_real_BP, axis=1, keepdims=True, dtype=jnp.int32)
    place_BP = jnp.cumsum(jnp.ones_like(batch["weights"], jnp.int32), axis=1) - 1
    next_BP = jnp.where(place_BP + 1 < count_B1, place_BP + 1, 0)
    return jnp.where(is_real_BP, next_BP, place_BP)
