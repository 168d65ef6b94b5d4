"""The files and lines that a run's metrics are written to."""

import io
import json
import subprocess
import sys
from collections import defaultdict

import numpy as np
import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

from ptft_jax.commands.train.progress import ConsoleProgress
from ptft_jax.training.tracking import metric_sinks as writers
from ptft_jax.training.tracking.metric_sinks import (
    MetricsWriter,
    Report,
    progress_line,
    write_results,
)


def entries(run_dir):
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_lines_have_all_digits_and_no_nan(tmp_path):
    """A float read back is the float that was measured; what JSON cannot say is null."""
    loss = float(np.float32(0.1))
    with Report(MetricsWriter(tmp_path)) as report:
        report.training(1, {"loss": loss, "grad_norm": float("inf"), "tokens_per_second": None})
        report.evaluation(1, "dev", {"loss": float("nan"), "accuracy": 0.25})
        # Written out at once: a killed run loses no line.
        assert entries(tmp_path) == [
            {"step": 1, "loss": loss, "grad_norm": None, "tokens_per_second": None},
            {"step": 1, "split": "dev", "loss": None, "accuracy": 0.25},
        ]
    assert report.results["dev"]["accuracy"] == 0.25


def charts(run_dir):
    """Returns what TensorBoard shows: by chart and run, the value of each step."""
    found = EventMultiplexer().AddRunsFromDirectory(str(run_dir)).Reload()
    charts = defaultdict(dict)
    for run, kinds in found.Runs().items():
        for tag in kinds["scalars"]:
            if shown := found.Scalars(run, tag):
                charts[tag][run] = {event.step: event.value for event in shown}
    return charts


def test_tensorboard_shows_all_splits_in_one_chart_and_each_step_once(tmp_path):
    """A chart has a tag and lines of several runs, so train and dev differ in run, not in tag; the
    steps that a killed run is about to make again are shown as they were made last.
    """
    with Report(MetricsWriter(tmp_path)) as report:
        for step in (1, 2, 3):
            report.training(step, {"loss": float(step), "tokens_per_second": None})
        report.evaluation(3, "dev", {"loss": 0.5})
        # A viewer sees each value at once.
        assert charts(tmp_path) == {
            "metrics/loss": {
                "tensorboard/train": {1: 1.0, 2: 2.0, 3: 3.0},
                "tensorboard/dev": {3: 0.5},
            }
        }
    # A second start within a second may not take the first one's file.
    with Report(MetricsWriter(tmp_path, start_step=1)) as report:
        report.training(2, {"loss": 2.5})
    assert charts(tmp_path)["metrics/loss"] == {"tensorboard/train": {1: 1.0, 2: 2.5}}


def test_writing_for_tensorboard_needs_no_torch(tmp_path):
    """Its import costs each process of a job three seconds."""
    code = (
        "import sys; from ptft_jax.training.tracking.metric_sinks import MetricsWriter;"
        f"MetricsWriter({str(tmp_path)!r}).training(1, {{'loss': 1.0}});"
        "print([name for name in ('torch', 'tensorflow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_resuming_drops_what_comes_again(tmp_path):
    """Lines after the checkpoint and a broken last line go, so that no step is there twice."""
    with Report(MetricsWriter(tmp_path)) as report:
        for step in (1, 2, 3):
            report.training(step, {"loss": float(step)})
            report.evaluation(step, "dev", {"loss": -float(step)})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    with Report(MetricsWriter(tmp_path, start_step=2)) as report:
        report.evaluation(2, "dev", {"loss": -2.0})
        report.training(3, {"loss": 3.5})
    steps = [(entry["step"], entry.get("split"), entry["loss"]) for entry in entries(tmp_path)]
    assert steps == [
        (1, None, 1.0),
        (1, "dev", -1.0),
        (2, None, 2.0),
        (2, "dev", -2.0),
        (3, None, 3.5),
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "tensorboard"]


def test_results(tmp_path):
    """The results of a run are one sorted, indented JSON file, replaced as a whole."""
    for accuracy in (0.5, np.float32(0.75)):
        path = write_results(tmp_path, {"step": 3, "dev": {"loss": float("nan"), "acc": accuracy}})
    assert path.read_text() == (
        '{\n  "dev": {\n    "acc": 0.75,\n    "loss": null\n  },\n  "step": 3\n}\n'
    )
    assert [entry.name for entry in tmp_path.iterdir()] == ["results.json"]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    """A value that is no JSON must not cost the results of the run before."""
    write_results(tmp_path, {"dev": {}})
    with pytest.raises(TypeError):
        write_results(tmp_path, {"dev": object()})
    assert json.loads((tmp_path / "results.json").read_text()) == {"dev": {}}
    assert [entry.name for entry in tmp_path.iterdir()] == ["results.json"]


METRICS = {
    "loss": 7.12345,
    "mlm_accuracy": 0.25,
    "nsp_accuracy": 0.5,
    "learning_rate": 1e-4,
    "tokens_per_second": 12345.6,
}


def test_plain_console(monkeypatch):
    """A log file gets a line every few seconds and the last one, not a line per step."""
    now = iter([100.0, 101.0, 106.0, 107.0])
    monkeypatch.setattr(writers.time, "monotonic", lambda: next(now))
    output = io.StringIO()
    progress = ConsoleProgress(Console(file=output, width=60))
    progress.begins(4)
    for step in (1, 2, 3, 4):
        progress.training(step, METRICS)
    progress.evaluation(4, "dev", {"loss": 6.5, "accuracy": None})
    progress.say("made [CLS] of 3")
    progress.close()
    assert output.getvalue().splitlines() == [
        "step 1/4  25%  loss 7.1235  mlm_accuracy 0.2500  nsp_accuracy 0.5000  "
        "12,346 tokens/s  lr 1.00e-04",
        "step 3/4  75%  ETA 3.0 s  loss 7.1235  mlm_accuracy 0.2500  nsp_accuracy 0.5000  "
        "12,346 tokens/s  lr 1.00e-04",
        "step 4/4  100%  ETA 0.0 s  loss 7.1235  mlm_accuracy 0.2500  nsp_accuracy 0.5000  "
        "12,346 tokens/s  lr 1.00e-04",
        "step 4  dev:  loss 6.5000  accuracy n/a",
        "made [CLS] of 3",
    ]


def test_the_console_says_how_well_and_how_full_the_devices_are():
    """Where it is known; a CPU's line has neither."""
    known = {"loss": 1.0, "tokens_per_second": 2e6, "mfu": 0.3981, "device_memory_gib": 11.73}
    said = progress_line(1, 2, known, None)
    assert said == "step 1/2  50%  loss 1.0000  2,000,000 tokens/s  MFU 39.8%  11.7 GiB"
    unknown = {**known, "mfu": None, "device_memory_gib": None}
    assert progress_line(1, 2, unknown, None) == "step 1/2  50%  loss 1.0000  2,000,000 tokens/s"


def test_live_console():
    """On a terminal there is one line that is redrawn, and other lines stay above it."""
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=80, color_system=None)
    progress = ConsoleProgress(console)
    progress.begins(10)
    progress.training(5, METRICS)
    progress.say("a line of its own")
    progress.close()
    text = output.getvalue()
    assert "a line of its own\n" in text
    assert "step 5/10  50%  loss 7.1235" in text
    # Cut at the width of the terminal: a wrapped live line cannot be redrawn.
    assert "…" in text
    assert "lr" not in text
