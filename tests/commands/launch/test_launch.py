"""`ptft launch local`: output, signals, ends of processes, restarts, and that nothing is left over.

The supervisor is tested with small programs in place of training ones; test_mpi.py, test_slurm.py
and the test at the end here start the real command.
"""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import losses
from processes import gone

ROOT = Path(__file__).resolve().parents[3]


class Supervised:
    """A running supervisor, with what it has shown so far."""

    def __init__(self, place: Path, programs, restarts=0, grace=1.0, stdout: int | None = None):
        settings = {
            "programs": programs,
            "run_dir": str(place / "run"),
            "restarts": restarts,
            "grace": grace,
        }
        self.out, self.err = place / "out.txt", place / "err.txt"
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.popen = subprocess.Popen(
                [sys.executable, "tests/supervised.py", json.dumps(settings)],
                stdout=out if stdout is None else stdout,
                stderr=err,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )

    def wait_for(self, text: str, count: int = 1) -> list[str]:
        """Waits until `count` lines with this text have been shown and returns them."""
        until = time.monotonic() + 20
        while time.monotonic() < until:
            lines = [line for line in self.shown if text in line]
            if len(lines) >= count:
                return lines
            time.sleep(0.02)
        raise AssertionError(f"{text!r} was not shown {count} times:\n{self.err.read_text()}")

    @property
    def shown(self) -> list[str]:
        return self.err.read_text().splitlines()

    def end(self, seconds: float = 20) -> int:
        """Waits for the end and returns the exit code."""
        return self.popen.wait(seconds)


def supervised(place: Path, programs, **settings) -> tuple[int, str, list[str]]:
    """Runs to the end; returns exit code, standard output, and the lines of standard error."""
    job = Supervised(place, programs, **settings)
    code = job.end()
    return code, job.out.read_text(), job.shown


def pids_of(lines: list[str]) -> list[int]:
    return [int(line.split()[-1]) for line in lines]


def a_run(place: Path) -> Path:
    """A folder that looks like a run's."""
    (place / "run").mkdir()
    (place / "run" / "config.json").write_text("{}")
    return place / "run"


OUTPUT = (
    "print('out', number); print('err', number, file=sys.stderr); print('same', file=sys.stderr)"
)


def test_output_is_shown_once_and_logged_in_full(tmp_path):
    """One screen for N processes stays readable, and nothing that a process said is lost."""
    run_dir = a_run(tmp_path)
    for _ in range(2):
        code, out, err = supervised(tmp_path, [OUTPUT] * 3)
        assert code == 0
        assert out == "out 0\n"
        assert sorted(line for line in err if "err" in line) == ["[1] err 1", "[2] err 2", "err 0"]
        assert len([line for line in err if "same" in line]) <= 2  # process 0's, and one before it
    for number in range(3):
        log = (run_dir / "logs" / f"process-{number:05d}.log").read_text()
        assert sorted(log.split("\n")) == sorted(
            [*(f"out {number}", f"err {number}", "same") * 2, ""]
        )


def test_a_job_that_is_refused_leaves_no_folder(tmp_path):
    """A typing error must not make a run's folder, which the mended command would then find."""
    code, _, err = supervised(tmp_path, ["print('no', file=sys.stderr); sys.exit(2)"] * 2)
    assert code == 2
    assert next(line for line in err if line.endswith("no")) in ("no", "[1] no")
    assert not (tmp_path / "run").exists()


def test_output_from_before_the_run_made_its_folder_is_logged(tmp_path):
    """The first lines, with the process map, belong to the log as well."""
    make = (
        f"print('early', flush=True); os.makedirs({str(tmp_path / 'run')!r})\n"
        f"open({str(tmp_path / 'run/config.json')!r}, 'w').close(); print('late')"
    )
    assert supervised(tmp_path, [make])[0] == 0
    assert (tmp_path / "run/logs/process-00000.log").read_text() == "early\nlate\n"


@pytest.mark.parametrize(
    ("end", "code", "words"),
    [("sys.exit(65)", 65, "exit code 65"), ("os.kill(os.getpid(), 9)", 137, "137 (SIGKILL)")],
)
def test_the_code_of_the_first_failure_is_handed_on(tmp_path, end, code, words):
    """The cause counts, not what it led to; and survivors have their time to end.

    A death by a signal is 128 and its number, as in a shell.
    """
    others = "time.sleep(0.3); sys.exit(76)"
    found, _, err = supervised(tmp_path, [others, end, others])
    assert found == code
    assert "process 1 ended with exit code" in err[-1]
    assert words in err[-1]
    assert not any("SIGTERM" in line for line in err)


def test_of_ends_at_one_moment_the_lost_peer_is_not_the_cause(tmp_path):
    """A process that says 76 may be waited for before the one that it has lost."""
    both_at = time.time() + 1
    wait = f"time.sleep({both_at} - time.time()); "
    # Process 0 is asked first and has ended first.
    programs = [wait + "sys.exit(76)", wait + "os.kill(os.getpid(), signal.SIGKILL)"]
    stopped = Supervised(tmp_path, programs)
    time.sleep(0.5)
    stopped.popen.send_signal(signal.SIGSTOP)
    time.sleep(1)
    stopped.popen.send_signal(signal.SIGCONT)
    assert stopped.end() == 137


