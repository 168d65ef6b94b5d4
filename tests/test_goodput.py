"""The account of a run's wall-clock time, over starts that end well, badly, or not at all."""

import json
import os
import random
import sys
import threading
import time
from contextlib import nullcontext, suppress
from types import SimpleNamespace

import pytest

from ptft_jax.errors import StorageError
from ptft_jax.training import goodput as goodput_module
from ptft_jax.training.goodput import INTERVAL_AT_FIRST, Goodput
from ptft_jax.training.goodput_file import read_goodput
from ptft_jax.training.status_files import process_began, read_status_files, status_file


class Clock:
    """A wall clock and a monotonic one, which go on only when they are told to."""

    def __init__(self, monkeypatch):
        self.now = 1_700_000_000.0
        self.offset = 0.0  # of the wall clock: it can be set, the monotonic one cannot
        fake = SimpleNamespace(
            time=lambda: self.now + self.offset, monotonic=lambda: self.now - 1_699_000_000.0
        )
        monkeypatch.setattr(goodput_module, "time", fake)

    def wall(self) -> float:
        return self.now + self.offset

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def start(run_dir, clock, took=0.0, **arguments):
    """A start of which `took` seconds have passed before anything could take account."""
    began = clock.wall()
    clock.sleep(took)
    return Goodput(run_dir, began=began, **arguments)


def killed(goodput):
    """Has the files written as they are and lets go of the process, as SIGKILL does afterwards."""
    if goodput._writer is not None:
        goodput._writer.join()
    goodput._due = -float("inf")
    goodput.beat()
    goodput._writer.join()


def content(run_dir):
    return json.loads((run_dir / "goodput.json").read_text())


def train(goodput, clock, first, last, save_every=10, step_seconds=1.0, save=True):
    """Steps and checkpoints as the loop makes them."""
    goodput.resumed(first, until=100)
    with goodput.activity("training"):
        for step in range(first + 1, last + 1):
            with goodput.activity("compiling") if step == first + 1 else nullcontext():
                clock.sleep(step_seconds)
            goodput.step(step)
            if save and step % save_every == 0:
                with goodput.activity("saving"):
                    clock.sleep(0.5)
                goodput.saved(step)


def seconds_of(values):
    return {name: round(value, 3) for name, value in values["seconds"].items() if value}


def check_sums(values, wall):
    """What was accounted for is the time that passed, and each start's is the time it took."""
    assert sum(values["seconds"].values()) == pytest.approx(wall, rel=1e-6)
    assert values["wall_seconds"] == pytest.approx(wall, rel=1e-6)
    for one in values["starts"]:
        assert sum(one["seconds"].values()) == pytest.approx(one["ended"] - one["began"], abs=1e-4)
    assert values["goodput"] == pytest.approx(values["seconds"]["training"] / wall, abs=1e-6)


def test_an_inner_activity_pauses_the_outer_one(tmp_path, clock):
    """Each second is counted once, for the innermost activity; what is none is 'starting'."""
    goodput = start(tmp_path, clock, took=3.0)
    with goodput.activity("restoring"):
        clock.sleep(2.0)
    clock.sleep(1.0)
    goodput.resumed(0)
    with goodput.activity("training"):
        with goodput.activity("compiling"):
            clock.sleep(5.0)
        clock.sleep(10.0)
        goodput.add_data_wait(4.0)
        with goodput.activity("evaluating"):
            clock.sleep(1.5)
            with goodput.activity("saving"):
                clock.sleep(0.25)
            clock.sleep(1.5)
        clock.sleep(1.0)
        goodput.step(7)
    goodput.end(0)
    values = content(tmp_path)
    assert seconds_of(values) == {
        "training": 7.0,
        "data_wait": 4.0,
        "starting": 4.0,
        "restoring": 2.0,
        "compiling": 5.0,
        "evaluating": 3.0,
        "saving": 0.25,
    }
    check_sums(values, 25.25)
    assert (values["steps"], values["restarts"], values["lost_steps"]) == (7, 0, 0)
    (only,) = values["starts"]
    assert (only["end"], only["code"], only["first_step"], only["last_step"]) == (
        "finished",
        0,
        0,
        7,
    )


