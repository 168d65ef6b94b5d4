"""AdamW and LAMB with BERT's weight-decay mask, gradient clipping and warm-up schedules.

Both optimizers are chains of optax's own transforms and run on any mesh: they hold no sharding of
their own, and every norm is taken over the whole array, however it is laid out.
"""

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ptft_jax.errors import ConfigError
from ptft_jax.models.config import AdapterConfig

# Maps the number of updates made so far (int or int32 scalar) to a float32 scalar.
Schedule = Callable[[Any], jax.Array]

# What the rate of one cycle starts at, as a part of its peak (Smith & Topin 2018, fastai, torch).
_CYCLE_STARTS_AT = 1 / 25

# First logical axis of a parameter whose layers are stacked into one array.
LAYERS_AXIS = "layers"

# Last path component of the parameters that BERT neither decays nor, under LAMB, adapts, and of
# factors of adapters, which begin at another value than zero.
UNDECAYED_NAMES = frozenset({"bias", "scale", "magnitude"})


@dataclass(frozen=True)
class OptimizerConfig:
    """The settings of the optimizer; the defaults are those of the BERT paper.

    `eps` is added to the square root of the second moment (outside of the root, as torch does).
    `weight_decay` is decoupled (AdamW) and multiplied by the learning rate. `max_grad_norm` bounds
    the global norm of the gradient, 0 switches clipping off. Raises ConfigError for values out of
    range.
    """

    name: str = "adamw"
    learning_rate: float = 1e-4
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-6
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    layer_decay: float = 1.0
    rules: Sequence[Any] = ()

    def __post_init__(self):
        _check_name("optimizer.name", self.name, _ADAPTATIONS)
        for key in ("learning_rate", "eps"):
            _check_number(f"optimizer.{key}", getattr(self, key), above=0.0)
        for key in ("weight_decay", "max_grad_norm"):
            _check_number(f"optimizer.{key}", getattr(self, key), at_least=0.0)
        for key in ("b1", "b2"):
            _check_number(f"optimizer.{key}", getattr(self, key), at_least=0.0, below=1.0)


@dataclass(frozen=True)
class ScheduleConfig:
    """The course of the learning rate: a linear warm-up from 0, then `name`.

    'one_cycle' (Smith & Topin 2018) rises from a 25th of the peak along a cosine, and falls along
    another; fastai's has a `warmup_ratio` of 0.25 and an `end_learning_rate_ratio` of 1e-5.

    The warm-up is given in updates (`warmup_steps`) or as a share of all updates in [0, 1]
    (`warmup_ratio`, rounded up as the HF Trainer does); only one of the two may be non-zero.
    `end_learning_rate_ratio` is the last rate as a share of the peak, in [0, 1]; 'constant' ignores
    it. Raises ConfigError for values out of range.
    """

    name: str = "linear"
    warmup_steps: int = 0
    warmup_ratio: float = 0.0
    end_learning_rate_ratio: float = 0.0

    def __post_init__(self):
        _check_name("schedule.name", self.name, _DECAYS)
        if isinstance(self.warmup_steps, bool) or not isinstance(self.warmup_steps, int):
            raise ConfigError(
                f"schedule.warmup_steps={self.warmup_steps!r} is not an integer; for a share of "
                "the run set schedule.warmup_ratio"
            )
        _check_number("schedule.warmup_steps", self.warmup_steps, at_least=0.0)
        for key in ("warmup_ratio", "end_learning_rate_ratio"):
            _check_number(f"schedule.{key}", getattr(self, key), at_least=0.0, at_most=1.0)
        if self.warmup_steps and self.warmup_ratio:
            raise ConfigError(
                f"schedule.warmup_steps={self.warmup_steps} and schedule.warmup_ratio="
                f"{self.warmup_ratio} are both set; set one of them to 0"
            )


