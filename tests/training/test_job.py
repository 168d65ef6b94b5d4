"""A job of one process in the loop: signals, what they leave behind, and the watchdog.

Jobs of several processes are tested with real processes in tests/test_faults.py.
"""

import signal
import subprocess
import sys
import textwrap
import time

import pytest
from test_loop import BATCH_SIZE, Batches, Record, run

from ptft_jax.errors import StopError
from ptft_jax.training.cluster.job import Job
from ptft_jax.training.loop import until_stopped


@pytest.fixture(autouse=True)
def in_the_foreground():
    """Signals as in the foreground: in the background, or under nohup, some are ignored."""
    before = {
        number: signal.getsignal(number)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def job():
    with Job() as job:
        yield job


def send(job, number):
    """Sends a signal and waits until the watching thread has taken it."""
    signal.raise_signal(number)
    until = time.monotonic() + 10
    while job._stopping is None and time.monotonic() < until:
        time.sleep(0.001)


@pytest.mark.parametrize(
    ("number", "code", "name"),
    [
        (signal.SIGTERM, 75, "SIGTERM"),
        (signal.SIGHUP, 129, "SIGHUP"),
        (signal.SIGINT, 130, "Ctrl-C"),
    ],
)
def test_a_stop_saves_and_ends(job, number, code, name):
    """The run ends after its step with a checkpoint that is on disk, and with the signal's code."""
    record = Record()

    def on_next(index):
        if index == 2 * BATCH_SIZE:
            send(job, number)

    with pytest.raises(StopError, match=f"stopped by {name}: saved step 3 of 100") as caught:
        run(record, batches=Batches(on_next=on_next), until=100, log_every=50, job=job)
    assert caught.value.exit_code == code
    assert record.of("save", "wait") == [("save", 3, 3 * BATCH_SIZE, {}), ("wait",)]


def test_a_stop_while_a_step_is_reported_still_saves(job):
    """Ctrl-C at the wrong moment once said that it had saved a checkpoint when it had not."""

    class Interrupting(Record):
        def training(self, step, metrics):
            super().training(step, metrics)
            if step == 2:
                send(job, signal.SIGINT)

    record = Interrupting()
    with pytest.raises(StopError):
        run(record, until=100, log_every=2, job=job)
    assert [event[1] for event in record.of("save")] == [3]


def test_an_evaluation_is_broken_off(job):
    """It may take longer than there is time; the checkpoint says that it is due."""

    def evaluate(params):
        for number in until_stopped(range(100), job):
            if number == 3:
                send(job, signal.SIGTERM)
        raise AssertionError("the evaluation went on")

    record = Record()
    with pytest.raises(StopError, match="saved step 2 of 9"):
        run(record, until=9, eval_every=2, evaluate=evaluate, job=job)
    assert record.of("save", "due", "evaluate") == [("save", 2, 2 * BATCH_SIZE, {}), ("due", 2)]


def test_a_stop_at_the_very_end_lets_the_run_finish(job):
    """When nothing is left to do but saving, that is done, and the run has finished."""

    class Last(Record):
        def save(self, *arguments):
            signal.raise_signal(signal.SIGTERM)
            time.sleep(0.1)
            super().save(*arguments)

    record = Last()
    state = run(record, until=3, job=job)
    assert int(state.step) == 3
    assert [event[1] for event in record.of("save")] == [3]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_is_ignored_where_it_was_ignored(number):
    """A shell gives background jobs an ignored Ctrl-C, and nohup an ignored SIGHUP."""
    signal.signal(number, signal.SIG_IGN)
    with Job() as job:
        record = Record()
        batches = Batches(on_next=lambda _: signal.raise_signal(number))
        run(record, batches=batches, until=3, job=job)
    assert [event[1] for event in record.of("save")] == [3]


def in_a_process(body, **limits):
    """Runs a program that enters a job; returns its exit code, what it said, and the time."""
    head = f"""
        import os, signal, sys, threading, time
        from ptft_jax.training.cluster.job import Job
        with Job(**{limits!r}) as job:
    """
    program = textwrap.dedent(head) + textwrap.indent(textwrap.dedent(body), "    ")
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    return done.returncode, done.stderr, time.monotonic() - began


def test_sigterm_before_the_first_update_ends_at_once():
    """Even where the main thread is in a call that Python cannot interrupt."""
    code, said, seconds = in_a_process(
        """
        job.begin()
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
        import ctypes
        ctypes.CDLL(None).sleep(20)
        ctypes.CDLL(None).sleep(20)
        """
    )
    assert code == 75, said
    assert "stopped by SIGTERM before the first update: nothing to save" in said
    assert seconds < 10


def test_a_second_ctrl_c_does_not_wait():
    """A step that hangs can still be ended by hand."""
    code, said, seconds = in_a_process(
        """
        signal.signal(signal.SIGINT, job._on_signal)
        job.has_begun()
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.3)
        time.sleep(20)
        """
    )
    assert code == 130, said
    assert "interrupted twice" in said
    assert seconds < 10


TWO_PROCESSES = """
import threading, time
from ptft_jax.training.cluster.control_channel import Server, connect
from ptft_jax.training.cluster.job import Job

server = Server(2, "token", 60)
passed = threading.Event()

def main(index, work):
    hello = {"token": "token", "process": index, "host": "host"}
    with Job() as job:
        link = connect(("localhost", server.port), hello, 5)
        job.joined(index, 2, link, None if index else server)
        job.has_begun()
        work(job)

def hear(job):
    while job._stopping is None:
        time.sleep(0.001)

def ahead(job):
    assert not job.stops_here()
    passed.set()
    hear(job)
    job.gather("a save", None)
    assert job.stops_here()

def behind(job):
    passed.wait()
    job._link.send({"stop": 75})
    hear(job)
    assert not job.stops_here()
    job.gather("a save", None)
    assert job.stops_here()

threads = [threading.Thread(target=main, args=pair) for pair in enumerate((ahead, behind))]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print("both have stopped")
"""


def test_a_stop_finds_one_process_past_a_point_and_another_before_it():
    """The one that is ahead needs the other in its save: nobody may wait for it to come further."""
    command = [sys.executable, "-c", TWO_PROCESSES]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.stdout == "both have stopped\n", done.stderr


def test_the_watchdog_shows_where_a_process_hangs():
    """All stacks, the limit, and an exit code of its own."""
    code, said, seconds = in_a_process(
        """
        def stuck_in_here():
            time.sleep(30)
        with job.activity("training"):
            stuck_in_here()
        """,
        watchdog_seconds=1,
    )
    assert code == 70, said
    assert "stuck_in_here" in said
    assert "no progress for" in said
    assert "--watchdog_seconds" in said
    assert seconds < 10


def test_the_watchdog_waits_for_what_takes_long():
    """Compiling may take ten times as long as a step; steps and batches are progress."""
    code, said, _ = in_a_process(
        """
        with job.activity("compiling"):
            time.sleep(2.5)
        with job.activity("training"):
            for _ in range(10):
                time.sleep(0.25)
                job.stops_here()
        """,
        watchdog_seconds=1,
    )
    assert code == 0, said


def test_a_process_that_was_frozen_blames_nobody():
    """After SIGSTOP and SIGCONT, or a suspended machine, the clock has run on without it."""
    code, said, _ = in_a_process(
        """
        import subprocess
        with job.activity("training"):
            again = f"sleep 4; kill -CONT {os.getpid()}"
            subprocess.Popen(["sh", "-c", again])
            os.kill(os.getpid(), signal.SIGSTOP)
            time.sleep(0.3)
        """,
        watchdog_seconds=1,
    )
    assert code == 0, said