def test_an_activity_ends_with_an_exception(tmp_path, clock):
    """A save that fails must not leave the rest of the run counted as saving."""
    goodput = start(tmp_path, clock)
    with suppress(OSError), goodput.activity("saving"):
        clock.sleep(1.0)
        raise OSError("full")
    clock.sleep(2.0)
    goodput.end(74)
    assert seconds_of(content(tmp_path)) == {"saving": 1.0, "starting": 2.0}
    assert content(tmp_path)["starts"][0]["end"] == "error"
    with pytest.raises(ValueError, match="none of training"), goodput.activity("sleeping"):
        pass


def test_waiting_longer_than_the_activity_took_takes_no_more_than_that(tmp_path, clock):
    """Seconds measured by the caller must not make another kind negative."""
    goodput = start(tmp_path, clock)
    with goodput.activity("training"):
        clock.sleep(1.0)
        goodput.add_data_wait(1.2)
    goodput.end(0)
    assert seconds_of(content(tmp_path)) == {"data_wait": 1.0}


def test_steps_made_again_are_lost(tmp_path, clock):
    """A kill at step 27 and a resume at 20 lose the training of seven steps, and nothing else."""
    began = clock.wall()
    first = start(tmp_path, clock, took=4.0)
    train(first, clock, 0, 27)
    killed(first)
    clock.sleep(60.0)  # seven of these ran, but nobody knows: they count as stopped
    second = start(tmp_path, clock, took=4.0)
    train(second, clock, 20, 35)
    second.end(75)
    values = content(tmp_path)
    assert seconds_of(values) == {
        "training": 19.0 + 14.0,  # the first step of each start compiles
        "lost": 7.0,
        "compiling": 2.0,
        "saving": 1.5,
        "starting": 8.0,
        "stopped": 60.0,
    }
    check_sums(values, clock.wall() - began)
    assert (values["restarts"], values["lost_steps"], values["steps"]) == (1, 7, 35)
    one, two = values["starts"]
    assert (one["end"], one["code"], one["last_step"], one["kept_step"], one["saved_step"]) == (
        "killed",
        None,
        27,
        20,
        20,
    )
    assert (two["end"], two["first_step"], two["last_step"], two["until"]) == (
        "SIGTERM",
        20,
        35,
        100,
    )


def test_nothing_is_lost_by_a_stop_that_saved(tmp_path, clock):
    """SIGTERM saves the step it stops at, so the next start makes no step again."""
    first = start(tmp_path, clock)
    train(first, clock, 0, 20)
    first.end(75)
    second = start(tmp_path, clock)
    train(second, clock, 20, 30)
    second.end(0)
    values = content(tmp_path)
    assert (values["lost_steps"], values["seconds"]["lost"]) == (0, 0)
    assert [one["end"] for one in values["starts"]] == ["SIGTERM", "finished"]


def test_an_older_checkpoint_loses_steps_of_several_starts(tmp_path, clock):
    """A damaged last checkpoint, or a rewind, goes back behind the start that was killed."""
    began = clock.wall()
    for first, last in ((0, 30), (30, 55)):
        goodput = start(tmp_path, clock)
        train(goodput, clock, first, last)
        killed(goodput)
    third = start(tmp_path, clock)
    train(third, clock, 10, 12)
    third.end(0)
    values = content(tmp_path)
    assert values["lost_steps"] == 20 + 25
    assert values["seconds"]["lost"] == pytest.approx(20 + 24)
    assert [one["kept_step"] for one in values["starts"]] == [10, 30, 12]
    assert values["steps"] == 12
    check_sums(values, clock.wall() - began)
    # And without any checkpoint everything is made again.
    fourth = start(tmp_path, clock)
    train(fourth, clock, 0, 5)
    fourth.end(0)
    values = content(tmp_path)
    assert values["lost_steps"] == 30 + 25 + 2
    assert values["seconds"]["training"] == pytest.approx(4.0)
    check_sums(values, clock.wall() - began)


def test_a_checkpoint_that_was_written_after_the_last_account(tmp_path, clock):
    """The step that a run resumes at was made, even if its start was killed before it said so."""
    first = start(tmp_path, clock)
    train(first, clock, 0, 12)
    killed(first)
    second = start(tmp_path, clock)
    second.resumed(14)
    second.end(0)
    values = content(tmp_path)
    assert values["lost_steps"] == 0
    assert values["starts"][0]["last_step"] == 14


