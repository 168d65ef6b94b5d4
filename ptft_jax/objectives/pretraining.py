"""Masked language model plus next sentence prediction (Devlin et al. 2019, section 3.1).

Shape suffixes: B batch, M masked positions, P pooled positions, V vocabulary.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ptft_jax.models.build import Batch, Encoder
from ptft_jax.models.dropout import RowKeys
from ptft_jax.objectives.classes import divergence, weighted_cross_entropy
from ptft_jax.objectives.totals import LogitsObjective, Totals


@dataclasses.dataclass(frozen=True)
class PretrainingObjective(LogitsObjective):
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

    def logits(
        self, encoder: Encoder, batch: Batch, keys: RowKeys = None
    ) -> dict[str, Float[Array, "B _ _"]]:
        """Returns those of masked tokens, `mlm` [B, M, V], and of pairs, `nsp` [B, P, 2].

        A teacher need not have a head for pairs, of which nothing is learned from it.
        """
        hidden_BTD = encoder.last_hidden_state(batch, keys)
        found = {"mlm": encoder.mlm_logits(hidden_BTD, batch["masked_lm_positions"])}
        if self.next_sentence and getattr(encoder.heads, "nsp", None) is not None:
            pooled_BPD = encoder.pooled(hidden_BTD, batch["pooled_positions"])
            found["nsp"] = encoder.logits("nsp", pooled_BPD)
        return found

    def counts(self, batch: Batch) -> Float[Array, "B M"]:
        """Returns 1 for each masked token."""
        return batch["masked_lm_weights"]

    def divergences(
        self, logits: dict[str, jax.Array], others: dict[str, jax.Array]
    ) -> Float[Array, "B M"]:
        """Returns KL(p‖q) of two distributions over the vocabulary."""
        return divergence(logits["mlm"], others["mlm"])

    def totals(self, logits: dict[str, jax.Array], batch: Batch) -> Totals:
        weight = self.weights(batch)
        loss, correct = weighted_cross_entropy(
            logits["mlm"], batch["masked_lm_ids"], batch["masked_lm_weights"]
        )
        losses = {"mlm": loss}
        metrics = {"mlm_loss": (loss, weight["mlm"]), "mlm_accuracy": (correct, weight["mlm"])}
        if self.next_sentence:
            loss, correct = weighted_cross_entropy(
                logits["nsp"], batch["next_sentence_labels"], batch["next_sentence_weights"]
            )
            losses["nsp"] = loss
            metrics["nsp_loss"] = (loss, weight["nsp"])
            metrics["nsp_accuracy"] = (correct, weight["nsp"])
        return Totals(losses, weight, metrics)