def make_schedule(schedule: ScheduleConfig, learning_rate: float, steps: int) -> Schedule:
    """Return the learning rate as a function of the number of updates made so far.

    With a warm-up of W updates the rate at 0 is 0 (the first update changes nothing but the
    moments), at W it is `learning_rate`, and at `steps` it is `end_learning_rate_ratio *
    learning_rate`, where it stays. With an end ratio of 0 these are the values of HF's
    `get_linear_schedule_with_warmup`, `…cosine…` and `…constant…`. Those of 'one_cycle' are
    torch's `OneCycleLR` of `steps + 1` updates, which counts both ends.

    Raises ConfigError when `steps` is not positive or the warm-up is longer than the run.
    """
    if steps < 1:
        raise ConfigError(f"steps={steps} must be at least 1")
    warmup_steps = schedule.warmup_steps or math.ceil(schedule.warmup_ratio * steps)
    if warmup_steps > steps:
        raise ConfigError(
            f"schedule.warmup_steps={warmup_steps} is longer than the run (steps={steps}); "
            f"set it to at most {steps}, or set schedule.warmup_ratio"
        )
    decay_steps = max(1, steps - warmup_steps)
    rate = _DECAYS[schedule.name](learning_rate, decay_steps, schedule.end_learning_rate_ratio)
    if warmup_steps:
        warmup = optax.linear_schedule(0.0, learning_rate, warmup_steps)
        if schedule.name == "one_cycle":
            start = _CYCLE_STARTS_AT * learning_rate
            warmup = optax.cosine_decay_schedule(start, warmup_steps, alpha=1 / _CYCLE_STARTS_AT)
        rate = optax.join_schedules([warmup, rate], [warmup_steps])
    return lambda count: jnp.asarray(rate(count), jnp.float32)