def test_what_was_logged_before_a_kill_counts(tmp_path, clock):
    """The account is written every few seconds, the log at once: its last step was made."""
    began = clock.wall()
    first = start(tmp_path, clock)
    train(first, clock, 0, 25)
    killed(first)
    clock.sleep(4.0)
    log = tmp_path / "metrics.jsonl"
    log.write_text('{"step": 20}\n{"step": 29}\n{"step": 29, "split": "dev"}\n{"step": 30, "l')
    os.utime(log, (clock.wall(), clock.wall()))
    clock.sleep(6.0)
    second = start(tmp_path, clock)
    train(second, clock, 20, 21)
    second.end(0)
    values = content(tmp_path)
    assert values["starts"][0]["last_step"] == 29
    assert (values["lost_steps"], values["seconds"]["lost"]) == (9, pytest.approx(5.0 + 4.0))
    assert values["seconds"]["stopped"] == pytest.approx(6.0)
    check_sums(values, clock.wall() - began)
    # A log that was written to long after, or that has nothing new, is no sign of training.
    killed(start(tmp_path, clock))
    later = clock.wall() + 1000
    os.utime(log, (later, later))
    clock.sleep(2000)
    start(tmp_path, clock).end(0)
    assert content(tmp_path)["seconds"]["lost"] == pytest.approx(9.0)


def test_a_save_that_ends_later_stands_for_its_own_step(tmp_path, clock):
    """Checkpoints are written while training goes on: what was trained meanwhile is not in them."""
    goodput = start(tmp_path, clock)
    goodput.resumed(0)
    with goodput.activity("training"):
        for step in range(1, 16):
            clock.sleep(step)  # the longer the later, so that no interpolation is right
            goodput.step(step)
            if step == 10:
                with goodput.activity("saving"):
                    clock.sleep(0.5)
            if step == 13:
                goodput.saved(10)
    killed(goodput)
    later = start(tmp_path, clock)
    later.resumed(10)
    later.end(0)
    assert content(tmp_path)["seconds"]["training"] == pytest.approx(sum(range(1, 11)))
    assert content(tmp_path)["seconds"]["lost"] == pytest.approx(sum(range(11, 16)))


def test_thousands_of_checkpoints(tmp_path, clock):
    """Old positions are thinned out; the account of a resume stays right to a share of a step."""
    goodput = start(tmp_path, clock)
    train(goodput, clock, 0, 5000, save_every=5)
    killed(goodput)
    assert (tmp_path / "goodput.json").stat().st_size < 20_000
    for step in (4995, 4960, 2500, 35):
        goodput = start(tmp_path, clock)
        goodput.resumed(step)
        killed(goodput)
        first = content(tmp_path)["starts"][0]
        assert first["seconds"]["training"] == pytest.approx(step - 1, abs=0.01)


def test_random_histories_add_up(tmp_path, clock):
    """Any order of activities, kills, stops and resumes: the kinds add up to the wall clock."""
    rng = random.Random(0)
    began, saved, restarts = clock.wall(), 0, -1
    for _ in range(60):
        goodput = start(tmp_path, clock, took=rng.random())
        restarts += 1
        goodput.resumed(saved)
        step = saved
        for _ in range(rng.randrange(12)):
            with goodput.activity("training"):
                clock.sleep(rng.random())
                goodput.add_data_wait(rng.random())
                step += rng.randrange(4)
                goodput.step(step)
                with goodput.activity(rng.choice(["evaluating", "saving", "compiling"])):
                    clock.sleep(rng.random())
                    if rng.random() < 0.3:
                        goodput.saved(step)
                        saved = step
                goodput.beat()
        goodput.end(rng.choice([0, 65, 70, 75, 76, 130])) if rng.random() < 0.5 else killed(goodput)
        values = content(tmp_path)
        check_sums(values, clock.wall() - began)
        assert all(value >= 0 for value in values["seconds"].values())
        assert values["restarts"] == restarts
        clock.sleep(rng.random() * 5)
    assert values["lost_steps"] > 0


