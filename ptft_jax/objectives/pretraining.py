"""Masked language model plus next sentence prediction (Devlin et al. 2019, section 3.1).

Shape suffixes: B batch, M masked positions, P pooled positions, V vocabulary.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ptft_jax.models import partition
from ptft_jax.models.build import Batch, Encoder
from ptft_jax.models.dropout import RowKeys
from ptft_jax.objectives.totals import Totals


@dataclasses.dataclass(frozen=True)
class PretrainingObjective:
    """The sum of the mean MLM loss and the mean NSP loss (google-research/bert
    `run_pretraining.py`, `model_fn_builder`; HF `BertForPreTraining`).

    Attributes:
        next_sentence: False leaves the NSP term out, for a model without that head.
    """

    next_sentence: bool = True

    def weights(self, batch: Batch) -> dict[str, Float[Array, ""]]:
        """Returns the number of masked tokens (`mlm`) and of sentence pairs (`nsp`)."""
        weights = {"mlm": jnp.sum(batch["masked_lm_weights"])}
        if self.next_sentence:
            weights["nsp"] = jnp.sum(batch["next_sentence_weights"])
        return weights

    def __call__(self, encoder: Encoder, batch: Batch, *, keys: RowKeys) -> Totals:
        """Returns the sums over a batch.

        Args:
            encoder: encoder with the `mlm` (and `nsp`) head.
            batch: `input_ids`, `attention_mask`, `token_type_ids` [B, T]; `masked_lm_positions`,
                `masked_lm_ids`, `masked_lm_weights` [B, M]; `pooled_positions`,
                `next_sentence_labels`, `next_sentence_weights` [B, P].
            keys: one PRNG key per row; None means evaluation.
        """
        weight = self.weights(batch)
        hidden_BTD = encoder.last_hidden_state(batch, keys)
        logits_BMV = encoder.mlm_logits(hidden_BTD, batch["masked_lm_positions"])
        loss, correct = weighted_cross_entropy(
            logits_BMV, batch["masked_lm_ids"], batch["masked_lm_weights"]
        )
        losses = {"mlm": loss}
        metrics = {"mlm_loss": (loss, weight["mlm"]), "mlm_accuracy": (correct, weight["mlm"])}
        if self.next_sentence:
            logits_BP2 = encoder.logits(
                "nsp", encoder.pooled(hidden_BTD, batch["pooled_positions"])
            )
            loss, correct = weighted_cross_entropy(
                logits_BP2, batch["next_sentence_labels"], batch["next_sentence_weights"]
            )
            losses["nsp"] = loss
            metrics["nsp_loss"] = (loss, weight["nsp"])
            metrics["nsp_accuracy"] = (correct, weight["nsp"])
        return Totals(losses, weight, metrics)


def weighted_cross_entropy(
    logits: Float[Array, "B M V"], labels: Int[Array, "B M"], weights: Float[Array, "B M"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Returns the weighted sums of -log softmax(logits)[label] and of right predictions.

    The label's logit is picked by comparison instead of a gather, so that it needs no
    communication of logits when the class dimension is split over devices. A tie for the highest
    logit counts as right.
    """
    sharding = jax.typeof(logits).sharding.spec if partition.has_mesh() else None
    classes = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 2, out_sharding=sharding)
    picked = jnp.sum(jnp.where(classes == labels[:, :, None], logits, 0.0), axis=-1)
    highest = jnp.max(jax.lax.stop_gradient(logits), axis=-1)
    log_sum = highest + jnp.log(jnp.sum(jnp.exp(logits - highest[:, :, None]), axis=-1))
    correct = (picked >= highest).astype(jnp.float32)
    return jnp.sum((log_sum - picked) * weights), jnp.sum(correct * weights)
