"""The loop of a run: steps, logging, evaluation and checkpoints, at the intervals it is given.

It knows no config, model or mesh; what it needs comes as arrays and callables.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

import jax
import numpy as np

from ptft_jax.errors import DataError
from ptft_jax.training.cluster.job import Job
from ptft_jax.training.resources.memory import peak_memory_gib
from ptft_jax.training.step import TrainState
from ptft_jax.training.tracking.metric_sinks import Report

Batch = Mapping[str, np.ndarray]
Step = Callable[[TrainState, Any], tuple[TrainState, Mapping[str, jax.Array]]]
# From the parameters to the metrics of each split, {"dev": {"loss": …}}.
Evaluate = Callable[[Any], Mapping[str, Mapping[str, float]]]


class Batches(Protocol):
    """This process's rows of each batch, in the order of the data, at least up to `until`."""

    @property
    def next_index(self) -> int:
        """Global index of the first example that no batch handed out so far holds."""
        ...

    def __next__(self) -> Batch: ...


class Saver(Protocol):
    """Saves the checkpoints of a run.

    `metrics` are those of an evaluation at the very same step, named 'dev_loss', or {}.
    """

    def save(
        self,
        step: int,
        state: TrainState,
        next_index: int,
        metrics: Mapping[str, float],
        evaluation_due: bool,
    ) -> None:
        """Begins to save; the state may be donated once it returns.

        `evaluation_due`: the evaluation of this step was broken off and is to be made by whoever
        goes on from here.
        """

    def record_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds the metrics of an evaluation that was due to the checkpoint of its step."""

    def check(self) -> None:
        """Raises the error of a save that has failed in the background."""

    def wait(self) -> None:
        """Waits until everything is on disk; raises the error if that failed."""


class Patience(Protocol):
    """Says when a run ends that gets no better."""

    def improves(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Takes an evaluation and says whether it is the best so far."""
        ...

    def is_over(self, step: int) -> bool:
        """Says whether the run ends after `step` updates."""
        ...


class EvaluationStopError(Exception):
    """An evaluation was broken off because the job stops."""


def until_stopped(batches: Iterable[Batch], job: Job) -> Iterator[Batch]:
    """Yields the batches of an evaluation; raises EvaluationStopError where the job stops."""
    for batch in batches:
        if job.stops_here():
            raise EvaluationStopError
        yield batch


def fit(
    state: TrainState,
    step: Step,
    batches: Batches,
    *,
    put: Callable[[Batch], Any],
    until: int,
    report: Report,
    saver: Saver,
    evaluate: Evaluate | None = None,
    ends_run: bool = True,
    log_every: int = 10,
    eval_every: int = 0,
    checkpoint_every: int = 0,
    max_skipped_in_row: int = 10,
    evaluation_due: bool = False,
    patience: Patience | None = None,
    ideal_seconds: Callable[[Batch], float] | None = None,
    job: Job | None = None,
) -> TrainState:
    """Make updates until `until` of them are made in all, or `patience` ends; return the state.

    Args:
      state: state after `state.step` updates; its arrays are donated to `step`.
      step: makes one update; its metrics are float32 scalars, among them 'loss' and 'tokens' (real
        tokens in the global batch). They are fetched at logged steps only, so that the device never
        waits for the host.
      batches: positioned at the batch that follows `state.step`.
      put: places this process's rows of a batch on the devices.
      until: the last step of this call.
      report: receives the metrics of every step divisible by `log_every` and of the last one. They
        are that step's own values, no means over the steps before, so that a resumed run reports
        what an uninterrupted one does; only 'tokens_per_second', 'mfu' (see `ideal_seconds`) and
        'data_wait', the share of the time in which the devices may have stood idle for want of a
        batch, are taken over the steps since the last report, without the first step (it compiles),
        evaluations and blocking saves, and are None where no step was timed;
        'device_memory_gib' is the most that a device of this process has held so far.
      saver: saves at steps divisible by `checkpoint_every` (0: none) and at the end, after the
        evaluation of the same step and with the position in the data that follows this step.
      evaluate: called at steps divisible by `eval_every` (0: none) and at the end; None: never. It
        takes its batches through `until_stopped`.
      ends_run: whether `until` is the end of the run, which is logged, evaluated and saved whatever
        the intervals say; False where another phase follows.
      max_skipped_in_row: the step's own number of batches without finite gradients that ends the
        run.
      evaluation_due: whether the evaluation of `state.step` has still to be made.
      patience: ends the run early, after an evaluation, which is then saved; each that is the best
        so far is saved as well. None: the run goes to its end.
      ideal_seconds: the time that the model FLOPs of a batch take at the peak of all devices; 'mfu'
        is this over the time that it took. None where the peak is not known.
      job: the job of this process; None: one of its own, without signals.

    When the job is stopped (SIGTERM, Ctrl-C), all its processes end after the same update: they
    save a checkpoint, breaking off an evaluation, and raise StopError.

    Raises DataError after `max_skipped_in_row` updates in a row without finite gradients, seen at
    the steps that log, evaluate or save; such a state is not saved, nor is one whose evaluation
    raises DataError.
    """
    job = job or Job()
    done = int(state.step)
    ended = patience is not None and not evaluation_due and patience.is_over(done)
    if done >= until or evaluation_due or ended:
        try:
            scores = _evaluate(state, done, report, evaluate, job)
        except EvaluationStopError:
            raise job.stopped("in an evaluation, which is made at the next start") from None
        if evaluation_due:
            saver.record_metrics(done, scores)
            if patience is not None:
                patience.improves(done, scores)
                ended = patience.is_over(done)
        if done >= until or ended:
            if ends_run:
                job.finishing()
                if not evaluation_due:
                    saver.save(done, state, batches.next_index, scores, False)
            return state
    rate = _Rate(ideal_seconds)
    metrics: Mapping[str, Any] = {"tokens": jax.numpy.zeros(())}
    with job.activity("training"):
        while done < until:
            started = time.monotonic()
            batch = next(batches)
            # Waiting costs nothing while the devices still run the step before.
            waited = time.monotonic() - started if metrics["tokens"].is_ready() else 0.0
            job.heartbeat.waited += waited
            if rate.timing:
                state, metrics = step(state, put(batch))
                rate.add(batch, metrics["tokens"], waited)
            else:
                with job.activity("compiling"):
                    state, metrics = step(state, put(batch))
                    jax.block_until_ready(metrics)
                seconds = time.monotonic() - started
                report.say(f"first step, with its compilation: {seconds:.1f} s")
                job.has_begun()
                rate.start()
            done += 1
            job.heartbeat.step = done
            saver.check()

            last = ends_run and done == until
            # A stop from here on counts after the next step.
            stops = not last and job.stops_here()
            logs = last or done % log_every == 0
            evaluates = evaluate is not None and (last or _due(done, eval_every))
            saves = last or _due(done, checkpoint_every) or stops
            if not (logs or evaluates or saves):
                continue
            values = {name: float(value) for name, value in jax.device_get(metrics).items()}
            rate.pause()
            # jit returns its dicts sorted by key; a line reads better with the loss in front.
            values = {"loss": values.pop("loss"), **values}
            if logs:
                memory = {"device_memory_gib": peak_memory_gib(jax.local_devices())}
                report.training(done, {**values, **rate.take(), **memory})
            _check_skipped(done, values, max_skipped_in_row, report)
            scores, is_due = {}, evaluates and stops
            if evaluates and not stops:
                try:
                    scores = _evaluate(state, done, report, evaluate, job)
                    if patience is not None:
                        is_best, ended = patience.improves(done, scores), patience.is_over(done)
                        saves, last = saves or is_best or ended, last or ended
                except EvaluationStopError:
                    stops = saves = is_due = True
            if last and not stops:
                job.finishing()
            if saves:
                with job.activity("saving"):
                    saver.save(done, state, batches.next_index, scores, is_due)
            if stops:
                with job.activity("saving"):
                    saver.wait()
                raise job.stopped(f"saved step {done} of {until}; the same command resumes there")
            if last:
                break
            rate.start()
    return state


