"""Losses of all examples of a batch at once, at the memory of a micro-batch.

The vectors of all micro-batches are computed first, and of the loss its derivative by them; then
each micro-batch is computed again, and moves its vectors as that derivative says (Gao et al. 2021,
"Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", GradCache). Dropout masks
are functions of the row, and so are the same in both passes.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ptft_jax.models.build import Batch, Encoder
from ptft_jax.objectives.totals import CoupledObjective


def with_cotangents(
    objective: CoupledObjective, encoder: Callable[[], Encoder], micro_batches: Batch
) -> Batch:
    """Returns micro-batches with what each needs to know of the others.

    Args:
        objective: the objective.
        encoder: binds the model's parameters.
        micro_batches: arrays [A, B / A, …] of A micro-batches, row keys among them as `keys`.

    Returns:
        The same with `losses`, [A, B / A, P], and `cotangents`, [A, B / A, P, C, D].
    """

    def body(carry: None, part: Batch) -> tuple[None, jax.Array]:
        part = dict(part)
        keys = part.pop("keys")
        return carry, objective.vectors(encoder(), part, keys)

    _, vectors = jax.lax.scan(body, None, micro_batches)
    losses, pull = jax.vjp(lambda vectors: objective.coupled(vectors, micro_batches), vectors)
    (cotangents,) = pull(jnp.ones_like(losses))
    return micro_batches | {"losses": losses, "cotangents": cotangents}
