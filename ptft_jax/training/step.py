"""The state of a run, and the steps: pure functions, compiled once per batch shape.

A state is a tree of arrays, so that all of it can be saved, split and donated.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec as P

from ptft_jax.models import partition
from ptft_jax.models.build import Batch, Encoder, Model, Params
from ptft_jax.models.dropout import row_keys, step_key
from ptft_jax.objectives.totals import (
    CoupledObjective,
    Objective,
    ScoringObjective,
    Totals,
    add,
    loss_of,
)
from ptft_jax.training.mesh import (
    exchange_gradients,
    place_params,
    sum_gradients_locally,
    zero_gradients,
)

if TYPE_CHECKING:
    from ptft_jax.models.parts import Parts


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """What a step reads and writes.

    Attributes:
        step: int32 scalar, batches that the run has gone through.
        params: nested dict of float32 arrays, those that are trained.
        opt_state: optax state of the same layout as `params`.
        skipped: int32 scalar, how many of those batches gave gradients that were not finite and
            changed nothing.
        skipped_in_row: int32 scalar, how many of the last ones did, without one that was finite.
        ema: the moving average of `params`, of the same layout; None: there is none.
    """

    step: jax.Array
    params: Params
    opt_state: Any
    skipped: jax.Array
    skipped_in_row: jax.Array
    ema: Params | None = None

    @classmethod
    def new(cls, params: Params, opt_state: Any, averages: bool = False) -> "TrainState":
        """Makes a state at step 0, inside or outside `jax.jit`; `averages`: with an average."""
        zero = jnp.zeros((), jnp.int32)
        # Copied, as both are donated.
        ema = jax.tree.map(jnp.copy, params) if averages else None
        return cls(zero, params, opt_state, zero, zero, ema)

    @property
    def outcome(self) -> Params:
        """The parameters that the run stands for: those to score, to predict with, to export."""
        return self.params if self.ema is None else self.ema


Metrics = dict[str, jax.Array]
TrainStep = Callable[..., tuple[TrainState, Metrics]]


def init_state(
    model: Model,
    optimizer: optax.GradientTransformation,
    seed: int,
    params: Params | None = None,
    parts: "Parts | None" = None,
    *,
    averages: bool = False,
) -> TrainState:
    """Makes the state of a run at step 0, laid out over the mesh that is set.

    Args:
        model: the model.
        optimizer: its optimizer.
        seed: decides every initial value.
        params: values to use instead of fresh ones, for any subtree of those that are trained (a
            head that is absent here is initialised from the seed, and so are layers above those
            that are here).
        parts: which parameters are trained; None: all.
        averages: whether the state has a moving average of them, which starts at their values.
    """
    given = params or {}

    @jax.jit
    def create(given: Params) -> TrainState:
        values = place_params(model.init(jax.random.key(seed)), model.axes())
        values = values if parts is None else parts.trained(values)
        values = _override(values, place_params(given, model.axes()))
        return TrainState.new(values, optimizer.init(values), averages)

    return create(given)


def abstract_state(
    model: Model,
    optimizer: optax.GradientTransformation,
    parts: "Parts | None" = None,
    *,
    averages: bool = False,
) -> TrainState:
    """Returns the state's tree as `jax.ShapeDtypeStruct`s with the shardings of the mesh set."""

    def create() -> TrainState:
        values = place_params(model.init(jax.random.key(0)), model.axes())
        values = values if parts is None else parts.trained(values)
        return TrainState.new(values, optimizer.init(values), averages)

    mesh = jax.sharding.get_mesh()

    def concrete(leaf: Any) -> jax.ShapeDtypeStruct:
        # Scalars carry no sharding in their type: they are whole everywhere.
        spec = P() if leaf.sharding is None else leaf.sharding.spec
        sharding = jax.sharding.NamedSharding(mesh, spec)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(concrete, jax.eval_shape(create))


def _override(fresh: Params, given: Params) -> Params:
    """Returns `fresh` with every leaf that `given` holds taken from there.

    A leaf with fewer layers than the fresh one has the first ones; the others stay fresh.
    """
    merged = dict(fresh)
    for name, value in given.items():
        if isinstance(value, dict):
            merged[name] = _override(fresh[name], value)
        elif len(value) < len(fresh[name]):
            merged[name] = jnp.concatenate([value, fresh[name][len(value) :]])
        else:
            merged[name] = value
    return merged


