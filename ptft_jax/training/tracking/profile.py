"""A trace of some updates of a run, and which kernels the devices spent them on."""

import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any

import jax

from ptft_jax.errors import StorageError
from ptft_jax.training.loop import Step
from ptft_jax.training.step import TrainState
from ptft_jax.training.tracking.metric_sinks import Kernel, Report


def tracing(
    profile: tuple[int, int], folder: Path, done: int, report: Report
) -> AbstractContextManager["Tracer | None"]:
    """Returns the tracer of a run that has made so many updates; None where nothing is to trace.

    Args:
        profile: the updates to trace are those after the first number up to the second.
        folder: where the trace goes.
        done: updates that are made already.
        report: takes the kernels, and the words about how to look at the trace.
    """
    start, stop = profile
    if done >= stop:
        report.say(f"--profile={start}:{stop}: these updates are made already, nothing to trace")
        return nullcontext()

    def shown(updates: int, file: Path, kernels: list[Kernel]) -> None:
        report.kernels(updates, kernels)
        report.say(
            f"trace of the updates {stop - updates + 1} to {stop}: {file}\n"
            f"to look at it: `xprof --logdir={folder}` or `tensorboard --logdir={folder}` (both "
            "need the package xprof), or open the .trace.json.gz beside it in ui.perfetto.dev"
        )

    return Tracer(folder, start, stop, done, shown)


class Tracer:
    """Traces the updates after `start` up to `stop`, as far as this process makes them.

    Args:
        folder: where the trace goes.
        start, stop: number of updates made before the first and after the last one traced.
        done: updates that are made already.
        shown: takes the number of updates in the trace, its file, and the kernels, longest first.

    As a context manager it ends a trace that a stop or an error has cut off.
    """

    def __init__(
        self,
        folder: Path,
        start: int,
        stop: int,
        done: int,
        shown: Callable[[int, Path, list[Kernel]], None],
    ):
        self._folder, self._start, self._stop, self._done = folder, start, stop, done
        self._shown = shown
        self._began: int | None = None

    def __enter__(self) -> "Tracer":
        return self

    def __exit__(self, *_: object) -> None:
        if self._began is not None:
            with suppress(jax.errors.JaxRuntimeError):
                jax.profiler.stop_trace()

    def around(self, step: Step) -> Step:
        """Returns the step with the trace begun and ended around its updates.

        The devices come to rest at both ends, so that no kernel of another update gets in.
        """

        def traced(state: TrainState, batch: Any) -> Any:
            if self._began is None and self._start <= self._done < self._stop:
                jax.block_until_ready(state)
                self._began = self._done
                options = jax.profiler.ProfileOptions()
                # Every Python call would be an event, and slow down what is measured.
                options.python_tracer_level = 0
                jax.profiler.start_trace(self._folder, profiler_options=options)
            state, metrics = step(state, batch)
            self._done += 1
            if self._began is not None and self._done == self._stop:
                jax.block_until_ready(state)
                updates, self._began = self._done - self._began, None
                file = self._write()
                self._shown(updates, file, kernels(file, updates, jax.local_device_count()))
            return state, metrics

        return traced

    def _write(self) -> Path:
        """Ends the trace and returns its file."""
        try:
            jax.profiler.stop_trace()
        except jax.errors.JaxRuntimeError as error:
            raise StorageError(
                f"the trace could not be written to {self._folder}: {error}. Expected a folder "
                "with room: make some, or leave --profile out, and start the same command again."
            ) from error
        # In a folder named by the time.
        return max(self._folder.glob("plugins/profile/*/*.xplane.pb"))


def kernels(file: Path, updates: int, devices: int) -> list[Kernel]:
    """Reads the kernels of a trace of `updates` on so many devices, those that took longest first.

    Those of a GPU's streams or of a TPU's cores; where there are none, XLA's operations on the CPU.
    """
    seconds: dict[str, float] = defaultdict(float)
    counts: dict[str, int] = defaultdict(int)
    with warnings.catch_warnings():
        # jaxlib's reader warns at its first use, and aborts the process where that is an error.
        warnings.simplefilter("ignore", DeprecationWarning)
        for events in _lines(jax.profiler.ProfileData.from_file(str(file))):
            for name, nanoseconds in _own_times(events):
                seconds[name] += nanoseconds / 1e9
                counts[name] += 1
    each = updates * devices
    found = [Kernel(name, counts[name] / each, seconds[name] / each) for name in seconds]
    return sorted(found, key=lambda kernel: -kernel.seconds)


def _lines(trace: Any) -> Iterator[list[Any]]:
    """Yields the events of each row of the trace that kernels are in."""
    prefixes = {"/device:GPU": "Stream", "/device:TPU": "XLA Ops"}
    there = False
    for plane in trace.planes:
        prefix = prefixes.get(plane.name[:11])
        for line in plane.lines if prefix else ():
            if line.name.startswith(prefix):
                there = True
                yield list(line.events)
    if not there:
        for plane in trace.planes:
            for line in plane.lines if plane.name == "/host:CPU" else ():
                # A thread of the host does much else.
                yield [e for e in line.events if any(name == "hlo_op" for name, _ in e.stats)]


def _own_times(events: Iterable[Any]) -> Iterator[tuple[str, float]]:
    """Yields the name of each event of a row and its nanoseconds without the events inside it."""
    # Those that are open, outermost first: [name, end, own time].
    open_events: list[list[Any]] = []
    for event in sorted(events, key=lambda event: (event.start_ns, -event.duration_ns)):
        while open_events and open_events[-1][1] <= event.start_ns:
            name, _, own = open_events.pop()
            yield name, own
        if open_events:
            open_events[-1][2] -= event.duration_ns
        open_events.append([event.name, event.start_ns + event.duration_ns, event.duration_ns])
    yield from ((name, own) for name, _, own in open_events)