def test_survivors_get_their_grace_then_sigterm(tmp_path):
    """A process that waits for its peers in its start-up would wait for minutes."""
    began = time.monotonic()
    code, _, err = supervised(
        tmp_path, ["on_signal(15, 75); forever()", "time.sleep(0.5); sys.exit(1)"], grace=0.5
    )
    assert code == 1
    assert "got SIGTERM" in err
    assert 1.0 <= time.monotonic() - began < 4


def test_a_frozen_process_ends_by_sigkill(tmp_path):
    """A stopped process does not react to SIGTERM, and would hold its devices for ever."""
    frozen = "print('ready', os.getpid(), file=sys.stderr, flush=True); os.kill(os.getpid(), 19)"
    job = Supervised(tmp_path, ["time.sleep(0.5); sys.exit(76)", frozen], grace=0.2)
    pids = pids_of(job.wait_for("ready"))
    assert job.end() == 76
    assert gone(pids)
    assert any("sending SIGKILL" in line for line in job.shown)


STOPS = "on_signal(2, 130); on_signal(15, 75); forever()"


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGHUP])
def test_a_wish_to_stop_reaches_all(tmp_path, kind):
    """Who ends the launcher, or closes its terminal, wants the job to save, and no restart."""
    job = Supervised(tmp_path, [STOPS] * 2, restarts=3)
    job.wait_for("ready", 2)
    job.popen.send_signal(kind)
    assert job.end() == 75
    assert sorted(line for line in job.shown if "got" in line)[-1] == "got SIGTERM"
    assert not any("starting all processes again" in line for line in job.shown)


def test_ctrl_c_reaches_one(tmp_path):
    """The second Ctrl-C that a job gets ends it without saving: the first must be a single one."""
    job = Supervised(tmp_path, [STOPS] * 2, restarts=3, grace=0.3)
    job.wait_for("ready", 2)
    job.popen.send_signal(signal.SIGINT)
    assert job.end() == 130
    # Here the second process does not learn of it by itself, and is ended after its grace.
    got = [line for line in job.shown if "got" in line]
    assert got == ["got SIGINT", "[1] got SIGTERM"]


def test_process_0_has_the_terminal(tmp_path):
    """Progress bars are drawn on a terminal only; those of one process must not be lost."""
    main, terminal = pty.openpty()
    program = "print(number, sys.stdout.isatty(), sys.stderr.isatty(), file=sys.stderr)"
    job = Supervised(tmp_path, [program] * 2, stdout=terminal)
    os.close(terminal)
    assert job.end() == 0
    os.close(main)
    assert sorted(job.shown) == ["0 True False", "[1] 1 False False"]


@pytest.mark.parametrize("end", ["sys.exit(70)", "sys.exit(75)", "os.kill(os.getpid(), 9)"])
def test_restarts_after_what_a_restart_can_help(tmp_path, end):
    """The job goes on by itself, says so, starts all processes anew, and comes to an end."""
    program = f"print('start', start)\nif number == 1: {end}\nsys.exit(76)"
    code, out, err = supervised(tmp_path, [program] * 2, restarts=2)
    assert code in (70, 75, 76, 137)
    assert out == "start 0\nstart 1\nstart 2\n"
    assert len([line for line in err if "starting all processes again" in line]) == 2


@pytest.mark.parametrize("code", [1, 2, 74, 130])
def test_no_restart_after_what_a_person_has_to_mend(tmp_path, code):
    """A bug, a setting, data and a full disk are the same after a restart; Ctrl-C was meant."""
    found, out, _ = supervised(tmp_path, [f"print('start', start); sys.exit({code})"], restarts=3)
    assert (found, out) == (code, "start 0\n")


@pytest.mark.parametrize("frozen", [False, True])
def test_no_process_outlives_a_killed_launcher(tmp_path, frozen):
    """Whatever kills the launcher, its processes must not hold the accelerators any longer."""
    program = "on_signal(15, 75); print('ready', os.getpid(), file=sys.stderr, flush=True)\n"
    program += "os.kill(os.getpid(), 19)" if frozen else "time.sleep(60)"
    job = Supervised(tmp_path, [program] * 3)
    pids = pids_of(job.wait_for("ready", 3))
    job.popen.kill()
    job.popen.wait()
    assert gone(pids)


def children(pid: int) -> list[int]:
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def test_real_training_goes_on_after_a_kill(tmp_path, one_process):
    """A killed process costs the job a restart, by itself, and changes no loss."""
    two = one_process.flags(tmp_path / "two", checkpoint_every=20)
    launch = [sys.executable, "-m", "ptft_jax", "launch", "local"]
    launch += ["--processes=2", "--platform=cpu", "--restarts=1", "--"]
    with (tmp_path / "err.txt").open("wb") as err:
        launcher = subprocess.Popen([*launch, *two], stderr=err, cwd=ROOT)
    until = time.monotonic() + 120
    while not (tmp_path / "two" / "checkpoints" / "20").is_dir():
        assert launcher.poll() is None
        assert time.monotonic() < until
        time.sleep(0.02)
    killed = children(launcher.pid)[1]
    os.kill(killed, signal.SIGKILL)
    assert launcher.wait(120) == 0
    (restart,) = [
        line
        for line in (tmp_path / "err.txt").read_text().splitlines()
        if "starting all processes again" in line
    ]
    assert "process 1 ended with exit code 137 (SIGKILL)" in restart
    found = losses(tmp_path / "two")
    assert found == pytest.approx(one_process.losses, rel=1e-5)
    first_log = (tmp_path / "two" / "logs" / "process-00000.log").read_text()
    assert first_log.count("all-reduce of") == 2  # the logs of both starts