class _Rate:
    """Tokens per second of the time in which steps run; counts stay on the device till taken."""

    def __init__(self, ideal_seconds: Callable[[Batch], float] | None):
        self._ideal_seconds = ideal_seconds
        self._ideal = 0.0
        self._tokens: list[jax.Array] = []
        self._seconds = 0.0
        self._waited = 0.0
        self._started: float | None = None

    @property
    def timing(self) -> bool:
        return self._started is not None

    def add(self, batch: Batch, tokens: jax.Array, waited: float) -> None:
        self._tokens.append(tokens)
        self._ideal += self._ideal_seconds(batch) if self._ideal_seconds else 0.0
        self._waited += waited

    def start(self) -> None:
        self._started = time.monotonic()

    def pause(self) -> None:
        """Stop the clock; all steps counted so far have finished."""
        assert self._started is not None
        self._seconds += time.monotonic() - self._started

    def take(self) -> dict[str, float | None]:
        """Return what was measured since the last call, None if no step was timed since."""
        tokens = float(np.sum(jax.device_get(self._tokens), dtype=np.float64))
        timed = bool(self._tokens) and self._seconds > 0
        values = {
            "tokens_per_second": tokens / self._seconds if timed else None,
            "data_wait": self._waited / self._seconds if timed else None,
            "mfu": self._ideal / self._seconds if timed and self._ideal_seconds else None,
        }
        self._tokens, self._seconds, self._waited, self._ideal = [], 0.0, 0.0, 0.0
        return values


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _check_skipped(step: int, values: Mapping[str, float], most: int, report: Report) -> None:
    in_row = int(values.get("skipped_in_row", 0))
    if in_row >= most:
        raise DataError(
            f"loss or gradients were not finite in {in_row} updates in a row, the last of them at "
            f"step {step} (max_skipped_in_row={most}): the run has diverged. Those updates were "
            "left out and nothing of them is saved. Go back to an earlier checkpoint, past these "
            "batches, with `ptft ckpt rewind --step=STEP --skip_batches=N`, or go on with a lower "
            "optimizer.learning_rate or a longer warm-up, and check the data around this step"
        )
    if in_row:
        report.say(
            f"step {step}: loss or gradients not finite, {in_row} in a row; the update was left "
            f"out ({int(values['skipped'])} in all)"
        )


def _evaluate(
    state: TrainState, step: int, report: Report, evaluate: Evaluate | None, job: Job
) -> dict[str, float]:
    """Report the metrics of every split and return them in one dict, 'dev_loss'."""
    if evaluate is None:
        return {}
    scores = {}
    with job.activity("evaluating"):
        try:
            results = evaluate(state.outcome)
        except DataError as error:
            raise DataError(f"evaluation after step {step}: {error}") from error
    for split, metrics in results.items():
        report.evaluation(step, split, metrics)
        scores |= {f"{split}_{name}": value for name, value in metrics.items()}
    return scores