def decay_mask(tree: Any) -> Any:
    """Return a tree of bools with the structure of `tree`: True where weight decay applies.

    It applies to everything but biases and LayerNorm scales, as in BERT's `optimization.py`. `tree`
    is a nested dict of parameters, or of their tuples of logical axis names.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, _: path[-1].key not in UNDECAYED_NAMES, tree, is_leaf=_is_axes
    )


def make_optimizer(
    optimizer: OptimizerConfig,
    schedule: ScheduleConfig | Schedule,
    steps: int,
    axes: Any,
    factors: Any | None = None,
    opens: Any | None = None,
    adapter: AdapterConfig | None = None,
) -> tuple[optax.GradientTransformation, Schedule]:
    """Return the gradient transformation of a run of `steps` updates, and its schedule.

    `axes` is a tree with the structure of the parameters whose leaves are tuples of logical axis
    names; a first name 'layers' marks an array in which layers are stacked. In order: clipping by
    the global norm (as `torch.nn.utils.clip_grad_norm_`), Adam with bias correction, decoupled
    weight decay where `decay_mask` says so, for LAMB the trust ratio of every layer by itself, and
    the learning rate.

    Sources: Loshchilov & Hutter 2019 (AdamW); You et al. 2020, algorithm 2 (LAMB), with the
    parameters excluded from decay also excluded from the layer adaptation, as in the authors'
    `lamb_optimizer.py`.

    `schedule` may be the rate itself, as a function of the number of updates made.

    `factors` is a tree of what the rate of each parameter is multiplied by, which broadcasts with
    it; None: 1.

    `opens` is such a tree of the shares of the run, below 1, after which each parameter begins to
    learn; None: all do from the start. Before, its gradient counts for nothing: not in the norm
    that is clipped, nor in the moments, and neither decay nor anything else changes it. From there
    on Adam corrects its moments by its own number of updates, not by that of the run, as torch does
    where a parameter had no gradient before: with the run's, whose correction has ended, a layer's
    first twenty updates would be three to six times as long as they are at the start of a run.

    `adapter` is what is trained beside the model; of `adalora` its budget of ranks is applied.
    """
    if isinstance(schedule, ScheduleConfig):
        schedule = make_schedule(schedule, optimizer.learning_rate, steps)
    mask = decay_mask(axes)
    clip = optimizer.max_grad_norm
    adam = optax.scale_by_adam(b1=optimizer.b1, b2=optimizer.b2, eps=optimizer.eps)
    gate = []
    if opens is not None:
        # 0.6 * 2 / 3 of 10 updates are 4, whatever floats make of it.
        at = jax.tree.map(lambda share: np.int32(np.floor(share * steps + 1e-6)), opens)
        adam, gate = _adam_from(adam, at), [_closed_before(at)]
    clipping = optax.clip_by_global_norm(clip) if clip else optax.identity()
    transforms = [
        adam,
        optax.add_decayed_weights(optimizer.weight_decay, mask=mask),
        *_ADAPTATIONS[optimizer.name](axes, mask),
        optax.scale_by_learning_rate(schedule),
        *([] if factors is None else [optax.stateless(partial(_scale, factors))]),
        *gate,
    ]
    if adapter is not None and adapter.name == "adalora":
        from ptft_jax.training.updates.rank_budget import budgeted, orthogonal

        inner = budgeted(optax.chain(*transforms), adapter, steps)
        return optax.chain(orthogonal(adapter), *gate, clipping, inner), schedule
    return optax.chain(*gate, clipping, *transforms), schedule


def _closed_before(at: Any) -> optax.GradientTransformation:
    """Returns zeros for a parameter until so many updates are made, then what comes in."""

    def init_fn(params):
        del params
        return optax.ScaleByScheduleState(jnp.zeros((), jnp.int32))

    def update_fn(updates, state, params=None):
        del params
        count = state.count
        updates = jax.tree.map(lambda at, update: (count >= at) * update, at, updates)
        return updates, optax.ScaleByScheduleState(optax.safe_increment(count))

    return optax.GradientTransformation(init_fn, update_fn)


def _adam_from(adam: optax.GradientTransformation, at: Any) -> optax.GradientTransformation:
    """Returns Adam whose bias correction counts the updates of each layer from `at` on."""

    def update_fn(updates, state, params=None):
        del params

        def update_leaf(at, update, mu, nu):
            made = jnp.maximum(state.count - at, 0)
            return adam.update(update, optax.ScaleByAdamState(made, mu, nu))

        both = jax.tree.map(update_leaf, at, updates, state.mu, state.nu)
        updates, mu, nu = (
            jax.tree.map(part, both, is_leaf=lambda node: isinstance(node, tuple))
            for part in (lambda one: one[0], lambda one: one[1].mu, lambda one: one[1].nu)
        )
        return updates, optax.ScaleByAdamState(optax.safe_increment(state.count), mu, nu)

    return optax.GradientTransformation(adam.init, update_fn)


def _scale(factors: Any, updates: Any, params: Any) -> Any:
    del params
    return jax.tree.map(lambda factor, update: factor * update, factors, updates)


def _scale_by_layer_trust_ratio(axes: Any, mask: Any) -> optax.GradientTransformation:
    """Scale each layer's update to the norm of its parameters, where `mask` is True.

    `optax.lamb` takes one norm for each array; for an array [L, ...] of stacked layers that would
    be one norm for all of them, so here such arrays are mapped over their first axis.
    """
    one_array = optax.scale_by_trust_ratio()

    def scale(update, param):
        return one_array.update(update, optax.EmptyState(), param)[0]

    def scale_leaf(names, adapt, update, param):
        if not adapt:
            return update
        return (jax.vmap(scale) if names[:1] == (LAYERS_AXIS,) else scale)(update, param)

    def update_fn(updates, state, params=None):
        if params is None:
            raise ValueError("the trust ratio needs params: call update(grads, state, params)")
        return jax.tree.map(scale_leaf, axes, mask, updates, params, is_leaf=_is_axes), state

    return optax.GradientTransformation(one_array.init, update_fn)


_ADAPTATIONS: Mapping[str, Callable[[Any, Any], list[optax.GradientTransformation]]] = {
    "adamw": lambda axes, mask: [],
    "lamb": lambda axes, mask: [_scale_by_layer_trust_ratio(axes, mask)],
}

_DECAYS: Mapping[str, Callable[[float, int, float], optax.Schedule]] = {
    "linear": lambda peak, steps, end: optax.linear_schedule(peak, end * peak, steps),
    "cosine": lambda peak, steps, end: optax.cosine_decay_schedule(peak, steps, alpha=end),
    "constant": lambda peak, steps, end: optax.constant_schedule(peak),
    "one_cycle": lambda peak, steps, end: optax.cosine_decay_schedule(peak, steps, alpha=end),
}


def _is_axes(node: Any) -> bool:
    return isinstance(node, tuple)


def _check_name(key: str, value: str, known: Mapping[str, Any]) -> None:
    if value in known:
        return
    near = difflib.get_close_matches(str(value), known, n=1, cutoff=0.0)[0]
    raise ConfigError(f"{key}={value!r} is none of {', '.join(known)}; nearest: {near}")


def _check_number(
    key: str,
    value: float,
    *,
    above: float = -math.inf,
    at_least: float = -math.inf,
    below: float = math.inf,
    at_most: float = math.inf,
) -> None:
    """Raise ConfigError unless `value` is a finite number within the given bounds."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and math.isfinite(value) and above < value < below and at_least <= value <= at_most:
        return
    words = {"above": above, "at least": at_least, "below": below, "at most": at_most}
    bounds = [f"{word} {bound:g}" for word, bound in words.items() if math.isfinite(bound)]
    raise ConfigError(f"{key}={value!r} must be a number {' and '.join(bounds)}")
