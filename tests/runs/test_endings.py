"""A run ends once its evaluations have ceased to get better, however often it was interrupted."""

import dataclasses
from functools import partial

import jax.numpy as jnp
import pytest

from ptft_jax.runs.endings import Patience
from ptft_jax.training.loop import fit
from ptft_jax.training.step import TrainState
from ptft_jax.training.tracking.metric_sinks import Report

BEST = ("dev_f1", "max")
# What an evaluation after so many updates gives.
SCORES = {2: 0.5, 4: 0.7, 6: 0.6, 8: 0.7, 10: 0.65, 12: 0.9}


class Saver:
    """Keeps the metrics of each save; an evaluation that is due has none."""

    def __init__(self, saved):
        self.saved = dict(saved)

    def save(self, step, state, next_index, metrics, evaluation_due):
        self.saved[step] = dict(metrics)

    def record_metrics(self, step, metrics):
        self.saved[step] = dict(metrics)

    def check(self):
        pass

    def wait(self):
        pass


class Batches:
    next_index = 0

    def __next__(self):
        return {}


def step(state, batch):
    metrics = {"loss": jnp.float32(0), "tokens": jnp.float32(1)}
    return dataclasses.replace(state, step=state.step + 1), metrics


def run(patience, *, start=0, saved=(), until=20, scores=SCORES, best=BEST, **settings):
    """Returns the last step and the metrics of all saves."""
    saver, at = Saver(saved), [start]

    def counted(state, batch):
        at[0] += 1
        return step(state, batch)

    state = TrainState.new({}, None)
    state = fit(
        dataclasses.replace(state, step=jnp.int32(start)),
        counted,
        Batches(),
        put=lambda batch: batch,
        until=until,
        report=Report(),
        saver=saver,
        evaluate=lambda params: {"dev": {"f1": scores.get(at[0], 0.0)}},
        eval_every=2,
        patience=patience and Patience(patience, 2, best, saver.saved),
        **settings,
    )
    return int(state.step), saver.saved


def test_a_run_ends_when_it_gets_no_better():
    """An equal score is no better; the best ones so far and the end are saved."""
    assert run(3) == (10, {step: {"dev_f1": SCORES[step]} for step in (2, 4, 10)})
    assert run(2)[0] == 8
    assert run(1)[0] == 6
    # One more, and the best one is reached, which has the others after it.
    assert run(4) == (20, {s: {"dev_f1": SCORES.get(s, 0.0)} for s in (2, 4, 12, 20)})
    assert run(None)[0] == 20


def test_a_lower_metric_may_be_the_better_one():
    assert run(3, best=("dev_f1", "min"))[0] == 8
    losses = {2: 3.0, 4: 2.0, 6: 1.0, 8: 2.0, 10: 2.0, 12: 2.0}
    assert run(3, best=("dev_f1", "min"), scores=losses)[0] == 12


def test_scores_that_are_not_finite_are_no_better():
    scores = {2: float("nan"), 4: 0.1, 6: float("nan"), 8: float("nan")}
    assert run(2, scores=scores)[0] == 8
    assert run(2, scores=dict.fromkeys(range(20), float("nan")))[0] == 4


@pytest.mark.parametrize("start", [2, 4, 5, 7, 9])
def test_a_run_that_goes_on_ends_where_it_would_have(start):
    """From a checkpoint of an evaluation or of a stop, with those that are kept beside it."""
    kept = {step: {"dev_f1": SCORES[step]} for step in (2, 4) if step <= start}
    end, saved = run(3, start=start, saved={max(kept): kept[max(kept)], start: kept.get(start, {})})
    assert end == 10
    assert saved[10] == {"dev_f1": 0.65}


def test_an_evaluation_that_was_broken_off_counts():
    """It is made at the next start, and may be the one that ends the run."""
    resumed = partial(run, 3, saved={4: {"dev_f1": 0.7}}, evaluation_due=True)
    assert resumed(start=8) == (10, {4: {"dev_f1": 0.7}, 8: {"dev_f1": 0.7}, 10: {"dev_f1": 0.65}})
    end, saved = resumed(start=10)
    assert (end, saved[10]) == (10, {"dev_f1": 0.65})


def test_a_run_that_has_ended_early_makes_no_update():
    """Killed before its results were written, it only gives them again."""
    saved = {4: {"dev_f1": 0.7}, 10: {"dev_f1": 0.65}}
    assert run(3, start=10, saved=saved) == (10, saved)
    # With more patience it goes on.
    assert run(4, start=10, saved=saved)[0] == 20
