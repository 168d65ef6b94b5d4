"""The loop and the evaluation, on a model of one number whose loss is known at every step."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ptft_jax.errors import DataError, StorageError
from ptft_jax.objectives.totals import Totals
from ptft_jax.training import loop
from ptft_jax.training.evaluation import evaluate, evaluate_with_outputs
from ptft_jax.training.loop import fit
from ptft_jax.training.step import TrainState
from ptft_jax.training.tracking.metric_sinks import Report

BATCH_SIZE = 4


class Batches:
    """Batch k holds the numbers [4 k, 4 k + 4)."""

    def __init__(self, next_index=0, on_next=lambda index: None):
        self.next_index = next_index
        self.on_next = on_next

    def __next__(self):
        self.on_next(self.next_index)
        values = np.arange(self.next_index, self.next_index + BATCH_SIZE, dtype=np.float32)
        self.next_index += BATCH_SIZE
        return {"values": values}


class Record:
    """Keeps in one list whatever happens, in order."""

    def __init__(self):
        self.events = []
        self.lines = {}
        self.failed = None

    def training(self, step, metrics):
        self.events.append(("log", step))
        self.lines[step] = dict(metrics)

    def evaluation(self, step, split, metrics):
        self.events.append(("evaluate", step, split, dict(metrics)))

    def say(self, text):
        self.events.append(("say", text))

    def close(self):
        pass

    def save(self, step, state, next_index, metrics, evaluation_due):
        assert int(state.step) == step
        self.events.append(("save", step, next_index, dict(metrics)))
        if evaluation_due:
            self.events.append(("due", step))

    def record_metrics(self, step, metrics):
        self.events.append(("add", step, dict(metrics)))

    def check(self):
        if self.failed is not None:
            raise self.failed

    def wait(self):
        self.events.append(("wait",))

    def of(self, *kinds):
        return [event for event in self.events if event[0] in kinds]


def initial(step=0, weight=0.0):
    state = TrainState.new({"weight": jnp.float32(weight)}, None)
    return dataclasses.replace(state, step=jnp.int32(step))


@jax.jit
def train_step(state, batch):
    loss = jnp.sum(batch["values"]) + state.params["weight"]
    params = {"weight": state.params["weight"] + 0.1 * loss}
    metrics = {"loss": loss, "tokens": jnp.float32(BATCH_SIZE)}
    return dataclasses.replace(state, step=state.step + 1, params=params), metrics


def run(record, state=None, batches=None, step=train_step, **settings):
    return fit(
        state or initial(),
        step,
        batches or Batches(),
        put=lambda batch: batch,
        report=Report(record),
        saver=record,
        **settings,
    )


def test_intervals_and_order():
    """Each interval counts by itself; a save follows the evaluation of its step and holds it."""
    record = Record()
    state = run(
        record,
        until=7,
        log_every=3,
        eval_every=2,
        checkpoint_every=4,
        evaluate=lambda params: {"dev": {"loss": float(params["weight"])}},
    )
    assert int(state.step) == 7
    assert record.of("log") == [("log", 3), ("log", 6), ("log", 7)]
    assert [event[1:3] for event in record.of("evaluate")] == [
        (step, "dev") for step in (2, 4, 6, 7)
    ]
    saves = record.of("save")
    assert [event[1:3] for event in saves] == [(4, 16), (7, 28)]
    at_end = {"dev_loss": float(state.params["weight"])}
    assert saves[-1][3] == at_end
    assert [event[0] for event in record.events[-3:]] == ["log", "evaluate", "save"]


def test_zero_means_at_the_end_only():
    """Without intervals a run is evaluated and saved once, when it ends."""
    record = Record()
    run(record, until=3, log_every=100, evaluate=lambda params: {"dev": {"loss": 1.0}})
    assert [event[:2] for event in record.of("log", "evaluate", "save")] == [
        ("log", 3),
        ("evaluate", 3),
        ("save", 3),
    ]


def test_a_save_without_an_evaluation_has_no_metrics():
    """An old evaluation must not speak for newer weights."""
    record = Record()
    scores = {"dev": {"loss": 1.0}}
    run(record, until=3, eval_every=1, checkpoint_every=2, evaluate=lambda params: scores)
    assert [event[3] for event in record.of("save")] == [{"dev_loss": 1.0}] * 2
    record = Record()
    run(record, until=5, eval_every=2, checkpoint_every=3, evaluate=lambda params: scores)
    assert [event[3] for event in record.of("save")] == [{}, {"dev_loss": 1.0}]


def test_a_resumed_run_reports_the_same_losses():
    """The logged loss is the step's own, whatever was logged or done before it."""
    whole, second = Record(), Record()
    run(whole, until=6, log_every=1)
    half = run(Record(), until=2, log_every=5)
    run(second, state=half, batches=Batches(2 * BATCH_SIZE), until=6, log_every=2)
    assert {s: line["loss"] for s, line in second.lines.items()} == {
        s: whole.lines[s]["loss"] for s in (4, 6)
    }


