"""A label for each word, read at its tokens (Devlin et al. 2019, section 5.3).

Shape suffixes: B batch, T tokens, D hidden, K labels.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ptft_jax.models.build import Batch, Encoder
from ptft_jax.models.dropout import RowKeys
from ptft_jax.objectives.classes import ClassLoss
from ptft_jax.objectives.totals import TaskObjective, Totals, head_keys


@dataclasses.dataclass(frozen=True)
class TaggingObjective(TaskObjective):
    """The mean cross-entropy over labelled tokens (HF `BertForTokenClassification`).

    Attributes:
        class_weights, label_smoothing: as in `ClassLoss`.
    """

    class_weights: tuple[float, ...] | None = None
    label_smoothing: float = 0.0

    def weights(self, batch: Batch) -> dict[str, Float[Array, ""]]:
        """Returns the number of labelled tokens, or the sum of the weights of their classes."""
        return {"tagging": self._class_loss.weight(batch["labels"], batch["label_weights"])}

    @property
    def _class_loss(self) -> ClassLoss:
        return ClassLoss(self.class_weights, self.label_smoothing)

    def logits(self, encoder: Encoder, batch: Batch, keys: RowKeys = None) -> Float[Array, "B T K"]:
        """Returns the logits of each token."""
        hidden_BTD = encoder.last_hidden_state(batch, keys)
        return encoder.logits("tagging", hidden_BTD, head_keys(keys))

    def counts(self, batch: Batch) -> Float[Array, "B T"]:
        """Returns 1 for each labelled token."""
        return batch["label_weights"]

    def outputs(self, encoder: Encoder, batch: Batch) -> dict[str, jax.Array]:
        """Returns `tags` int32 [B, T], the most probable labels, and `scores` float32 [B, T],
        their probabilities; NaN where logits are not finite.
        """
        logits_BTK = self.logits(encoder, batch)
        scores_BT = jnp.max(jax.nn.softmax(logits_BTK, axis=-1), axis=-1)
        return {"tags": jnp.argmax(logits_BTK, axis=-1).astype(jnp.int32), "scores": scores_BT}

    def totals(self, logits: Float[Array, "B T K"], batch: Batch) -> Totals:
        weight = self.weights(batch)
        loss, correct = self._class_loss(logits, batch["labels"], batch["label_weights"])
        count = jnp.sum(batch["label_weights"])
        return Totals({"tagging": loss}, weight, {"accuracy": (correct, count)})
