"""Heartbeats and events as real threads and processes write them, to disks in every state."""

import os
import subprocess
import sys
import threading
import time

from ptft_jax.training.accounting.heartbeat import Heartbeat, read_heartbeats
from ptft_jax.training.accounting.time_account import account, read_events, totals


def wait_for(done):
    until = time.monotonic() + 20
    while not done():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_what_processes_say(tmp_path):
    """Every process has a file of its own; only the first one keeps the events of the run."""
    start = time.time() - 2.0
    jobs = [Heartbeat(tmp_path, index, 3, start, 10) for index in range(3)]
    for heartbeat in jobs:
        heartbeat.does("restoring")
        heartbeat.step = 4
        heartbeat.does("training")
        heartbeat.step, heartbeat.waited = 7, 0.001
    wait_for(lambda: len(read_heartbeats(tmp_path)) == 3)
    found = [beat for beat, _ in read_heartbeats(tmp_path)]
    assert [(beat.process, beat.processes, beat.activity) for beat in found] == [
        (index, 3, "training") for index in range(3)
    ]
    assert all((beat.step, beat.until, beat.pid) == (7, 10, os.getpid()) for beat in found)
    assert all(abs(beat.start - start) < 0.001 <= beat.time - beat.since for beat in found)
    for heartbeat, code in zip(jobs, (0, 0, 75), strict=True):
        heartbeat.end(code)
        heartbeat.end(1)
    assert [beat.code for beat, _ in read_heartbeats(tmp_path)] == [0, 0, 75]
    events = read_events(tmp_path)
    assert [(event.activity, event.step, event.code) for event in events] == [
        ("starting", None, None),
        ("restoring", None, None),
        ("training", 4, None),
        ("training", 7, 0),
    ]
    seconds = totals(account(events))
    assert 2.0 <= seconds["starting"] < 2.5
    assert abs(sum(seconds.values()) - (events[-1].time - start)) < 0.01


def test_the_start_after_a_kill_knows_how_far_it_came(tmp_path):
    """SIGKILL leaves half a line, and a heartbeat, which the next start adds to the events."""
    program = (
        "import sys, time; from pathlib import Path\n"
        "from ptft_jax.training.accounting import heartbeat\n"
        "heartbeat.INTERVAL = 0.1\n"
        "one = heartbeat.Heartbeat(Path(sys.argv[1]), 0, 1, time.time(), 10)\n"
        "one.step = 0\none.does('training')\ntime.sleep(2)\none.step = 5\ntime.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)]) as process:
        wait_for(lambda: [beat.step for beat, _ in read_heartbeats(tmp_path)] == [5])
        process.kill()
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write('{"time": 17')
    following = Heartbeat(tmp_path, 0, 1, time.time(), 10)
    following.step = 3
    following.does("training")
    following.end(0)
    one, two = account(read_events(tmp_path))
    assert (one.last.code, one.last_step, one.lost_steps) == (None, 5, 2)
    assert one.last.time - one.began > 2.0
    assert (two.last.code, two.last_step) == (0, 3)


def test_a_disk_that_never_answers_holds_up_nobody(tmp_path):
    """Training goes on, and the end of a process waits a second at most."""
    os.mkfifo(tmp_path / "events.jsonl")  # opening it waits for a reader
    heartbeat = Heartbeat(tmp_path, 0, 1, time.time(), 10)
    time.sleep(1.5)
    began = time.monotonic()
    for _ in range(100):
        heartbeat.does("training")
    assert time.monotonic() - began < 0.5
    heartbeat.end(76)
    assert time.monotonic() - began < 2.0
    os.close(os.open(tmp_path / "events.jsonl", os.O_RDWR))  # lets the thread go


def test_a_process_is_ended_while_its_main_thread_turns_to_something_else(tmp_path):
    """The thread that watches over peers ends it at any moment, and its code must be the last."""
    for _ in range(20):
        heartbeat = Heartbeat(tmp_path, 0, 1, time.time(), 10)
        ender = threading.Thread(target=heartbeat.end, args=(76,))
        ender.start()
        while ender.is_alive():
            heartbeat.does("training")
        assert read_heartbeats(tmp_path)[0][0].code == 76
    assert [start.last.code for start in account(read_events(tmp_path))] == [76] * 20


def test_python_and_jax_are_part_of_the_first_start_only():
    """What a process loads counts for the run it was started for, not for one that follows."""
    program = (
        "import time, ptft_jax; time.sleep(0.3)\n"
        "from ptft_jax.training.accounting.heartbeat import began\n"
        "print(*(time.time() - began() for _ in range(2)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    first, second = map(float, done.stdout.split())
    assert first >= 0.3 > 0.1 > second
