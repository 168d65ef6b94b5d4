"""Where the metrics of a run go: metrics.jsonl, TensorBoard, results.json, and whoever watches.

A run talks to one `Report`, which passes everything on to its sinks; a process that is not the
first of the job has none.
"""

import json
import math
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ptft_jax.data.progress import duration
from ptft_jax.training.resources.storage import json_ready, storing, write_atomically

# A plain console gets at most one line per so many seconds.
PLAIN_INTERVAL_SECONDS = 5.0

# Metrics None: not known at this step (a rate before anything was timed).
Metrics = Mapping[str, float | None]


class Kernel(NamedTuple):
    """A kernel of a GPU, or an operation of a TPU or CPU: what one update takes of it on a device.

    `seconds` of an operation that runs others (a loop) are those beside them.
    """

    name: str
    count: float
    seconds: float


class Sink:
    """Takes what there is to know of a run; this one does nothing with it."""

    def facts(self, facts: Mapping[str, str]) -> None:
        """Takes what the run is, in words, before anything is compiled."""

    def say(self, text: str) -> None:
        """Takes a line for the person who watches."""

    def begins(self, steps: int) -> None:
        """Takes the number of the last step; the first update comes next."""

    def training(self, step: int, metrics: Metrics) -> None:
        """Takes the metrics of one training step."""

    def evaluation(self, step: int, split: str, metrics: Metrics) -> None:
        """Takes the metrics of a whole split, evaluated after `step` updates."""

    def kernels(self, updates: int, kernels: Sequence[Kernel]) -> None:
        """Takes the kernels in a trace of so many updates, those that took longest first."""

    def ends(self, step: int, results: Mapping[str, Metrics]) -> None:
        """Takes the last evaluation of each split, once all `step` updates are made and saved."""

    def close(self) -> None:
        """Writes out what is left of the metrics; lines may still come after."""


class Report(Sink):
    """Passes everything on to its sinks and remembers the last evaluation of each split.

    `results` maps a split to the metrics of its last evaluation in this process.
    """

    def __init__(self, *sinks: Sink):
        self._sinks = [*sinks]
        self.results: dict[str, Metrics] = {}

    def add(self, sink: Sink) -> None:
        """Passes what comes from now on to one more."""
        self._sinks.append(sink)

    def __enter__(self) -> "Report":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def facts(self, facts: Mapping[str, str]) -> None:
        for sink in self._sinks:
            sink.facts(facts)

    def say(self, text: str) -> None:
        for sink in self._sinks:
            sink.say(text)

    def begins(self, steps: int) -> None:
        for sink in self._sinks:
            sink.begins(steps)

    def training(self, step: int, metrics: Metrics) -> None:
        for sink in self._sinks:
            sink.training(step, metrics)

    def evaluation(self, step: int, split: str, metrics: Metrics) -> None:
        self.results[split] = dict(metrics)
        for sink in self._sinks:
            sink.evaluation(step, split, metrics)

    def kernels(self, updates: int, kernels: Sequence[Kernel]) -> None:
        for sink in self._sinks:
            sink.kernels(updates, kernels)

    def ends(self, step: int, results: Mapping[str, Metrics]) -> None:
        for sink in self._sinks:
            sink.ends(step, results)

    def close(self) -> None:
        for sink in self._sinks:
            sink.close()