def make_train_step(
    model: Model,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    *,
    seed: int,
    accumulate: int = 1,
    max_skipped_in_row: int = 10,
    parts: "Parts | None" = None,
    mixout: float = 0.0,
    ema: float = 0.0,
    teach: Callable[[Params, Batch], Batch] | None = None,
) -> TrainStep:
    """Makes the jitted step; the state passed in is donated.

    A batch whose loss or gradients are not finite changes neither parameters nor the optimizer's
    state: it is counted and gone past. After `max_skipped_in_row` of them in a row all further
    batches are left out as well, so that the loop, which looks at some steps only, finds the run
    where it stopped being sound.

    Dropout is a function of (seed, step, row of the global batch) alone, so that neither the mesh
    nor `accumulate` changes the loss beyond float rounding.

    Args:
        model: the model.
        objective: gives the sums that the loss is made of.
        optimizer: transforms gradients of the loss into updates.
        schedule: learning rate after a number of updates; only reported here, since `optimizer`
            applies it.
        seed: of the dropout masks.
        accumulate: number of micro-batches the batch is cut into, one after another; the batch
            must be divisible by it (times the number of devices that split rows).
        max_skipped_in_row: number of batches left out in a row that ends learning.
        parts: which parameters are trained, those of the state; None: all.
        mixout: probability of an entry of `origin` to stand for the parameter's own.
        ema: decay of the moving average of the parameters, for a state that has one. After n
            updates it is min(ema, (1 + n) / (10 + n)), as in TensorFlow's
            `ExponentialMovingAverage`, so that the starting point is soon forgotten.
        teach: returns what `objective` wants in a batch from a teacher's parameters; None: nothing.

    Returns:
        A function (state, batch, frozen, origin, teacher, importance) -> (state, metrics), where
        `frozen` are the parameters that are not trained, `origin` the values that `mixout` mixes
        in, or that `importance` pulls back to (`training.elastic`), and `teacher` the parameters of
        `teach`, none of which is donated; they may be left out where there are none. The metrics
        are float32 scalars of this very step: `loss` (without the pull, which is `penalty`), the
        objective's metrics, `grad_norm` (before clipping), `learning_rate`, `tokens` (attended
        tokens in the batch), and the state's `skipped` and `skipped_in_row`.
    """

    first_layer = 0 if parts is None else parts.first_layer

    def step(
        state: TrainState,
        batch: Batch,
        frozen: Params | None = None,
        origin: Params | None = None,
        teacher: Params | None = None,
        importance: Params | None = None,
    ) -> tuple[TrainState, Metrics]:
        weight = objective.weights(batch)
        others = sum_gradients_locally(frozen or {})

        def encoder_of(params: Params) -> Encoder:
            whole = params if parts is None else parts.join(params, others)
            return model.bind(whole, first_layer)

        def totals_of(params: Params, batch: Batch, keys: jax.Array) -> Totals:
            if teach is not None and teacher is not None:
                batch = batch | teach(teacher, batch)
            return objective(encoder_of(params), batch, keys=keys)

        def part_loss(params: Params, part: Batch, keys: jax.Array) -> tuple[jax.Array, Totals]:
            totals = totals_of(params, part, keys)
            return loss_of(totals, weight), totals

        gradient = jax.grad(part_loss, has_aux=True)
        keys_B = row_keys(seed, state.step, batch["attention_mask"].shape[0])
        params, unmixed = state.params, None
        if origin and mixout:
            from ptft_jax.training.updates.mixout import mixed  # few runs do

            key = jax.random.key_data(step_key(seed, state.step))
            # The same masks for all micro-batches.
            params, unmixed = jax.vjp(partial(mixed, origin=origin, rate=mixout, key=key), params)
        # The gradients of micro-batches are added where they are, and exchanged over `data` once.
        params = sum_gradients_locally(params)
        if accumulate == 1:
            grads, totals = gradient(params, batch, keys_B)
        else:

            def body(carry: Any, part: Batch) -> tuple[Any, None]:
                part = dict(part)
                keys = part.pop("keys")
                return add(carry, gradient(params, part, keys)), None

            nothing = (
                zero_gradients(params),
                jax.tree.map(jnp.zeros_like, jax.eval_shape(totals_of, params, batch, keys_B)),
            )
            micro_batches = _split({**batch, "keys": keys_B}, accumulate)
            if isinstance(objective, CoupledObjective):
                from ptft_jax.training.coupled import with_cotangents  # few objectives are

                micro_batches = with_cotangents(
                    objective, partial(encoder_of, params), micro_batches
                )
            (grads, totals), _ = jax.lax.scan(body, nothing, micro_batches)
        grads = exchange_gradients(grads)
        if unmixed is not None:
            (grads,) = unmixed(grads)
        penalty = {}
        if importance:
            from ptft_jax.training.updates.elastic import pulled  # few runs do

            assert origin is not None
            grads, penalty["penalty"] = pulled(grads, state.params, origin, importance)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = cast(Params, optax.apply_updates(state.params, updates))
        loss, grad_norm = loss_of(totals, weight), optax.tree.norm(grads)
        learns = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
        learns &= state.skipped_in_row < max_skipped_in_row
        params, opt_state = jax.tree.map(
            partial(jnp.where, learns), (params, opt_state), (state.params, state.opt_state)
        )
        left_out = (~learns).astype(jnp.int32)
        average = state.ema
        if average is not None:
            made = (state.step + 1 - state.skipped).astype(jnp.float32)
            takes = jnp.where(learns, 1 - jnp.minimum(ema, (1 + made) / (10 + made)), 0.0)
            average = jax.tree.map(lambda old, new: old + takes * (new - old), average, params)
        after = TrainState(
            step=state.step + 1,
            params=params,
            opt_state=opt_state,
            skipped=state.skipped + left_out,
            skipped_in_row=(state.skipped_in_row + 1) * left_out,
            ema=average,
        )
        metrics = {
            "loss": loss,
            **{name: total / jnp.maximum(n, 1.0) for name, (total, n) in totals.metrics.items()},
            **penalty,
            "grad_norm": grad_norm,
            "learning_rate": jnp.asarray(schedule(state.step - state.skipped), jnp.float32),
            "tokens": jnp.sum(batch["attention_mask"]).astype(jnp.float32),
            "skipped": after.skipped.astype(jnp.float32),
            "skipped_in_row": after.skipped_in_row.astype(jnp.float32),
        }
        return after, metrics

    return jax.jit(step, donate_argnums=0)


