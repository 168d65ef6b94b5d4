"""One of several choices, each a text of its own (Devlin et al. 2019, section 4.4).

Shape suffixes: B batch, P choices.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ptft_jax.models.build import Batch, Encoder
from ptft_jax.models.dropout import RowKeys
from ptft_jax.objectives.classes import ClassLoss
from ptft_jax.objectives.totals import Totals, head_keys


@dataclasses.dataclass(frozen=True)
class ChoiceObjective:
    """Cross-entropy over the choices of an example (HF `BertForMultipleChoice`).

    The choices are segments of one row, which attention keeps apart.

    Attributes:
        label_smoothing: as in `ClassLoss`, over the choices that an example has.
    """

    label_smoothing: float = 0.0

    def weights(self, batch: Batch) -> dict[str, Float[Array, ""]]:
        """Returns the number of real rows."""
        return {"choice": jnp.sum(batch["weights"])}

    def logits(self, encoder: Encoder, batch: Batch, keys: RowKeys = None) -> Float[Array, "B P"]:
        """Returns the logit of each choice, the lowest float32 where there is none."""
        hidden_BTD = encoder.last_hidden_state(batch, keys)
        pooled_BPD = encoder.pooled(hidden_BTD, batch["pooled_positions"])
        logits_BP = encoder.logits("choice", pooled_BPD, head_keys(keys))[:, :, 0]
        return jnp.where(batch["choice_mask"] > 0, logits_BP, jnp.finfo(jnp.float32).min)

    def outputs(self, encoder: Encoder, batch: Batch) -> dict[str, jax.Array]:
        """Returns `logits` [B, P]."""
        return {"logits": self.logits(encoder, batch)}

    def __call__(self, encoder: Encoder, batch: Batch, *, keys: RowKeys) -> Totals:
        """Returns the sums over a batch.

        Args:
            encoder: encoder with the `choice` head.
            batch: `input_ids`, `attention_mask`, `token_type_ids`, `segment_ids` and `position_ids`
                [B, T]; `pooled_positions` and `choice_mask` int32 [B, P]; `labels` int32 [B];
                `weights` float32 [B].
            keys: one PRNG key per row; None means evaluation.
        """
        weight = self.weights(batch)
        logits_BP = self.logits(encoder, batch, keys)
        loss, correct = ClassLoss(label_smoothing=self.label_smoothing)(
            logits_BP[:, None, :],
            batch["labels"][:, None],
            batch["weights"][:, None],
            batch["choice_mask"][:, None, :],
        )
        return Totals({"choice": loss}, weight, {"accuracy": (correct, weight["choice"])})
