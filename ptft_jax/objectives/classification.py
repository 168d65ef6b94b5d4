"""Sequence classification and regression on the pooled [CLS] (Devlin et al. 2019, section 4.1).

Shape suffixes: B batch, P pooled positions, K labels.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from ptft_jax.models.build import Batch, Encoder
from ptft_jax.models.dropout import RowKeys, fold_rows
from ptft_jax.objectives.pretraining import weighted_cross_entropy
from ptft_jax.objectives.totals import Totals

# Row keys are folded with this before the classifier's dropout; the encoder folds 0 … L.
_CLASSIFIER_SITE = 1 << 16


@dataclasses.dataclass(frozen=True)
class ClassificationObjective:
    """Cross-entropy over K labels, or the squared error of one predicted value.

    Attributes:
        regression: labels are float values and the loss is the squared error, as in HF
            `BertForSequenceClassification` with `problem_type="regression"`.
    """

    regression: bool = False

    def weights(self, batch: Batch) -> dict[str, Float[Array, ""]]:
        """Returns the number of real rows (a row of weight 0 fills up a last batch)."""
        return {"classification": jnp.sum(batch["weights"])}

    def predict(
        self, encoder: Encoder, batch: Batch, *, keys: RowKeys = None
    ) -> Float[Array, "B K"]:
        """Returns one row of logits (regression: one value) per example."""
        hidden_BTD = encoder.last_hidden_state(batch, keys)
        pooled_BPD = encoder.pooled(hidden_BTD, batch["pooled_positions"])
        logits_BPK = encoder.classification_logits(pooled_BPD, fold_rows(keys, _CLASSIFIER_SITE))
        return logits_BPK[:, 0]

    def __call__(self, encoder: Encoder, batch: Batch, *, keys: RowKeys) -> Totals:
        """Returns the sums over a batch.

        Args:
            encoder: encoder with the `classification` head.
            batch: `input_ids`, `attention_mask`, `token_type_ids` [B, T]; `pooled_positions`
                [B, 1]; `labels` [B], int32 or, for regression, float32; `weights` float32 [B].
            keys: one PRNG key per row; None means evaluation.
        """
        logits_BK = self.predict(encoder, batch, keys=keys)
        labels_B, weights_B = batch["labels"], batch["weights"]
        weight = self.weights(batch)
        if self.regression:
            loss = jnp.sum(jnp.square(logits_BK[:, 0] - labels_B) * weights_B)
            return Totals({"classification": loss}, weight, {})
        loss, correct = weighted_cross_entropy(
            logits_BK[:, None], labels_B[:, None], weights_B[:, None]
        )
        metrics = {"accuracy": (correct, weight["classification"])}
        return Totals({"classification": loss}, weight, metrics)
