"""A smaller model learns from what a larger one, its teacher, says of the same examples.

The teacher runs without dropout on each micro-batch, where its outputs are added to the batch;
evaluation is the task's own.

Shape suffixes: B batch, T tokens, D hidden.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ptft_jax.models.build import Batch, Encoder
from ptft_jax.models.dropout import RowKeys
from ptft_jax.objectives.totals import LogitsObjective, Totals

HIDDEN_LOSSES = ("cosine", "mse")


@dataclasses.dataclass(frozen=True)
class Distilled:
    """A task's loss, and how far outputs and hidden states are from a teacher's.

    Attributes:
        task: the objective of both.
        temperature: the logits of both are divided by it before KL(teacher‖student), which is
            multiplied by its square (Hinton et al. 2015, section 2).
        soft_weight: of that divergence, its mean over what the task predicts.
        hidden_weight: of the loss of hidden states, its mean over tokens and `layers`.
        task_weight: of the task's own loss.
        hidden_loss: "cosine", 1 - cos (DistilBERT, Sanh et al. 2019), or "mse", the mean squared
            difference (TinyBERT, Jiao et al. 2020, eq. 8, without a matrix in between).
        layers: pairs of a student's and a teacher's layer, 0 the embeddings' output; empty: the
            last one of both.
    """

    task: LogitsObjective
    temperature: float = 2.0
    soft_weight: float = 0.5
    hidden_weight: float = 0.0
    task_weight: float = 0.5
    hidden_loss: str = "cosine"
    layers: tuple[tuple[int, int], ...] = ()

    def weights(self, batch: Batch) -> dict[str, Float[Array, ""]]:
        """Returns those of the task, what it predicts, and the number of tokens."""
        found = self.task.weights(batch)
        if self.soft_weight:
            found["soft"] = jnp.sum(self.task.counts(batch))
        if self.hidden_weight:
            found["hidden"] = jnp.sum(batch["attention_mask"]).astype(jnp.float32)
        return found

    def taught(self, teacher: Encoder, batch: Batch) -> Batch:
        """Returns a batch with what a teacher says of it."""
        says: dict[str, Any] = {}
        batch, states = self._with_states(teacher, batch, None, 1)
        if self.hidden_weight:
            says["states"] = states
        if self.soft_weight:
            says["logits"] = self.task.logits(teacher, batch)
        return {"teacher": jax.lax.stop_gradient(says)}

    def __call__(self, encoder: Encoder, batch: Batch, *, keys: RowKeys) -> Totals:
        """Returns the sums over a batch that a teacher has been asked about; see `Objective`."""
        if keys is None:
            return self.task(encoder, batch, keys=None)
        says = batch["teacher"]
        batch, states = self._with_states(encoder, batch, keys, 0)
        logits = self.task.logits(encoder, batch, keys)
        totals, weights = self.task.totals(logits, batch), self.weights(batch)
        losses = {term: self.task_weight * loss for term, loss in totals.loss.items()}
        metrics = dict(totals.metrics)
        if self.soft_weight:
            theirs, ours = (jax.tree.map(self._cooled, one) for one in (says["logits"], logits))
            apart = self.task.divergences(theirs, ours) * self.task.counts(batch)
            soft = self.temperature**2 * jnp.sum(apart)
            losses["soft"] = self.soft_weight * soft
            metrics["soft_loss"] = (soft, weights["soft"])
        if self.hidden_weight:
            mask_BT = batch["attention_mask"]
            pairs = zip(states, says["states"], strict=True)
            apart = jnp.stack([jnp.sum(self._apart(*pair) * mask_BT) for pair in pairs])
            hidden = jnp.mean(apart)
            losses["hidden"] = self.hidden_weight * hidden
            metrics["hidden_loss"] = (hidden, weights["hidden"])
        return Totals(losses, weights, metrics)

    def _cooled(self, logits: jax.Array) -> jax.Array:
        # What cannot be has the lowest float32, which a temperature below 1 takes to -infinity.
        return jnp.maximum(logits / self.temperature, jnp.finfo(jnp.float32).min)

    def _with_states(
        self, encoder: Encoder, batch: Batch, keys: RowKeys, side: int
    ) -> tuple[Batch, list[jax.Array]]:
        """Returns a batch with its last hidden state, and those of the chosen layers."""
        if not self.hidden_weight:
            return batch, []
        states = encoder.hidden_states(batch, keys)
        chosen = [pair[side] for pair in self.layers] or [-1]
        return batch | {"last_hidden_state": states[-1]}, [states[layer] for layer in chosen]

    def _apart(
        self, ours_BTD: Float[Array, "B T D"], theirs_BTD: Float[Array, "B T D"]
    ) -> Float[Array, "B T"]:
        ours_BTD, theirs_BTD = (one.astype(jnp.float32) for one in (ours_BTD, theirs_BTD))
        if self.hidden_loss == "mse":
            return jnp.mean(jnp.square(ours_BTD - theirs_BTD), axis=-1)
        products = [
            jnp.sum(one * other, axis=-1)
            for one, other in (
                (ours_BTD, theirs_BTD),
                (ours_BTD, ours_BTD),
                (theirs_BTD, theirs_BTD),
            )
        ]
        return 1 - products[0] * jax.lax.rsqrt(products[1] * products[2] + 1e-12)
