"""Starts the processes of a job on this machine, shows their output, and ends what is left over."""

import ctypes
import itertools
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

from ptft_jax.commands.launch.restarts import starts_again
from ptft_jax.errors import PeerError, PtftError

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

    `make_starts` returns what to start, anew for each start (the port may be another one). Output
    goes to logs/ in `run_dir` as soon as that is a run's. Processes may outlive the first one that
    failed by `grace_seconds`. Raises JobError with the exit code of that one.
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
            failed = _Job(Path(run_dir), grace_seconds, wishes).run(make_starts())
            if failed is None:
                return
            process, code = failed
            what = f"process {process} ended with {_described(code)}"
            if asked_to_stop or not starts_again(code) or not left:
                error = JobError(f"{what}; {_hint(code, run_dir)}")
                error.exit_code = code
                raise error
            say(f"{what}: starting all processes again ({left - 1} restarts left after this one)")


def say(text: str) -> None:
    """Prints a line of the launcher's own."""
    print(f"ptft launch: {text}", file=sys.stderr, flush=True)


def _described(code: int) -> str:
    with suppress(ValueError):
        return f"exit code {code} ({signal.Signals(code - 128).name})"
    return f"exit code {code}"


def _hint(code: int, run_dir: str) -> str:
    logs = Path(run_dir) / "logs"
    where = f"its output is above and in {logs}" if logs.is_dir() else "its output is above"
    goes_on = "; the same command goes on from the last checkpoint" if starts_again(code) else ""
    return where + goes_on


class _Process:
    """A running process."""

    def __init__(self, number: int, start: Start) -> None:
        self.number = number
        self.code: int | None = None
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


class _Log:
    """A process's log in the run's folder, appended to.

    A run that is refused leaves no folder behind: until the run has made its config.json, output is
    kept in memory.
    """

    def __init__(self, run_dir: Path, number: int):
        self._run_dir = run_dir
        self._path = run_dir / "logs" / f"process-{number:05d}.log"
        self._file: IO[bytes] | None = None
        self._pending = bytearray()

    def write(self, data: bytes) -> None:
        """Appends to the log, or keeps what is appended until the run's folder is there."""
        self._pending += data
        try:
            if self._file is None and (self._run_dir / "config.json").is_file():
                self._path.parent.mkdir(exist_ok=True)
                self._file = self._path.open("ab", buffering=0)
            if self._file is not None and self._pending:
                self._file.write(self._pending)
                self._pending.clear()
        except OSError:
            # A full disk is the run's to report; what is shown on screen is not lost.
            pass
        del self._pending[:-_PENDING_BYTES]


class _Job:
    """One start of all processes."""

    def __init__(self, run_dir: Path, grace_seconds: float, wishes: deque[int]) -> None:
        self._run_dir = run_dir
        self._grace = grace_seconds
        self._wishes = wishes
        self._shown: set[bytes] = set()
        self._lock = Lock()  # of the screen and the logs
        self._term_at = self._kill_at = math.inf

    def run(self, starts: Sequence[Start]) -> tuple[int, int] | None:
        """Runs until all have ended; returns (process, exit code) of the first failure, or None."""
        processes: list[_Process] = []
        failed = None
        try:
            for number, start in enumerate(starts):
                processes.append(_Process(number, start))
            # No thread before all are started: what a fork finds locked stays locked in it.
            logs = [_Log(self._run_dir, process.number) for process in processes]
            readers = [*map(self._read, processes, logs)]
            while running := [process for process in processes if process.code is None]:
                while self._wishes:
                    self._forward(self._wishes.popleft(), running)
                ended = [process for process in running if process.has_ended()]
                ends = [(process.number, process.code) for process in ended if process.code]
                if ends and failed is None:
                    # Of several seen at once, one that lost a peer is the consequence of another.
                    failed = min(ends, key=lambda end: end[1] == PeerError.exit_code)
                    self._term_at = time.monotonic() + self._grace
                self._end_late([process for process in running if process.code is None])
                time.sleep(_POLL_SECONDS)
            until = time.monotonic() + _DRAIN_SECONDS
            for reader in itertools.chain(*readers):
                reader.join(max(0.0, until - time.monotonic()))
            with self._lock:
                for log in logs:
                    log.write(b"")
        finally:
            # Leaves nothing behind when the launcher itself fails.
            for process in processes:
                if process.popen.poll() is None:
                    process.popen.kill()
        return failed

    def _read(self, process: _Process, log: _Log) -> list[Thread]:
        """Starts a thread for each stream of a process."""
        out = None if process.number else sys.stdout.buffer
        streams = ((process.popen.stdout, out), (process.popen.stderr, sys.stderr.buffer))
        threads = [
            Thread(target=self._pass_on, args=(stream, process.number, log, screen), daemon=True)
            for stream, screen in streams
            if stream is not None
        ]
        for thread in threads:
            thread.start()
        return threads

    def _pass_on(self, stream: IO[bytes], number: int, log: _Log, screen: IO[bytes] | None) -> None:
        """Passes on whole lines: all of them to the log, those for people to the screen."""
        place = b"[%d] " % number if number else b""
        with stream:
            while line := stream.readline(_LINE_BYTES):
                with self._lock:
                    log.write(line)
                    line = line.removesuffix(b"\n")
                    # What every process says, like a refused setting, is worth saying once.
                    if screen is None or (number and line in self._shown):
                        continue
                    if len(self._shown) < 10_000:
                        self._shown.add(line)
                    with suppress(OSError):  # the reader of our output has gone; the job goes on
                        screen.write(place + line + b"\n")
                        screen.flush()

    def _forward(self, number: int, running: Sequence[_Process]) -> None:
        """Passes a signal on; the job agrees on the step at which it stops.

        Ctrl-C goes to the first process only: the second one that a job gets ends it without
        saving, and that is for the person at the terminal to decide. A terminal that closes
        (SIGHUP) is a reason to save.
        """
        for process in running:
            if number != signal.SIGINT or process.number == 0:
                process.popen.send_signal(signal.SIGTERM if number == signal.SIGHUP else number)

    def _end_late(self, running: Sequence[_Process]) -> None:
        now = time.monotonic()
        if not running or now < min(self._term_at, self._kill_at):
            return
        names = ", ".join(str(process.number) for process in running)
        if now >= self._term_at:
            number, after = signal.SIGTERM, f"{self._grace:g} s after the failure"
            self._term_at, self._kill_at = math.inf, now + _TERM_SECONDS
        else:
            number, after = signal.SIGKILL, f"{_TERM_SECONDS:g} s after SIGTERM"
            self._kill_at = math.inf
        say(f"still running {after}: {names}; sending {number.name}")
        for process in running:
            process.popen.send_signal(number)
