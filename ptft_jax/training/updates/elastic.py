"""Elastic weight consolidation (Kirkpatrick et al. 2017): weights that mattered are pulled back.

The loss gets ½ Σ F (θ − θ*)², where θ* are the parameters after the earlier tasks and F how much
each mattered to them, the mean squared gradient of their examples.
"""

from collections.abc import Iterable
from functools import partial

import jax
import jax.numpy as jnp

from ptft_jax.models.build import Batch, Model, Params
from ptft_jax.objectives.totals import Objective, loss_of
from ptft_jax.training.mesh import exchange_gradients, sum_gradients_locally


def importance(
    model: Model, objective: Objective, params: Params, examples: Iterable[Batch]
) -> Params:
    """Returns the diagonal of the empirical Fisher information of the encoder's parameters.

    It is the mean over examples of their squared gradients, dropout off, float32. Online, as in
    Schwarz et al. 2018: that of earlier tasks is added by the caller.

    Args:
        model: the model.
        objective: gives the loss, the negative log-likelihood of an example.
        params: the model's parameters, laid out over the mesh that is set.
        examples: batches on the mesh, of one example each; further rows have weight 0.
    """

    @partial(jax.jit, donate_argnums=0)
    def add(squares: Params, params: Params, batch: Batch) -> Params:
        def loss(params: Params) -> jax.Array:
            totals = objective(model.bind(params), batch, keys=None)
            return loss_of(totals, objective.weights(batch))

        gradient = exchange_gradients(jax.grad(loss)(sum_gradients_locally(params)))
        return jax.tree.map(lambda sum, one: sum + one**2, squares, gradient["encoder"])

    squares, count = jax.tree.map(jnp.zeros_like, params["encoder"]), 0
    for batch in examples:
        squares, count = add(squares, params, batch), count + 1
    return {"encoder": jax.tree.map(lambda sum: sum / count, squares)}


def pulled(
    gradients: Params, params: Params, origin: Params, importance: Params
) -> tuple[Params, jax.Array]:
    """Returns the gradients with those of the penalty, and the penalty.

    Args:
        gradients, params: trees of what is trained.
        origin: θ* of some of it, by the same names.
        importance: F of the same, times the weight of the penalty.
    """
    penalties: list[jax.Array] = []

    def add(gradients: Params, params: Params, origin: Params, importance: Params) -> Params:
        found = dict(gradients)
        for name, matters in importance.items():
            parts = gradients[name], params[name], origin[name], matters
            if isinstance(matters, dict):
                found[name] = add(*parts)
                continue
            apart = params[name] - origin[name]
            penalties.append(jnp.sum(matters * jnp.square(apart)) / 2)
            found[name] = gradients[name] + matters * apart
        return found

    return add(gradients, params, origin, importance), sum(penalties[1:], start=penalties[0])
