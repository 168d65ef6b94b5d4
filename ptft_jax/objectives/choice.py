"""One of several choices, each a text of its own (Devlin et al. 2019, section 4.4).

Shape suffixes: B batch, P examples of a row, C choices.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ptft_jax.models.build import Batch, Encoder
from ptft_jax.models.dropout import RowKeys
from ptft_jax.objectives.classes import ClassLoss, divergence
from ptft_jax.objectives.totals import Totals, head_keys


@dataclasses.dataclass(frozen=True)
class ChoiceObjective:
    """Cross-entropy over the choices of an example (HF `BertForMultipleChoice`).

    The choices are segments of a row, which attention keeps apart.

    Attributes:
        label_smoothing: as in `ClassLoss`, over the choices that an example has.
    """

    label_smoothing: float = 0.0

    def weights(self, batch: Batch) -> dict[str, Float[Array, ""]]:
        """Returns the number of real examples."""
        return {"choice": jnp.sum(batch["weights"])}

    def logits(self, encoder: Encoder, batch: Batch, keys: RowKeys = None) -> Float[Array, "B P C"]:
        """Returns the logit of each choice, the lowest float32 where there is none."""
        hidden_BTD = encoder.last_hidden_state(batch, keys)
        positions_BPC = batch["pooled_positions"]
        positions_BS = positions_BPC.reshape(len(positions_BPC), -1)
        pooled_BSD = encoder.pooled(hidden_BTD, positions_BS)
        logits_BS = encoder.logits("choice", pooled_BSD, head_keys(keys))[:, :, 0]
        logits_BPC = logits_BS.reshape(positions_BPC.shape)
        return jnp.where(batch["choice_mask"] > 0, logits_BPC, jnp.finfo(jnp.float32).min)

    def counts(self, batch: Batch) -> Float[Array, "B P"]:
        """Returns 1 for each real example."""
        return batch["weights"]

    def divergences(
        self, logits: Float[Array, "B P C"], others: Float[Array, "B P C"]
    ) -> Float[Array, "B P"]:
        """Returns KL(p‖q) of two distributions over choices."""
        return divergence(logits, others)

    def outputs(self, encoder: Encoder, batch: Batch) -> dict[str, jax.Array]:
        """Returns `logits` [B, P, C]."""
        return {"logits": self.logits(encoder, batch)}

    def __call__(self, encoder: Encoder, batch: Batch, *, keys: RowKeys) -> Totals:
        """Returns the sums over a batch.

        Args:
            encoder: encoder with the `choice` head.
            batch: `input_ids`, `attention_mask`, `token_type_ids`, `segment_ids` and `position_ids`
                [B, T]; `pooled_positions` and `choice_mask` int32 [B, P, C]; `labels` int32 and
                `weights` float32 [B, P].
            keys: one PRNG key per row; None means evaluation.
        """
        return self.totals(self.logits(encoder, batch, keys), batch)

    def totals(self, logits: Float[Array, "B P C"], batch: Batch) -> Totals:
        """Returns the sums over a batch from its logits."""
        weight = self.weights(batch)
        loss, correct = ClassLoss(label_smoothing=self.label_smoothing)(
            logits, batch["labels"], batch["weights"], batch["choice_mask"]
        )
        return Totals({"choice": loss}, weight, {"accuracy": (correct, weight["choice"])})