def test_the_clock_is_set_back(tmp_path, clock):
    """Another host's clock may be behind: no time is counted twice, and none is negative."""
    first = start(tmp_path, clock)
    with first.activity("training"):
        clock.sleep(50.0)
        clock.offset = -500.0  # set back while it runs, too
        clock.sleep(50.0)
    first.end(75)
    second = start(tmp_path, clock, took=5.0)
    second.end(0)
    values = content(tmp_path)
    assert values["seconds"]["stopped"] == 0
    assert values["seconds"]["training"] == pytest.approx(100.0)
    assert sum(values["seconds"].values()) == pytest.approx(values["wall_seconds"])
    assert all(value >= 0 for value in values["seconds"].values())


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: "{}",
        lambda text: text.replace('"training"', '"pausing"'),
        lambda text: text.replace('"first_step": 0', '"first_step": "0"'),
        lambda text: text.replace('"began": 17', '"began": 99'),
        lambda text: text.replace('"format_version": 1', '"format_version": 99'),
    ],
)
def test_a_damaged_file_is_kept_and_told_of(tmp_path, clock, damage):
    """A run must not fail over its account, nor may anything be overwritten that was one."""
    first = start(tmp_path, clock)
    train(first, clock, 0, 5)
    first.end(0)
    assert first.notice is None
    damaged = damage((tmp_path / "goodput.json").read_text())
    (tmp_path / "goodput.json").write_text(damaged)
    second = start(tmp_path, clock)
    train(second, clock, 0, 5)
    second.end(0)
    assert "cannot be read" in (second.notice or "")
    (aside,) = tmp_path.glob("goodput.damaged-*.json")
    assert aside.name in (second.notice or "")
    assert aside.read_text() == damaged
    assert content(tmp_path)["restarts"] == 0


def test_what_processes_say(tmp_path, clock):
    """Every process has a file of its own; only the first one keeps the account of the run."""
    hosts = ["node1", "node1", "node2"]
    for index in (2, 1, 0):
        goodput = start(tmp_path, clock, process_index=index, process_count=3, hosts=hosts)
        goodput.resumed(0)
        goodput.step(index)
        with goodput.activity("evaluating"):
            clock.sleep(1.0)
            killed(goodput)
    heard, unreadable = read_status_files(tmp_path)
    found = [one.status for one in heard]
    assert [(one.process, one.processes, one.step, one.activity) for one in found] == [
        (index, 3, index, "evaluating") for index in range(3)
    ]
    assert not unreadable
    assert all(one.time - one.since == pytest.approx(1.0) for one in found)
    assert all((one.pid, one.code) == (os.getpid(), None) for one in found)
    assert content(tmp_path)["starts"][0]["hosts"] == ["node1", "node2"]
    # What a kill in the middle of a writing leaves behind goes, as do processes that are no more.
    for name in (".goodput.json.1.tmp", "status/.process-00000.json.1.tmp"):
        (tmp_path / name).write_text("{")
    start(tmp_path, clock, process_index=0, process_count=2).end(76)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == [
        "goodput.json",
        "process-00000.json",
        "process-00001.json",
    ]
    found, _ = read_status_files(tmp_path)
    assert [one.status.code for one in found] == [76, None]


def test_damaged_status_files(tmp_path):
    """One file that cannot be read hides no other."""
    goodput = Goodput(tmp_path)
    goodput.end(0)
    text = status_file(tmp_path, 0).read_text()
    damages = ["", "[]", text.replace('"step"', '"stop"'), text[:-20]]
    damages.append(text.replace('"activity": "', '"activity": "\\u001b[2J'))
    for number, damaged in enumerate(damages, 1):
        status_file(tmp_path, number).write_text(damaged)
    found, unreadable = read_status_files(tmp_path)
    assert [one.status.process for one in found] == [0]
    assert len(unreadable) == 5


def test_files_are_written_when_they_are_due(tmp_path, clock):
    """Once a second is asked, every few seconds is written, and a checkpoint is told of at once."""
    goodput = start(tmp_path, clock)
    written = []
    for second in range(2000):
        goodput.beat()
        goodput._writer.join()
        written.append(content(tmp_path)["starts"][0]["ended"])
        clock.sleep(1.0)
        if second == 1000:
            goodput.saved(0)
    writings = len(set(written))
    assert writings == 300 / INTERVAL_AT_FIRST + (2000 - 300) // 15 + 1
    goodput.saved(0)
    goodput.beat()
    goodput._writer.join()
    assert content(tmp_path)["starts"][0]["ended"] == pytest.approx(clock.wall())


def test_a_slow_disk_holds_up_nobody(tmp_path, monkeypatch):
    """Heartbeats come from the thread that calls `beat`, and a process must be able to end."""
    stuck = threading.Event()
    monkeypatch.setattr(goodput_module.os, "fsync", lambda number: stuck.wait())
    goodput = Goodput(tmp_path)
    began = time.monotonic()
    for _ in range(50):
        goodput.beat()
    assert time.monotonic() - began < 0.5
    goodput.end(76)
    assert time.monotonic() - began < 0.5
    last = (tmp_path / "goodput.json").read_text()
    assert content(tmp_path)["starts"][0]["code"] == 76
    stuck.set()
    goodput._writer.join()
    # What was stuck comes through at last, and must not replace the last words.
    assert (tmp_path / "goodput.json").read_text() == last
    assert [path.name for path in tmp_path.iterdir() if "tmp" in path.name] == []