class MetricsWriter(Sink):
    """Writes `run_dir`/metrics.jsonl and `run_dir`/tensorboard/train, tensorboard/dev, ….

    A logged training step is one JSON object `{"step": …, "loss": …, …}`, an evaluation one with
    `"split"` after the step. Floats have all their digits; NaN, infinities and unknown values are
    null, because JSON has no word for them. Every line is written out at once.

    `start_step` is the step that the run resumes from, 0 for a new one: later lines, which a killed
    run wrote after its last checkpoint, are removed together with a line it broke off, since the
    same steps are about to be written again. An evaluation that is already in the file (a finished
    run started again) is not written twice.
    """

    def __init__(self, run_dir: str | Path, start_step: int = 0):
        run_dir = Path(run_dir)
        run_dir.mkdir(parents=True, exist_ok=True)
        path = run_dir / "metrics.jsonl"
        kept = [(line, entry) for line, entry in _lines(path) if entry["step"] <= start_step]
        write_atomically(path, "".join(line + "\n" for line, _ in kept))
        self._evaluated = {(entry["step"], entry["split"]) for _, entry in kept if "split" in entry}
        self._path = path
        with storing(run_dir):
            self._file = path.open("a", encoding="utf-8")
        self._start_step = start_step
        self._events: _TensorBoard | None = None

    def training(self, step: int, metrics: Metrics) -> None:
        self._write({"step": step, **metrics})
        self._scalars("train", step, metrics)

    def evaluation(self, step: int, split: str, metrics: Metrics) -> None:
        if (step, split) in self._evaluated:
            return
        self._evaluated.add((step, split))
        self._write({"step": step, "split": split, **metrics})
        self._scalars(split, step, metrics)

    def close(self) -> None:
        with storing(self._path.parent):
            self._file.close()
            if self._events is not None:
                self._events.close()

    def _write(self, entry: Mapping[str, Any]) -> None:
        with storing(self._path):
            self._file.write(json.dumps(json_ready(entry), allow_nan=False) + "\n")
            self._file.flush()

    def _scalars(self, split: str, step: int, metrics: Metrics) -> None:
        # Opened with the first line, and not before: the first step need not wait for the import.
        with storing(self._path.parent / "tensorboard"):
            if self._events is None:
                self._events = _TensorBoard(self._path.parent / "tensorboard", self._start_step)
            self._events.write(split, step, metrics)


class _TensorBoard:
    """Writes a folder per split, each a run to TensorBoard, which draws runs in one chart."""

    def __init__(self, folder: Path, start_step: int):
        self._folder, self._start_step = folder, start_step
        # Of all splits: what they hold of steps that are made again is hidden from now on.
        self._files = {path.name: _EventFile(path, start_step) for path in folder.glob("*/")}

    def write(self, split: str, step: int, values: Metrics) -> None:
        """Writes the values that are known of a step."""
        if split not in self._files:
            self._files[split] = _EventFile(self._folder / split, self._start_step)
        self._files[split].write(step, values)

    def close(self) -> None:
        for file in self._files.values():
            file.close()


class _EventFile:
    """Writes an event file for TensorBoard, each value at once.

    TensorBoard's own EventFileWriter writes in a thread, which a full disk ends without a word.
    """

    def __init__(self, folder: Path, start_step: int):
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder.mkdir(parents=True, exist_ok=True)
        # Made at import: no type checker knows what is in them.
        self._events: Any = event_pb2
        self._summaries: Any = summary_pb2
        # TensorBoard reads the files of a folder in the order of their names.
        now, host = time.time(), socket.gethostname()
        name = f"events.out.tfevents.{int(now):010d}.{host}.{os.getpid()}"
        self._file = RecordWriter((folder / name).open("ab"))
        self._add(0, file_version="brain.Event:2")
        if start_step:
            # Whatever is there from this step on is of updates that are made again.
            log = self._events.SessionLog
            self._add(start_step + 1, session_log=log(status=log.SessionStatus.Value("START")))
        self._file.flush()

    def write(self, step: int, values: Metrics) -> None:
        # TensorBoard opens the first groups of tags only: with a common prefix they are one.
        for name, value in values.items():
            if value is not None:
                summary = self._summaries.Summary()
                summary.value.add(tag=f"metrics/{name}", simple_value=float(value))
                self._add(step, summary=summary)
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _add(self, step: int, **content: Any) -> None:
        event = self._events.Event(wall_time=time.time(), step=step, **content)
        self._file.write(event.SerializeToString())


