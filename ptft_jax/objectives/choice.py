"""One of several choices, each a text of its own (Devlin et al. 2019, section 4.4).

Shape suffixes: B batch, P examples of a row, C choices.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from ptft_jax.models.build import Batch, Encoder
from ptft_jax.models.dropout import RowKeys
from ptft_jax.objectives.classes import ClassLoss
from ptft_jax.objectives.totals import TaskObjective, Totals, head_keys


@dataclasses.dataclass(frozen=True)
class ChoiceObjective(TaskObjective):
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

    def totals(self, logits: Float[Array, "B P C"], batch: Batch) -> Totals:
        weight = self.weights(batch)
        loss, correct = ClassLoss(label_smoothing=self.label_smoothing)(
            logits, batch["labels"], batch["weights"], batch["choice_mask"]
        )
        return Totals({"choice": loss}, weight, {"accuracy": (correct, weight["choice"])})