def test_a_finished_run_only_evaluates():
    """Started again, a finished run has its results again and makes no step."""
    record = Record()
    state = run(
        record, state=initial(step=5), until=5, evaluate=lambda params: {"dev": {"loss": 1.0}}
    )
    assert int(state.step) == 5
    assert record.events == [
        ("evaluate", 5, "dev", {"loss": 1.0}),
        ("save", 5, 0, {"dev_loss": 1.0}),
    ]


def test_tokens_per_second(monkeypatch):
    """The rate leaves out the first step, evaluations and saves."""
    now = [0.0]
    monkeypatch.setattr(loop.time, "monotonic", lambda: now[0])

    def slow_evaluation(params):
        now[0] += 50.0
        return {"dev": {"loss": 1.0}}

    class SlowlySaving(Record):
        def save(self, *_):
            now[0] += 30.0

    def step(state, batch):
        now[0] += 100.0 if int(state.step) == 0 else 2.0
        return train_step(state, batch)

    record = SlowlySaving()
    settings = {"until": 5, "log_every": 2, "eval_every": 1, "checkpoint_every": 1}
    run(record, step=step, evaluate=slow_evaluation, **settings)
    rates = {step: line["tokens_per_second"] for step, line in record.lines.items()}
    assert rates == {2: 2.0, 4: 2.0, 5: 2.0}
    assert record.of("say") == [("say", "first step, with its compilation: 100.0 s")]
    record = Record()
    run(record, until=1, log_every=1)
    assert record.lines[1]["tokens_per_second"] is None
    assert record.lines[1]["data_wait"] is None


