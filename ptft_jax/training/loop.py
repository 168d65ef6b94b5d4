"""The loop of a run: steps, logging, evaluation and checkpoints, at the intervals it is given.

It knows no config, model or mesh; what it needs comes as arrays and callables.
"""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import jax
import numpy as np

from ptft_jax.errors import DataError
from ptft_jax.training.state import TrainState
from ptft_jax.training.writers import Report

INTERRUPTED_EXIT_CODE = 130

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


class SaveCheckpoint(Protocol):
    """Saves a checkpoint; the state may be donated once it returns.

    `metrics` are those of an evaluation at the very same step, named 'dev_loss', or {}.
    """

    def __call__(
        self, step: int, state: TrainState, next_index: int, metrics: Mapping[str, float]
    ) -> None: ...


def fit(
    state: TrainState,
    step: Step,
    batches: Batches,
    *,
    put: Callable[[Batch], Any],
    until: int,
    report: Report,
    save: SaveCheckpoint,
    evaluate: Evaluate | None = None,
    ends_run: bool = True,
    log_every: int = 10,
    eval_every: int = 0,
    checkpoint_every: int = 0,
) -> TrainState:
    """Make updates until `until` of them are made in all, and return the state.

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
        what an uninterrupted one does; only 'tokens_per_second' and 'data_wait', the share of the
        time in which the devices may have stood idle for want of a batch, are taken over the steps
        since the last report, without the first step (it compiles), evaluations and blocking
        saves, and are None where no step was timed.
      save: called at steps divisible by `checkpoint_every` (0: none) and at the end, after the
        evaluation of the same step and with the position in the data that follows this step.
      evaluate: called at steps divisible by `eval_every` (0: none) and at the end; None: never.
      ends_run: whether `until` is the end of the run, which is logged, evaluated and saved whatever
        the intervals say; False where another phase follows.

    Ctrl-C ends the run after the current step: it saves a checkpoint and leaves with exit code 130;
    a second one ends it at once. In a job of several processes Ctrl-C is left to the launcher,
    since all of them would have to stop at the same step.

    Raises DataError when the loss is not finite, seen at the steps that log, evaluate or save; such
    a state is never saved.
    """
    done = int(state.step)
    if done >= until:
        save(done, state, batches.next_index, _evaluate(state, done, report, evaluate))
        return state
    rate = _Rate()
    metrics: Mapping[str, Any] = {"tokens": jax.numpy.zeros(())}
    with _interrupt_flag() as interrupted:
        while done < until:
            started = time.monotonic()
            batch = next(batches)
            # Waiting costs nothing while the devices still run the step before.
            waited = time.monotonic() - started if metrics["tokens"].is_ready() else 0.0
            state, metrics = step(state, put(batch))
            done += 1
            if rate.timing:
                rate.add(metrics["tokens"], waited)
            else:
                jax.block_until_ready(metrics)
                seconds = time.monotonic() - started
                report.say(f"first step, with its compilation: {seconds:.1f} s")
                rate.start()

            last = ends_run and done == until
            logs = last or done % log_every == 0
            evaluates = evaluate is not None and (last or _due(done, eval_every))
            # Read once: a Ctrl-C from here on counts after the next step, which then saves.
            stops = interrupted.is_set() and not last
            saves = last or _due(done, checkpoint_every) or stops
            if not (logs or evaluates or saves):
                continue
            values = {name: float(value) for name, value in jax.device_get(metrics).items()}
            rate.pause()
            # jit returns its dicts sorted by key; a line reads better with the loss in front.
            values = {"loss": values.pop("loss"), **values}
            _check_finite(done, values["loss"])
            if logs:
                report.training(done, {**values, **rate.take()})
            scores = _evaluate(state, done, report, evaluate) if evaluates else {}
            if saves:
                save(done, state, batches.next_index, scores)
            if stops:
                report.say(
                    f"interrupted: saved step {done} of {until}; the same command resumes there"
                )
                raise SystemExit(INTERRUPTED_EXIT_CODE)
            rate.start()
    return state


class _Rate:
    """Tokens per second of the time in which steps run; counts stay on the device till taken."""

    def __init__(self):
        self._tokens: list[jax.Array] = []
        self._seconds = 0.0
        self._waited = 0.0
        self._started: float | None = None

    @property
    def timing(self) -> bool:
        return self._started is not None

    def add(self, tokens: jax.Array, waited: float) -> None:
        self._tokens.append(tokens)
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
        }
        self._tokens, self._seconds, self._waited = [], 0.0, 0.0
        return values


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _check_finite(step: int, loss: float) -> None:
    if not math.isfinite(loss):
        raise DataError(
            f"the loss is {loss} at step {step}: the run has diverged; resume from the last "
            "checkpoint with a lower optimizer.learning_rate or a longer warm-up, and check the "
            "data around this step"
        )


def _evaluate(
    state: TrainState, step: int, report: Report, evaluate: Evaluate | None
) -> dict[str, float]:
    """Report the metrics of every split and return them in one dict, 'dev_loss'."""
    scores = {}
    for split, metrics in ({} if evaluate is None else evaluate(state.params)).items():
        report.evaluation(step, split, metrics)
        scores |= {f"{split}_{name}": value for name, value in metrics.items()}
    return scores


@contextmanager
def _interrupt_flag() -> Iterator[threading.Event]:
    """Give an event that the first Ctrl-C sets; the second one interrupts as usual.

    A step donates its state, so an exception in the middle of it would leave nothing to save.
    """
    flag = threading.Event()
    alone = jax.process_count() == 1 and threading.current_thread() is threading.main_thread()
    # A shell gives background jobs an ignored Ctrl-C, which is meant for somebody else.
    if not alone or signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        yield flag
        return

    def handle(number: int, frame: Any) -> None:
        flag.set()
        signal.signal(signal.SIGINT, previous)

    previous = signal.signal(signal.SIGINT, handle)
    try:
        yield flag
    finally:
        signal.signal(signal.SIGINT, previous)
