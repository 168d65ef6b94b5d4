"""A batch whose gradients are not finite leaves no trace in parameters and moments."""

from functools import partial

import jax
import numpy as np
import pytest
from test_layouts import CONFIG, make_batch

from ptft_jax.models.build import build_model
from ptft_jax.objectives.pretraining import PretrainingObjective
from ptft_jax.training.mesh import MeshConfig, make_mesh, put_batch
from ptft_jax.training.step import init_state, make_train_step
from ptft_jax.training.updates.optimizer import OptimizerConfig, ScheduleConfig, make_optimizer

MOST, EMA = 3, 0.22


@pytest.fixture(scope="module")
def training():
    """A mesh of eight devices, a state made anew by each call, and the step."""
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    model = build_model(CONFIG)
    schedule = ScheduleConfig(warmup_steps=4)
    optimizer, rate = make_optimizer(OptimizerConfig(), schedule, 100, model.axes())
    with jax.set_mesh(mesh):
        step = make_train_step(
            model, PretrainingObjective(), optimizer, rate, seed=0, max_skipped_in_row=MOST, ema=EMA
        )
        yield mesh, lambda: init_state(model, optimizer, seed=0, averages=True), step


def bad_batch(number, value):
    """A batch with one weight of a masked position that is NaN or infinite."""
    batch = make_batch(number)
    batch["masked_lm_weights"][5, 1] = value
    return batch


def walk(training, batches):
    """Returns the state on the host and the metrics after each batch."""
    mesh, fresh, step = training
    state, seen = fresh(), []
    for batch in batches:
        state, metrics = step(state, put_batch(batch, mesh))
        seen.append((jax.tree.map(np.array, state), {k: float(v) for k, v in metrics.items()}))
    return seen


def same(a, b):
    """Says whether two trees are equal to the last bit."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(x.tobytes() == y.tobytes() for x, y in pairs)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nothing_changes_but_the_counts(training, value):
    """Parameters, moments and the optimizer's count are those of before; the position goes on."""
    seen = walk(training, [make_batch(0), bad_batch(1, value), bad_batch(2, value), make_batch(3)])
    (first, _), (second, bad), (third, _), (fourth, good) = seen
    for state in (second, third):
        assert same(first.params, state.params)
        assert same(first.opt_state, state.opt_state)
        assert same(first.ema, state.ema)
    assert [int(state.step) for state, _ in seen] == [1, 2, 3, 4]
    assert [(m["skipped"], m["skipped_in_row"]) for _, m in seen] == [
        (0, 0),
        (1, 1),
        (2, 2),
        (2, 0),
    ]
    assert not np.isfinite(bad["loss"])
    assert not same(third.params, fourth.params)
    assert np.isfinite(good["loss"])
    # The rate belongs to the number of updates made, not of batches gone through.
    assert good["learning_rate"] == pytest.approx(1 / 4 * OptimizerConfig().learning_rate)


def test_the_average_is_that_of_the_updates_made(training):
    """By NumPy: it starts at the initial parameters and forgets them, faster than by its decay."""
    start = jax.tree.map(np.array, training[1]().params)
    batches = [make_batch(0), bad_batch(1, np.nan), *map(make_batch, range(2, 5))]
    # (1 + n) / (10 + n) after n updates, at most EMA; the second batch made none.
    decays, average = [2 / 11, 1, EMA, EMA, EMA], start
    for (state, _), decay in zip(walk(training, batches), decays, strict=True):
        both = average, state.params
        average = jax.tree.map(lambda a, b, d=decay: d * a + (1 - d) * b, *both)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), state.ema, average)
    assert not same(state.ema, state.params)


def test_the_run_goes_on_as_if_without_the_batch(training):
    """Apart from dropout, which is a function of the step, a skipped batch might not have been."""
    skipped = walk(training, [make_batch(0), bad_batch(1, np.nan)])[-1][0]
    without = walk(training, [make_batch(0)])[-1][0]
    assert same(skipped.params, without.params)
    assert same(skipped.opt_state, without.opt_state)


def test_after_too_many_in_a_row_nothing_is_learnt(training):
    """The loop looks at logged steps only: what it then finds is the state before the first."""
    bad = [bad_batch(number, np.nan) for number in range(1, 1 + MOST)]
    seen = walk(training, [make_batch(0), *bad, make_batch(8), make_batch(9)])
    assert same(seen[0][0].params, seen[-1][0].params)
    assert [m["skipped_in_row"] for _, m in seen] == [0, 1, 2, 3, 4, 5]
