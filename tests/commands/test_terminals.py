"""What commands show in a narrow terminal: nothing is wrapped where it would be a mess."""

import io
import json
import re
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from rich.console import Console

from ptft_jax.commands import screen
from ptft_jax.commands.look import checkpoints, status
from ptft_jax.commands.train.progress import ConsoleProgress
from ptft_jax.training.accounting.heartbeat import Beat
from ptft_jax.training.checkpoints.manifest import Manifest, write_manifest

METRICS = {
    "dev_mlm_accuracy": 0.25,
    "dev_nsp_accuracy": 0.5,
    "dev_mlm_loss": 2.5,
    "dev_nsp_loss": 0.7,
    "dev_loss": 3.2,
}


@pytest.fixture(params=[80, 200])
def terminal(request, monkeypatch) -> Console:
    """A terminal of 80 and one of 200 columns; what it shows is in its file."""
    monkeypatch.setenv("TERM", "xterm")
    width = request.param
    return Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)


def lines_of(terminal: Console) -> list[str]:
    """Returns the lines that were shown, but for the commands to copy; none may be too long."""
    file = terminal.file
    assert isinstance(file, io.StringIO)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue()).replace("\r", "\n")
    lines = [line.rstrip() for line in plain.partition("\nnext\n")[0].split("\n")]
    assert max(map(len, lines)) <= terminal.width
    return [line for line in lines if line]


@pytest.fixture
def run_dir(tmp_path) -> Path:
    """The folder of a run with two checkpoints of many metrics, whose process has ended."""
    folder = tmp_path / "run"
    (folder / "status").mkdir(parents=True)
    record = {"format": "ptft_jax run", "format_version": 1, "command": "pretrain"}
    record |= {"config": {"steps": 20}, "model": {"heads": []}, "labels": None}
    (folder / "config.json").write_text(json.dumps({**record, "best": ["dev_loss", "min"]}))
    for step in (10, 20):
        place = folder / "checkpoints" / str(step)
        place.mkdir(parents=True)
        write_manifest(place, Manifest(step, {}, METRICS, False))
    now = time.time()
    beat = Beat(now - 9, now - 99, "training", now - 50, 20, 20, 9.0, 0, 0, 2, "node0017", 1234567)
    for number in range(2):
        line = json.dumps(asdict(replace(beat, process=number)))
        (folder / "status" / f"process-{number:05d}.json").write_text(line)
    return folder


def test_a_checkpoint_is_one_line(run_dir, terminal, monkeypatch):
    """With its five metrics one took seven lines; the one that decides which is best is first."""
    monkeypatch.setattr(checkpoints, "make_console", lambda: terminal)
    values = checkpoints.flags.FlagValues()
    checkpoints.Ls.define_flags(values)
    values(["ptft", f"--run_dir={run_dir}"])
    checkpoints.Ls.run(values)
    rows = [line for line in lines_of(terminal) if line.split()[0] in ("10", "20")]
    assert len(rows) == 2
    assert all("bytes   dev_loss 3.2000 " in row and row.endswith("whole") for row in rows)
    assert all(("dev_nsp_loss 0.7000" in row) == (terminal.width == 200) for row in rows)


def test_a_process_is_one_line(run_dir, terminal):
    """The row was broken for the sake of an empty column."""
    status.show(run_dir, terminal)
    shown = lines_of(terminal)
    rows = [line for line in shown if "node0017" in line]
    assert len(rows) == 2
    assert all(row.endswith(" ago") and "ended: finished (0)" in row for row in rows)


def test_a_long_fact_goes_on_below_its_beginning(terminal):
    """The terminal broke it in the middle of a word and went on below its name."""
    value = " ".join(f"word{number}" for number in range(25))
    screen.facts(terminal, {"a": "short", "longer": value})
    first, second, *more = lines_of(terminal)
    assert (first, second[:13]) == ("a       short", "longer  word0")
    assert bool(more) == (terminal.width == 80)
    assert all(line.startswith(" " * 8 + "word") for line in more)


def test_the_live_line_shrinks_from_the_right(terminal):
    """Step, share, time left and loss are what is wanted most."""
    progress = ConsoleProgress(terminal)
    progress.begins(1000)
    metrics = {"loss": 2.5, "mlm_accuracy": 0.25, "nsp_accuracy": 0.5, "tokens_per_second": 1e5}
    metrics |= {"learning_rate": 1e-4, "mfu": 0.4, "device_memory_gib": 70.0, "data_wait": 0.01}
    for step in (10, 20):
        progress.training(step, metrics)
    progress.close()
    line = lines_of(terminal)[-1]
    assert re.match(
        r"step 20/1000  2%  ETA [\d.:]+( s)?  loss 2\.5000  mlm_accuracy 0\.2500  ", line
    )
    assert line.endswith("…" if terminal.width == 80 else "data wait 1.0%")
