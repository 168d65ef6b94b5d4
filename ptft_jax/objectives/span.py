"""Where an answer begins and ends in a text (Devlin et al. 2019, section 4.2).

Shape suffixes: B batch, P examples of a row, T tokens.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ptft_jax.models.build import Batch, Encoder
from ptft_jax.models.dropout import RowKeys
from ptft_jax.objectives.classes import divergence, weighted_cross_entropy
from ptft_jax.objectives.totals import TaskObjective, Totals


@dataclasses.dataclass(frozen=True)
class SpanObjective(TaskObjective):
    """The mean of two cross-entropies over tokens, of the first and of the last of an answer.

    HF `BertForQuestionAnswering`, but padding is no candidate: there it takes part in the softmax,
    so that a loss depends on how far rows are padded.
    """

    def weights(self, batch: Batch) -> dict[str, Float[Array, ""]]:
        """Returns the number of real examples."""
        return {"span": jnp.sum(batch["weights"])}

    def logits(
        self, encoder: Encoder, batch: Batch, keys: RowKeys = None
    ) -> Float[Array, "B P 2 T"]:
        """Returns the logits of beginning and end at each token of an example, else the lowest
        float32.
        """
        logits_BT2 = encoder.logits("span", encoder.last_hidden_state(batch, keys))
        logits_B2T = jnp.swapaxes(logits_BT2, 1, 2)
        own_BPT = batch["attention_mask"][:, None, :] > 0
        if "segment_ids" in batch:
            numbers_P = jnp.arange(1, 1 + batch["start_positions"].shape[1])
            own_BPT = batch["segment_ids"][:, None, :] == numbers_P[:, None]
        lowest = jnp.finfo(jnp.float32).min
        return jnp.where(own_BPT[:, :, None, :], logits_B2T[:, None], lowest)

    def divergences(
        self, logits: Float[Array, "B P 2 T"], others: Float[Array, "B P 2 T"]
    ) -> Float[Array, "B P"]:
        """Returns KL(p‖q) of two distributions over tokens, the mean of first and last."""
        return jnp.mean(divergence(logits, others), axis=2)

    def outputs(self, encoder: Encoder, batch: Batch) -> dict[str, jax.Array]:
        """Returns `start` and `end`, float32 logits [B, T], of rows that hold one example."""
        logits_BP2T = self.logits(encoder, batch)
        return {"start": logits_BP2T[:, 0, 0], "end": logits_BP2T[:, 0, 1]}

    def totals(self, logits: Float[Array, "B P 2 T"], batch: Batch) -> Totals:
        weight = self.weights(batch)
        rows, _, _, tokens = logits.shape
        labels_BP2 = jnp.stack([batch["start_positions"], batch["end_positions"]], axis=2)
        weights_BP2 = jnp.stack([batch["weights"] / 2] * 2, axis=2)
        loss, correct = weighted_cross_entropy(
            logits.reshape(rows, -1, tokens),
            labels_BP2.reshape(rows, -1),
            weights_BP2.reshape(rows, -1),
        )
        return Totals({"span": loss}, weight, {"position_accuracy": (correct, weight["span"])})
