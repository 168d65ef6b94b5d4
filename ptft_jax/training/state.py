"""The state of a training run: arrays only, so that all of it can be saved, split and donated."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec as P

from ptft_jax.models.build import Model, Params
from ptft_jax.training.mesh import place_params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """What a step reads and writes.

    Attributes:
        step: int32 scalar, batches that the run has gone through.
        params: nested dict of float32 arrays.
        opt_state: optax state of the same layout as `params`.
        skipped: int32 scalar, how many of those batches gave gradients that were not finite and
            changed nothing.
        skipped_in_row: int32 scalar, how many of the last ones did, without one that was finite.
    """

    step: jax.Array
    params: Params
    opt_state: Any
    skipped: jax.Array
    skipped_in_row: jax.Array

    @classmethod
    def new(cls, params: Params, opt_state: Any) -> "TrainState":
        """Makes a state at step 0, inside or outside `jax.jit`."""
        zero = jnp.zeros((), jnp.int32)
        return cls(zero, params, opt_state, zero, zero)


def init_state(
    model: Model,
    optimizer: optax.GradientTransformation,
    seed: int,
    params: Params | None = None,
) -> TrainState:
    """Makes the state of a run at step 0, laid out over the mesh that is set.

    Args:
        model: the model.
        optimizer: its optimizer.
        seed: decides every initial value.
        params: values to use instead of fresh ones, for any subtree of the parameters (a head
            that is absent here is initialised from the seed).
    """
    given = params or {}

    @jax.jit
    def create(given: Params) -> TrainState:
        fresh = model.init(jax.random.key(seed))
        values = place_params(_override(fresh, given), model.axes())
        return TrainState.new(values, optimizer.init(values))

    return create(given)


def abstract_state(model: Model, optimizer: optax.GradientTransformation) -> TrainState:
    """Returns the state's tree as `jax.ShapeDtypeStruct`s with the shardings of the mesh set."""

    def create() -> TrainState:
        values = place_params(model.init(jax.random.key(0)), model.axes())
        return TrainState.new(values, optimizer.init(values))

    mesh = jax.sharding.get_mesh()

    def concrete(leaf: Any) -> jax.ShapeDtypeStruct:
        # Scalars carry no sharding in their type: they are whole everywhere.
        spec = P() if leaf.sharding is None else leaf.sharding.spec
        sharding = jax.sharding.NamedSharding(mesh, spec)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(concrete, jax.eval_shape(create))


def _override(fresh: Params, given: Params) -> Params:
    """Returns `fresh` with every leaf that `given` holds taken from there."""
    merged = dict(fresh)
    for name, value in given.items():
        merged[name] = _override(fresh[name], value) if isinstance(value, dict) else value
    return merged
