"""Classes by the words that a masked language model fills in for them.

Shape suffixes: B batch, P gaps of a row, V vocabulary, K classes.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ptft_jax.models import partition
from ptft_jax.models.build import Batch, Encoder
from ptft_jax.models.dropout import RowKeys
from ptft_jax.objectives.classification import ClassificationObjective


@dataclasses.dataclass(frozen=True)
class PromptedObjective(ClassificationObjective):
    """Cross-entropy over the classes' words at the gap (Schick and Schütze 2021, equation 1).

    Attributes:
        words: the ids of each class's words; its logit is the logarithm of the mean of their
            probabilities, but for a number that is the same for all classes.
    """

    words: tuple[tuple[int, ...], ...] = ()

    def logits(self, encoder: Encoder, batch: Batch, keys: RowKeys = None) -> Float[Array, "B P K"]:
        """Returns the logits of each example's classes."""
        hidden_BTD = encoder.last_hidden_state(batch, keys)
        logits_BPV = encoder.mlm_logits(hidden_BTD, batch["pooled_positions"])
        logits_BPV = partition.split_by_row(logits_BPV)
        each = [
            jax.nn.logsumexp(logits_BPV[:, :, jnp.array(ids)], axis=-1) - jnp.log(len(ids))
            for ids in self.words
        ]
        return jnp.stack(each, axis=-1)