def make_eval_step(model: Model, objective: Objective) -> Callable[[Params, Batch], Totals]:
    """Makes the jitted function from parameters and a batch to the batch's sums, dropout off."""
    return jax.jit(lambda params, batch: objective(model.bind(params), batch, keys=None))


def _split(batch: Batch, parts: int) -> Batch:
    """Cuts [B, …] into [parts, B / parts, …] without moving a row to another device.

    Part p takes rows p, p + parts, …: neighbouring rows lie on the same device, so cutting
    the minor side of the row dimension keeps every device's share in place.
    """

    def cut(rows: jax.Array) -> jax.Array:
        shape = (rows.shape[0] // parts, parts, *rows.shape[1:])
        # Named, because the type of a reshape spreads mesh axes over the new dimensions.
        split = partition.batch_sharding(rows.ndim + 1)
        return jnp.swapaxes(jnp.reshape(rows, shape, out_sharding=split), 0, 1)

    return {name: cut(rows) for name, rows in batch.items()}


def make_scoring_step(
    model: Model, objective: ScoringObjective
) -> Callable[[Params, Batch], tuple[Totals, dict[str, jax.Array]]]:
    """Makes the jitted function from parameters and a batch to its sums and per-row outputs.

    The outputs are the objective's, and `weights`, whole on every device, so that each process can
    read all of them.
    """

    def step(params: Params, batch: Batch) -> tuple[Totals, dict[str, jax.Array]]:
        encoder = model.bind(params)
        outputs = {**objective.outputs(encoder, batch), "weights": batch["weights"]}
        if partition.has_mesh():
            outputs = {name: jax.reshard(rows, P()) for name, rows in outputs.items()}
        return objective(encoder, batch, keys=None), outputs

    return jax.jit(step)
