"""Starts the processes of a job on this machine, shows their output, and ends what is left over."""

import ctypes
import math
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Lock, Thread
from typing import IO, Any, NamedTuple

from ptft_jax.errors import PeerError, PtftError

# After these codes (docs/errors.md) and deaths by signals a job is started again, after the others
# a person has to mend something. launch/slurm.sbatch and launch/gke_jobset.yaml say the same.
RESTART_CODES = (70, 75, 76)
_CTRL_C = 130
NO_RESTART_CODES = (1, 2, 65, 71, 74, _CTRL_C)

# Between two looks at the processes, and at the signals that have come.
_POLL_SECONDS = 0.02
# From SIGTERM to SIGKILL, for what outlives its grace: a frozen process ends by the latter only.
_TERM_SECONDS = 5.0
# After a process's end its output is read on for this long: children of its own may hold it open.
_DRAIN_SECONDS = 1.0
_PR_SET_PDEATHSIG = 1
# Lines longer than this are cut in two, and a log that has no folder yet keeps this much of them.
_LINE_BYTES, _PENDING_BYTES = 1 << 16, 1 << 20


class JobError(PtftError):
    """A process of the job ended with an error; the exit code is that of the first one that did."""


class Start(NamedTuple):
    """The command line of a process, and the variables added to its environment."""

    command: list[str]
    environment: Mapping[str, str]


def supervise(
    make_starts: Callable[[], Sequence[Start]],
    *,
    run_dir: str,
    restarts: int,
    grace_seconds: float,
) -> None:
    """Runs a job to its end, started again at most `restarts` times after ends that call for it.

    `make_starts` returns what to start, anew for each start. Output goes to logs/ in `run_dir` as
    soon as that is a run's. Processes may outlive the first one that failed by `grace_seconds`.
    Raises JobError with the exit code of that one.
    """
    wishes: deque[int] = deque()
    asked_to_stop = False

    def take(number: int, frame: Any) -> None:
        nonlocal asked_to_stop
        asked_to_stop = True
        wishes.append(number)

    with ExitStack() as stack:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            # nohup, and shells for jobs in the background, make them ignored.
            if signal.getsignal(number) is not signal.SIG_IGN:
                stack.callback(signal.signal, number, signal.signal(number, take))
        for left in range(restarts, -1, -1):
            failed = _run(make_starts(), Path(run_dir), grace_seconds, wishes)
            if failed is None:
                return
            process, code = failed
            what = f"process {process} ended with exit code {code}"
            with suppress(ValueError):
                what += f" ({signal.Signals(code - 128).name})"
            helps = code in RESTART_CODES or (code > 128 and code != _CTRL_C)
            if asked_to_stop or not helps or not left:
                goes_on = "; the same command goes on from the last checkpoint" if helps else ""
                logs = Path(run_dir) / "logs"
                also = f" and in {logs}" if logs.is_dir() else ""
                error = JobError(f"{what}; its output is above{also}{goes_on}")
                error.exit_code = code
                raise error
            _say(f"{what}: starting all processes again ({left - 1} restarts left after this one)")


def _run(
    starts: Sequence[Start], run_dir: Path, grace: float, wishes: deque[int]
) -> tuple[int, int] | None:
    """Runs until all have ended; returns (process, exit code) of the first failure, or None."""
    processes: list[_Process] = []
    failed = None
    term_at = kill_at = math.inf
    screen = _Screen()
    try:
        for number, start in enumerate(starts):
            processes.append(_Process(number, start, run_dir))
        # No thread before all are started: what a fork finds locked stays locked in it.
        readers = [reader for process in processes for reader in process.read(screen)]
        while running := [process for process in processes if process.code is None]:
            while wishes:
                _forward(wishes.popleft(), running)
            ends = [(one.number, one.code) for one in running if one.has_ended() and one.code]
            if ends and failed is None:
                # Of several seen at once, one that lost a peer is the consequence of another.
                failed = min(ends, key=lambda end: end[1] == PeerError.exit_code)
                term_at = time.monotonic() + grace
            now, late = time.monotonic(), [one for one in running if one.code is None]
            if late and now >= term_at:
                _end(late, signal.SIGTERM, f"{grace:g} s after the failure")
                term_at, kill_at = math.inf, now + _TERM_SECONDS
            elif late and now >= kill_at:
                _end(late, signal.SIGKILL, f"{_TERM_SECONDS:g} s after SIGTERM")
                kill_at = math.inf
            time.sleep(_POLL_SECONDS)
        until = time.monotonic() + _DRAIN_SECONDS
        for reader in readers:
            reader.join(max(0.0, until - time.monotonic()))
        with screen.lock:
            for process in processes:
                process.log(b"")
    finally:
        # Leaves nothing behind when the launcher itself fails.
        for process in processes:
            if process.popen.poll() is None:
                process.popen.kill()
    return failed