def test_utilisation_is_of_the_time_in_which_steps_run(monkeypatch):
    """Model FLOPs at peak speed over the time it took, compilation and evaluations left out."""
    now = [0.0]
    monkeypatch.setattr(loop.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(loop, "peak_memory_gib", lambda devices: 11.5)

    def step(state, batch):
        now[0] += 100.0 if int(state.step) == 0 else 2.0
        return train_step(state, batch)

    def slow_evaluation(params):
        now[0] += 50.0
        return {"dev": {"loss": 1.0}}

    record = Record()
    settings = {"until": 3, "log_every": 1, "eval_every": 1, "evaluate": slow_evaluation}
    run(record, step=step, ideal_seconds=lambda batch: 0.125 * len(batch["values"]), **settings)
    assert [record.lines[step]["mfu"] for step in (1, 2, 3)] == [None, 0.25, 0.25]
    assert record.lines[3]["device_memory_gib"] == 11.5
    record = Record()
    run(record, step=step, **settings)
    assert record.lines[3]["mfu"] is None


@pytest.mark.parametrize(("busy", "wait"), [(False, 0.25), (True, 0.0)])
def test_data_wait(monkeypatch, busy, wait):
    """The share of the time that goes by for want of a batch; who trains too slowly sees why.

    While the step before still runs, waiting costs nothing and does not count.
    """
    now = [0.0]
    monkeypatch.setattr(loop.time, "monotonic", lambda: now[0])

    class Tokens:
        """A count on a device that has or has not done its work."""

        def is_ready(self):
            return not busy

        def block_until_ready(self):
            return self

        def __array__(self, *_, **__):
            return np.array(BATCH_SIZE, np.float32)

    def advance(index):
        now[0] += 1.0

    def step(state, batch):
        now[0] += 3.0
        state, metrics = train_step(state, batch)
        return state, {**metrics, "tokens": Tokens()}

    monkeypatch.setattr(loop.jax, "device_get", lambda tree: jax.tree.map(np.asarray, tree))
    record = Record()
    run(record, batches=Batches(on_next=advance), step=step, until=5, log_every=2)
    waits = {number: line["data_wait"] for number, line in record.lines.items()}
    assert waits == {2: wait, 4: wait, 5: wait}


def test_a_phase_that_another_follows_ends_without_ceremony():
    """Its last step is logged, evaluated and saved only where the intervals say so."""
    record = Record()
    state = run(record, until=3, ends_run=False, log_every=2, checkpoint_every=2)
    assert int(state.step) == 3
    assert [event[:2] for event in record.of("log", "save")] == [("log", 2), ("save", 2)]
    run(record, state, until=5, log_every=2, checkpoint_every=2)
    saves = [event[1] for event in record.of("save")]
    assert saves == [2, 4, 5]


def test_metrics_are_fetched_at_logged_steps_only(monkeypatch):
    """Reading a metric makes the device wait for the host; in between none is read."""
    fetches = []
    device_get = jax.device_get
    monkeypatch.setattr(
        loop.jax, "device_get", lambda tree: fetches.append(tree) or device_get(tree)
    )
    run(Record(), until=40, log_every=20)
    assert len(fetches) == 4


def skipping(*bad):
    """A step that counts as the real one does: the batches after the steps `bad` change nothing."""

    def step(state, batch):
        out = jnp.int32(int(state.step) in bad)
        after, metrics = train_step(state, batch)
        after = dataclasses.replace(
            after,
            skipped=state.skipped + out,
            skipped_in_row=(state.skipped_in_row + 1) * out,
        )
        counts = {name: getattr(after, name) for name in ("skipped", "skipped_in_row")}
        return after, {**metrics, **counts}

    return step


def test_skipped_updates_are_counted_and_said():
    """The run goes on, a line says how many there were, and what is logged counts them."""
    record = Record()
    run(record, step=skipping(1, 2, 4), until=6, log_every=1, max_skipped_in_row=3)
    counts = [(line["skipped"], line["skipped_in_row"]) for line in record.lines.values()]
    assert counts == [(0, 0), (1, 1), (2, 2), (2, 0), (3, 1), (3, 0)]
    said = [event[1] for event in record.of("say")][1:]
    assert [text.split(";")[0] for text in said] == [
        "step 2: loss or gradients not finite, 1 in a row",
        "step 3: loss or gradients not finite, 2 in a row",
        "step 5: loss or gradients not finite, 1 in a row",
    ]


def test_too_many_skipped_updates_in_a_row():
    """The run ends with the step's number, what to do, and without saving what has diverged."""
    record = Record()
    with pytest.raises(DataError, match=r"in 3 updates in a row.*step 4 .*ckpt rewind --step"):
        run(
            record,
            step=skipping(1, 2, 3),
            until=9,
            log_every=4,
            checkpoint_every=2,
            max_skipped_in_row=3,
        )
    assert [event[1] for event in record.of("save")] == [2]


def test_a_failed_save_ends_the_run():
    """Training on without ever saving again would lose all of it."""
    record = Record()

    def step(state, batch):
        record.failed = StorageError("disk full") if int(state.step) == 2 else None
        return train_step(state, batch)

    with pytest.raises(StorageError, match="disk full"):
        run(record, step=step, until=100, log_every=50)


def test_an_evaluation_that_is_due_is_made_first():
    """What an uninterrupted run would have written is written, and added to the checkpoint."""
    record = Record()
    run(
        record,
        state=initial(step=4, weight=2.0),
        batches=Batches(4 * BATCH_SIZE),
        until=6,
        log_every=1,
        evaluate=lambda params: {"dev": {"loss": float(params["weight"])}},
        evaluation_due=True,
    )
    assert record.events[:2] == [
        ("evaluate", 4, "dev", {"loss": 2.0}),
        ("add", 4, {"dev_loss": 2.0}),
    ]
    assert [event[1] for event in record.of("log")] == [5, 6]
    record = Record()
    run(
        record,
        state=initial(step=6),
        until=6,
        evaluate=lambda params: {"dev": {"loss": 1.0}},
        evaluation_due=True,
    )
    assert record.events == [("evaluate", 6, "dev", {"loss": 1.0}), ("add", 6, {"dev_loss": 1.0})]


def eval_step(params, batch):
    weights = batch["weights"]
    loss = jnp.sum(batch["values"] * weights)
    count = jnp.sum(weights)
    none = jnp.zeros(())
    metrics = {"mean": (loss, count), "empty": (none, none)}
    return Totals({"a": loss, "b": 2 * loss}, {"a": count, "b": count}, metrics)


SPLIT = [
    {"values": np.float32([1, 2, 3, 4]), "weights": np.float32([1, 1, 1, 1])},
    {"values": np.float32([10, 99, 99, 99]), "weights": np.float32([1, 0, 0, 0])},
]


def test_evaluation_divides_once():
    """Uneven batches weigh by what they hold: no mean of means."""
    means = evaluate(jax.jit(eval_step), {}, SPLIT, lambda batch: batch)
    assert means == {"loss": 12.0, "mean": 4.0, "empty": 0.0}
    assert all(type(value) is float for value in means.values())


def test_evaluation_sums_in_float64():
    """Many batches lose nothing that one batch would have kept."""
    big = {"values": np.float32([2**24]), "weights": np.float32([1])}
    one = {"values": np.float32([1]), "weights": np.float32([1])}
    means = evaluate(jax.jit(eval_step), {}, [big, one, one, one], lambda batch: batch)
    assert means["mean"] == (2**24 + 3) / 4


def test_outputs_come_in_order_without_fillers():
    """Predictions line up with the rows of the split."""

    def step(params, batch):
        outputs = {"logits": batch["values"][:, None], "weights": batch["weights"]}
        return eval_step(params, batch), outputs

    means, outputs = evaluate_with_outputs(jax.jit(step), {}, SPLIT, lambda batch: batch)
    assert means["mean"] == 4.0
    np.testing.assert_array_equal(outputs["logits"], [[1], [2], [3], [4], [10]])
    assert set(outputs) == {"logits"}


def test_an_empty_split():
    """Nothing to evaluate is said, instead of a division by zero."""
    with pytest.raises(DataError, match="no batch"):
        evaluate(eval_step, {}, [], lambda batch: batch)
