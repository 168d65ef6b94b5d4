"""A killed run that is started again goes on as if nothing had happened, to the last bit."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from command_line import (
    DROPOUT,
    finetune_flags,
    losses,
    metrics,
    prepare_corpus,
    pretrain_flags,
    results,
    sentences,
)

ONE_DEVICE = {"mesh.data": 1, "mesh.fsdp": 1}
# Far enough apart that a signal sent at a logged step comes before the next checkpoint or the end.
STEPS = 90
EVERY = 30
# A job in the background hands on that Ctrl-C is ignored.
_IN_FOREGROUND = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from ptft_jax.cli import main
sys.exit(main())
"""
KILL_AT = random.Random(20).randrange(EVERY + 1, 2 * EVERY)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a corpus, a table, and a whole pretraining run on one device."""
    place = tmp_path_factory.mktemp("resume")
    prepare_corpus(place)
    (place / "table").mkdir()
    for split, count, seed in (("train", 40, 1), ("dev", 8, 2)):
        rows = [f"{text}\t{label}" for text, label in sentences(count, seed)]
        text = "\n".join(["text\tlabel", *rows]) + "\n"
        (place / "table" / f"{split}.tsv").write_text(text)
    _finish(_start(_pretrain(place, "whole")))
    return place


@pytest.fixture(scope="module")
def said(place) -> dict[str, str]:
    """What the restarted runs said, by name; they run two at a time, since starting takes long."""
    scenarios = {
        "whole_tuned": lambda: _finish(_start(_finetune(place, "whole_tuned"))),
        "killed": lambda: _killed(place, _pretrain(place, "killed")),
        "killed_tuned": lambda: _killed(place, _finetune(place, "killed_tuned")),
        "interrupted": lambda: _interrupted(place, _pretrain(place, "interrupted")),
    }
    with ThreadPoolExecutor(2) as pool:
        running = {name: pool.submit(scenario) for name, scenario in scenarios.items()}
        return {name: future.result() for name, future in running.items()}


def _killed(place: Path, flags: list[str]) -> str:
    """Kills a run after its first checkpoint and starts it again."""
    run_dir = Path(flags[-1].removeprefix("--run_dir="))
    process = _start(flags)
    _stop(process, run_dir, KILL_AT, signal.SIGKILL, after=f"checkpoints/{EVERY}")
    _finish(process, -signal.SIGKILL)
    return _finish(_start(flags))


def _interrupted(place: Path, flags: list[str]) -> str:
    """Kills a run before its first checkpoint, interrupts the second start, finishes the third."""
    run_dir = Path(flags[-1].removeprefix("--run_dir="))
    process = _start(flags)
    _stop(process, run_dir, 1, signal.SIGKILL)
    _finish(process, -signal.SIGKILL)
    assert not list((run_dir / "checkpoints").glob("[0-9]*"))
    process = _start(flags)
    _stop(process, run_dir, 2, signal.SIGINT)
    said = _finish(process, 130)
    assert "Traceback" not in said
    return said + _finish(_start(flags))


def _pretrain(place: Path, name: str) -> list[str]:
    intervals = {"steps": STEPS, "eval_every": EVERY, "checkpoint_every": EVERY, "batch_size": 4}
    settings = DROPOUT | intervals | ONE_DEVICE
    return pretrain_flags(place / "data", place / name, **settings)


def _finetune(place: Path, name: str) -> list[str]:
    # Batches of 8 of 40 rows: the kill comes in the second or third epoch, in another order.
    intervals = {"steps": STEPS, "eval_every": EVERY, "checkpoint_every": EVERY}
    source = place / "whole"
    return finetune_flags(
        "text.py", place / "table", source, place / name, **intervals, **ONE_DEVICE
    )


def _start(flags: list[str]) -> subprocess.Popen:
    """Starts a command line in a process of its own, with one device."""
    environment = dict(os.environ, JAX_NUM_CPU_DEVICES="1")
    return subprocess.Popen(
        [sys.executable, "-c", _IN_FOREGROUND, *flags],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _finish(process: subprocess.Popen, code: int = 0) -> str:
    said, _ = process.communicate(timeout=120)
    assert process.returncode == code, said
    return said


def _stop(
    process: subprocess.Popen, run_dir: Path, step: int, number: signal.Signals, after: str = ""
) -> None:
    """Sends a signal once the loss of `step` is in metrics.jsonl and the path `after` exists.

    A checkpoint is written beside the training, so its folder may come many fast steps later.
    """
    path = run_dir / "metrics.jsonl"
    deadline = time.monotonic() + 100
    while not (
        path.is_file() and f'"step": {step},' in path.read_text() and (run_dir / after).exists()
    ):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(number)


def _same_lines(first: Path, second: Path) -> None:
    """Asserts that two runs logged the same, but for the time it took."""
    assert losses(first) == losses(second)
    assert sorted(losses(first)) == list(range(1, STEPS + 1))
    timed = {"tokens_per_second", "data_wait"}
    kept = [
        [{name: line[name] for name in line.keys() - timed} for line in metrics(folder)]
        for folder in (first, second)
    ]
    assert kept[0] == kept[1]
    assert results(first) == results(second)


@pytest.mark.parametrize("name", ["killed", "killed_tuned"])
def test_a_killed_run_goes_on_to_the_same_losses(place, said, name):
    """SIGKILL at a random step: from its checkpoint on, every logged number is the same.

    Dropout is on, and the data is in another order in each epoch, so that a forgotten random state
    or data position would show.
    """
    assert re.search(f"resuming at step ({EVERY}|{2 * EVERY}) of {STEPS}", said[name])
    _same_lines(place / name, place / name.replace("killed", "whole"))


def test_a_run_without_a_checkpoint_begins_again_and_ctrl_c_saves_one(place, said):
    """A run killed before its first checkpoint starts anew, with the same losses.

    Ctrl-C then saves a checkpoint and leaves with 130, and the next start goes on from there.
    """
    first, resumed = said["interrupted"].split("resuming at step ")
    assert "the same command resumes there" in first
    saved = int(resumed.split()[0])
    assert 2 <= saved < EVERY
    _same_lines(place / "interrupted", place / "whole")