def _say(text: str) -> None:
    print(f"ptft launch: {text}", file=sys.stderr, flush=True)


class _Screen:
    """What all processes write to, and what stands there."""

    def __init__(self) -> None:
        self.lock = Lock()  # of the logs, too
        self._shown: set[bytes] = set()

    def show(self, line: bytes, number: int, stream: IO[bytes]) -> None:
        """Shows a line; what every process says, like a refused setting, is worth saying once."""
        if number and line in self._shown:
            return
        if len(self._shown) < 10_000:
            self._shown.add(line)
        with suppress(OSError):  # the reader of our output has gone; the job goes on
            stream.write((b"[%d] " % number if number else b"") + line + b"\n")
            stream.flush()


class _Process:
    """A running process, and its log in the run's folder.

    A run that is refused leaves no folder behind: until the run has made its config.json, output is
    kept in memory.
    """

    def __init__(self, number: int, start: Start, run_dir: Path) -> None:
        self.number = number
        self.code: int | None = None
        self._run_dir = run_dir
        self._file: IO[bytes] | None = None
        self._pending = bytearray()
        self.popen = subprocess.Popen(
            start.command,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **start.environment},
            stdin=subprocess.DEVNULL,
            # Progress bars need the terminal itself; standard error is logged all the same.
            stdout=None if number == 0 and sys.stdout.isatty() else subprocess.PIPE,
            stderr=subprocess.PIPE,
            # Ctrl-C in the terminal reaches the launcher alone, which passes it on once.
            start_new_session=True,
            preexec_fn=_dies_with_parent(os.getpid()),
        )

    def has_ended(self) -> bool:
        """Says whether the process has ended by now; its code is known from then on."""
        code = self.popen.poll()
        if code is not None:
            self.code = 128 - code if code < 0 else code
        return code is not None

    def read(self, screen: _Screen) -> list[Thread]:
        """Starts a thread for each stream, which passes whole lines on to the log and the screen.

        Of standard output only the first process's is for people.
        """
        shown = None if self.number else sys.stdout.buffer
        streams = ((self.popen.stdout, shown), (self.popen.stderr, sys.stderr.buffer))
        threads = [
            Thread(target=self._pass_on, args=(stream, screen, shown), daemon=True)
            for stream, shown in streams
            if stream is not None
        ]
        for thread in threads:
            thread.start()
        return threads

    def _pass_on(self, stream: IO[bytes], screen: _Screen, shown: IO[bytes] | None) -> None:
        with stream:
            while line := stream.readline(_LINE_BYTES):
                with screen.lock:
                    self.log(line)
                    if shown is not None:
                        screen.show(line.removesuffix(b"\n"), self.number, shown)

    def log(self, data: bytes) -> None:
        """Appends to the log, or keeps what is appended until the run's folder is there."""
        self._pending += data
        with suppress(OSError):  # a full disk is the run's to report; what is shown is not lost
            if self._file is None and (self._run_dir / "config.json").is_file():
                path = self._run_dir / "logs" / f"process-{self.number:05d}.log"
                path.parent.mkdir(exist_ok=True)
                self._file = path.open("ab", buffering=0)
            if self._file is not None and self._pending:
                self._file.write(self._pending)
                self._pending.clear()
        del self._pending[:-_PENDING_BYTES]


def _dies_with_parent(parent: int) -> Callable[[], None]:
    """Returns what a child does first: the kernel kills it when its launcher dies of any cause."""
    if sys.platform != "linux":
        return lambda: None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    kill = ctypes.c_ulong(signal.SIGKILL)

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, kill)
        if os.getppid() != parent:
            os._exit(128 + signal.SIGKILL)

    return ask


def _forward(number: int, running: Sequence[_Process]) -> None:
    """Passes a signal on; a terminal that closes (SIGHUP) is a reason to save.

    Ctrl-C goes to the first process only: a second one ends a job without saving.
    """
    for process in running:
        if number != signal.SIGINT or process.number == 0:
            process.popen.send_signal(signal.SIGTERM if number == signal.SIGHUP else number)


def _end(late: Sequence[_Process], number: signal.Signals, after: str) -> None:
    names = ", ".join(str(process.number) for process in late)
    _say(f"still running {after}: {names}; sending {number.name}")
    for process in late:
        process.popen.send_signal(number)
