"""Where an answer begins and ends in a text (Devlin et al. 2019, section 4.2).

Shape suffixes: B batch, T tokens.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ptft_jax.models.build import Batch, Encoder
from ptft_jax.models.dropout import RowKeys
from ptft_jax.objectives.pretraining import weighted_cross_entropy
from ptft_jax.objectives.totals import Totals


@dataclasses.dataclass(frozen=True)
class SpanObjective:
    """The mean of two cross-entropies over tokens, of the first and of the last of an answer.

    HF `BertForQuestionAnswering`, but padding is no candidate: there it takes part in the softmax,
    so that a loss depends on how far rows are padded.
    """

    def weights(self, batch: Batch) -> dict[str, Float[Array, ""]]:
        """Returns the number of real rows."""
        return {"span": jnp.sum(batch["weights"])}

    def logits(self, encoder: Encoder, batch: Batch, keys: RowKeys = None) -> Float[Array, "B 2 T"]:
        """Returns the logits of beginning and end at each token; lowest float32 at padding."""
        logits_BT2 = encoder.logits("span", encoder.last_hidden_state(batch, keys))
        logits_B2T = jnp.swapaxes(logits_BT2, 1, 2)
        real_BT = batch["attention_mask"] > 0
        return jnp.where(real_BT[:, None, :], logits_B2T, jnp.finfo(jnp.float32).min)

    def outputs(self, encoder: Encoder, batch: Batch) -> dict[str, jax.Array]:
        """Returns `start` and `end`, float32 logits [B, T]."""
        logits_B2T = self.logits(encoder, batch)
        return {"start": logits_B2T[:, 0], "end": logits_B2T[:, 1]}

    def __call__(self, encoder: Encoder, batch: Batch, *, keys: RowKeys) -> Totals:
        """Returns the sums over a batch.

        Args:
            encoder: encoder with the `span` head.
            batch: `input_ids`, `attention_mask`, `token_type_ids` [B, T]; `start_positions`,
                `end_positions` int32 [B], 0 for [CLS] where the row holds no answer; `weights`
                float32 [B].
            keys: one PRNG key per row; None means evaluation.
        """
        weight = self.weights(batch)
        logits_B2T = self.logits(encoder, batch, keys)
        labels_B2 = jnp.stack([batch["start_positions"], batch["end_positions"]], axis=1)
        weights_B2 = jnp.broadcast_to(batch["weights"][:, None], labels_B2.shape)
        loss, correct = weighted_cross_entropy(logits_B2T, labels_B2, weights_B2 / 2)
        return Totals({"span": loss}, weight, {"position_accuracy": (correct, weight["span"])})
