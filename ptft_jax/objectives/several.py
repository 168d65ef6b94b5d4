"""Classes and scores of several tasks, each read at columns of its own of one head.

Shape suffixes: B batch, P pooled positions, K columns of all tasks.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ptft_jax.models.build import Batch, Encoder
from ptft_jax.models.dropout import RowKeys
from ptft_jax.objectives.classes import divergence, weighted_cross_entropy
from ptft_jax.objectives.classification import pooled_logits
from ptft_jax.objectives.totals import TaskObjective, Totals

# The logit of a class that an example cannot have.
_NEVER = float(jnp.finfo(jnp.float32).min)


@dataclasses.dataclass(frozen=True)
class SeveralObjective(TaskObjective):
    """Cross-entropy over the columns of each example's task; the squared error of a single column.

    Attributes:
        columns: where the columns of each task begin, and how many it has.
        compared: the tasks whose outputs are compared with a teacher's, on examples of any task
            (learning without forgetting: the earlier ones); the divergence is the mean over them.
    """

    columns: tuple[tuple[int, int], ...]
    compared: tuple[int, ...] = ()

    def weights(self, batch: Batch) -> dict[str, Float[Array, ""]]:
        """Returns the number of real examples."""
        return {"classification": jnp.sum(batch["weights"])}

    def logits(self, encoder: Encoder, batch: Batch, keys: RowKeys = None) -> Float[Array, "B P K"]:
        """Returns the outputs of all tasks for each example."""
        return pooled_logits(encoder, batch, keys)

    def divergences(
        self, logits: Float[Array, "B P K"], others: Float[Array, "B P K"]
    ) -> Float[Array, "B P"]:
        """Returns the mean over `compared` of KL(p‖q), of a regression half the squared difference,
        that of normal distributions of variance 1.
        """
        apart_BP = jnp.zeros_like(logits[:, :, 0])
        for task in self.compared:
            is_own_K = jnp.array(self._is_column)[task]
            if self.columns[task][1] == 1:
                apart_BP += jnp.sum(jnp.square(logits - others) * is_own_K, axis=-1) / 2
            else:
                apart_BP += divergence(*(jnp.where(is_own_K, x, _NEVER) for x in (logits, others)))
        return apart_BP / len(self.compared)

    @property
    def _is_column(self) -> np.ndarray:
        """Whether a column is of a task, bool [tasks, K]."""
        numbers = np.arange(sum(width for _, width in self.columns))
        return np.array([(a <= numbers) & (numbers < a + width) for a, width in self.columns])

    def totals(self, logits: Float[Array, "B P K"], batch: Batch) -> Totals:
        tasks_BP, labels_BP, weights_BP = batch["tasks"], batch["labels"], batch["weights"]
        # All columns at once, since slices of a single row would lose how rows are split.
        is_task_BPN1 = (tasks_BP[:, :, None] == jnp.arange(len(self.columns)))[:, :, :, None]
        is_own_BPK = jnp.any(is_task_BPN1 & jnp.array(self._is_column), axis=2)
        starts, widths = jnp.array(self.columns, jnp.int32).T
        start_BP = jnp.sum(is_task_BPN1[:, :, :, 0] * starts, axis=-1)
        is_score_BP = jnp.any(is_task_BPN1[:, :, :, 0] & (widths == 1), axis=-1)
        value_BP = jnp.sum(jnp.where(is_own_BPK, logits, 0.0), axis=-1)
        squared_BP = jnp.square(value_BP - labels_BP) * is_score_BP
        class_BP, classified_BP = labels_BP.astype(jnp.int32), weights_BP * ~is_score_BP
        loss, correct = weighted_cross_entropy(
            jnp.where(is_own_BPK, logits, _NEVER), start_BP + class_BP, classified_BP
        )
        loss += jnp.sum(squared_BP * weights_BP)
        metrics = {"accuracy": (correct, jnp.sum(classified_BP))}
        return Totals({"classification": loss}, self.weights(batch), metrics)