class ProgressLines(Sink):
    """Tells a run in lines, with at most one of training metrics per `PLAIN_INTERVAL_SECONDS`."""

    def __init__(self, say: Callable[[str], None]):
        self._say = say
        self._start: tuple[int, float] | None = None
        self._shown = -math.inf

    def facts(self, facts: Mapping[str, str]) -> None:
        for name, value in facts.items():
            self.say(f"{name}: {value}")

    def say(self, text: str) -> None:
        self._say(text)

    def begins(self, steps: int) -> None:
        self._steps = steps

    def training(self, step: int, metrics: Metrics) -> None:
        now = time.monotonic()
        # From the first logged step on, so that compilation does not count into the estimate.
        first_step, first_time = self._start = self._start or (step, now)
        left = None
        if step > first_step:
            left = (now - first_time) / (step - first_step) * (self._steps - step)
        line = progress_line(step, self._steps, metrics, left)
        due = step == self._steps or now - self._shown >= PLAIN_INTERVAL_SECONDS
        self._shown = now if due else self._shown
        self.progress(line, due=due)

    def progress(self, line: str, *, due: bool) -> None:
        """Shows how far the run is; `due` False: a line was shown a moment ago."""
        if due:
            self.say(line)

    def evaluation(self, step: int, split: str, metrics: Metrics) -> None:
        # Those of parts of a split ("f1/PER") may be hundreds.
        shown = {name: value for name, value in metrics.items() if "/" not in name}
        values = "  ".join(f"{name} {_short(value)}" for name, value in shown.items())
        self.say(f"step {step}  {split}:  {values}")

    def kernels(self, updates: int, kernels: Sequence[Kernel]) -> None:
        total = sum(kernel.seconds for kernel in kernels) or 1.0
        for kernel in kernels[:10]:
            self.say(f"{kernel.seconds / total:6.1%}  {1e3 * kernel.seconds:.3f} ms  {kernel.name}")


# Of the metrics of a step, those that a line of progress shows, under their own names.
_SHOWN = ("loss", "mlm_accuracy", "nsp_accuracy", "accuracy")


def progress_line(step: int, total: int, metrics: Metrics, seconds_left: float | None) -> str:
    """Return 'step 20/100  20%  ETA 1:20  loss 7.1  mlm_accuracy 0.12  …  5,000 tokens/s  …'.

    What is wanted most stands in front: a narrow terminal cuts the line at its end.
    """
    parts = [f"step {step}/{total}  {step / total:.0%}"]
    if seconds_left is not None:
        parts.append(f"ETA {duration(seconds_left)}")
    parts += [f"{name} {_short(metrics[name])}" for name in _SHOWN if name in metrics]
    forms = {
        "tokens_per_second": "{:,.0f} tokens/s",
        "learning_rate": "lr {:.2e}",
        "mfu": "MFU {:.1%}",
        "device_memory_gib": "{:.1f} GiB",
        "data_wait": "data wait {:.1%}",
    }
    for name, form in forms.items():
        if metrics.get(name) is not None:
            parts.append(form.format(metrics[name]))
    return "  ".join(parts)


def write_results(run_dir: str | Path, results: Mapping[str, Any]) -> Path:
    """Write `run_dir`/results.json, whole or not at all, with sorted keys; return its path.

    NaN and infinities become null.
    """
    path = Path(run_dir) / "results.json"
    text = json.dumps(json_ready(results), indent=2, sort_keys=True, allow_nan=False)
    write_atomically(path, text + "\n")
    return path


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the entries of a metrics.jsonl, without lines that a kill has broken off."""
    return [entry for _, entry in _lines(path)]


def _lines(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return the whole lines of a metrics file, each with its object."""
    if not path.exists():
        return []
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
            kept.append((line, {**entry, "step": int(entry["step"])}))
        except (ValueError, KeyError, TypeError):
            continue
    return kept


def _short(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.4f}"
