"""Classes or scores of texts, read at their pooled [CLS] (Devlin et al. 2019, section 4.1).

Shape suffixes: B batch, P pooled positions, K labels.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ptft_jax.models.build import Batch, Encoder
from ptft_jax.models.dropout import RowKeys
from ptft_jax.objectives.classes import ClassLoss, divergence
from ptft_jax.objectives.totals import TaskObjective, Totals, head_keys

PROBLEM_TYPES = ("single_label_classification", "multi_label_classification", "regression")
"""As HF `config.problem_type` names them."""


def pooled_logits(encoder: Encoder, batch: Batch, keys: RowKeys = None) -> Float[Array, "B P K"]:
    """Returns the outputs of the `classification` head at each pooled [CLS]."""
    hidden_BTD = encoder.last_hidden_state(batch, keys)
    pooled_BPD = encoder.pooled(hidden_BTD, batch["pooled_positions"])
    return encoder.logits("classification", pooled_BPD, head_keys(keys))


@dataclasses.dataclass(frozen=True)
class ClassificationObjective(TaskObjective):
    """Cross-entropy over K labels, K independent yes or no, or the squared error of one value.

    Attributes:
        problem_type: one of `PROBLEM_TYPES`; the losses are those of HF
            `BertForSequenceClassification`: cross-entropy, the mean over labels of the binary
            cross-entropy, the squared error.
        class_weights: of single labels as in `ClassLoss`; of several labels how much a yes counts
            for each, `pos_weight` of PyTorch's `BCEWithLogitsLoss`; None: all alike.
        label_smoothing: of single labels, as in `ClassLoss`.
    """

    problem_type: str = "single_label_classification"
    class_weights: tuple[float, ...] | None = None
    label_smoothing: float = 0.0

    def weights(self, batch: Batch) -> dict[str, Float[Array, ""]]:
        """Returns the number of real examples (one of weight 0 fills up a last batch), or the sum
        of the weights of their classes.
        """
        if self.problem_type != "single_label_classification":
            return {"classification": jnp.sum(batch["weights"])}
        return {"classification": self._class_loss.weight(batch["labels"], batch["weights"])}

    @property
    def _class_loss(self) -> ClassLoss:
        return ClassLoss(self.class_weights, self.label_smoothing)

    def logits(self, encoder: Encoder, batch: Batch, keys: RowKeys = None) -> Float[Array, "B P K"]:
        """Returns the logits (regression: one value) of each example."""
        return pooled_logits(encoder, batch, keys)

    def divergences(
        self, logits: Float[Array, "B P K"], others: Float[Array, "B P K"]
    ) -> Float[Array, "B P"]:
        """Returns KL(p‖q) of two outputs; of several labels the mean over labels, of values half
        the squared difference, that of normal distributions of variance 1.
        """
        if self.problem_type == "regression":
            return jnp.square(logits - others)[:, :, 0] / 2
        if self.problem_type == "multi_label_classification":
            pairs = (jnp.stack([one, jnp.zeros_like(one)], axis=-1) for one in (logits, others))
            return jnp.mean(divergence(*pairs), axis=-1)
        return divergence(logits, others)

    def totals(self, logits: Float[Array, "B P K"], batch: Batch) -> Totals:
        logits_BPK = logits
        labels, weights_BP = batch["labels"], batch["weights"]
        weight, count = self.weights(batch), jnp.sum(weights_BP)
        if self.problem_type == "regression":
            loss = jnp.sum(jnp.square(logits_BPK[:, :, 0] - labels) * weights_BP)
            return Totals({"classification": loss}, weight, {})
        if self.problem_type == "multi_label_classification":
            # -log sigmoid of the logit where the label is 1, of its negative where it is 0.
            terms_BPK = jax.nn.softplus(logits_BPK) - logits_BPK * labels
            if self.class_weights is not None:
                positive = jnp.array(self.class_weights, jnp.float32)
                terms_BPK *= 1 + (positive - 1) * labels
            loss = jnp.sum(jnp.mean(terms_BPK, axis=-1) * weights_BP)
            right_BP = jnp.all((logits_BPK > 0) == (labels > 0.5), axis=-1)
            correct = jnp.sum(right_BP * weights_BP)
        else:
            loss, correct = self._class_loss(logits_BPK, labels, weights_BP)
        metrics = {"accuracy": (correct, count)}
        return Totals({"classification": loss}, weight, metrics)