def test_a_disk_that_never_answers(tmp_path, monkeypatch):
    """The end of a process waits a second at most for its account to be written."""
    stuck = threading.Event()
    replace = goodput_module.Path.replace
    monkeypatch.setattr(
        goodput_module.Path, "replace", lambda self, to: (stuck.wait(), replace(self, to))[1]
    )
    goodput = Goodput(tmp_path)
    began = time.monotonic()
    goodput.end(76)
    assert time.monotonic() - began < 2.0
    stuck.set()


def test_a_full_disk_is_left_to_the_checkpoints(tmp_path, clock, monkeypatch):
    """An account that cannot be written is no reason to end, and is written when there is room."""

    def full(number):
        raise OSError(28, "No space left on device")

    goodput = start(tmp_path, clock)
    monkeypatch.setattr(goodput_module.os, "fsync", full)
    killed(goodput)
    assert not (tmp_path / "goodput.json").exists()
    monkeypatch.undo()
    killed(goodput)
    assert content(tmp_path)["restarts"] == 0
    assert [path.name for path in tmp_path.iterdir() if "tmp" in path.name] == []


def test_no_folder_can_be_made(tmp_path):
    """A file in the way of the status files is told of by name, with exit code 74."""
    (tmp_path / "status").write_text("")
    with pytest.raises(StorageError, match="status cannot be made"):
        Goodput(tmp_path)


def test_beats_while_activities_change(tmp_path, monkeypatch):
    """Another thread writes at any moment: no file is ever half, and no second is lost."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    began = time.time()
    goodput = Goodput(tmp_path, began=began)
    goodput.resumed(0)
    stop = threading.Event()
    problems = []

    def beat():
        while not stop.is_set():
            goodput._due = -float("inf")
            goodput.beat()

    def read():
        while not stop.is_set():
            values = read_goodput(tmp_path / "goodput.json")
            if values is None:
                continue
            spent = sum(values["seconds"].values())
            negative = any(value < 0 for value in values["seconds"].values())
            if abs(spent - values["wall_seconds"]) > 1e-3 or negative:
                problems.append(values)
            found, unreadable = read_status_files(tmp_path)
            if unreadable or not found:
                problems.append(unreadable)

    threads = [threading.Thread(target=target) for target in (beat, beat, read)]
    try:
        for thread in threads:
            thread.start()
        step, until = 0, time.monotonic() + 2.0
        with goodput.activity("training"):
            while time.monotonic() < until:
                step += 1
                goodput.step(step)
                goodput.add_data_wait(1e-6)
                with goodput.activity("evaluating"), goodput.activity("saving"):
                    pass
                if step % 50 == 0:
                    goodput.saved(step)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(interval)
    least = time.time() - began
    goodput.end(0)
    most = time.time() - began  # on a busy machine the last writing takes its time
    goodput._writer.join()
    assert not problems
    values = content(tmp_path)
    assert 0.99 * least <= sum(values["seconds"].values()) <= 1.01 * most
    assert values["steps"] == step
    assert [path.name for path in tmp_path.rglob("*.tmp")] == []


def test_a_step_costs_next_to_nothing(tmp_path):
    """It is called in the loop that keeps the devices busy."""
    goodput = Goodput(tmp_path)
    goodput.resumed(0)
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        for step in range(20_000):
            goodput.step(step)
        best = min(best, (time.perf_counter() - began) / 20_000)
    assert best < 2e-6
    goodput.end(0)


def test_the_process_began_before_its_first_run_only(tmp_path, monkeypatch):
    """Python's own start counts for the run that it was started for, not for one that follows."""
    process = process_began()
    if process is None:
        pytest.skip("the system does not say when a process started")
    monkeypatch.setattr(goodput_module, "_process_time_is_taken", threading.Event())
    for name, expected in (("first", process), ("second", time.time())):
        (tmp_path / name).mkdir()
        Goodput(tmp_path / name).end(0)
        assert content(tmp_path / name)["starts"][0]["began"] == pytest.approx(expected, abs=0.5)
