"""Starts the processes of a job on this machine, shows their output, and ends what is left over."""

import ctypes
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

from ptft_jax.commands.launch_restarts import starts_again
from ptft_jax.errors import PeerError, PtftError

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
    """Runs a job to its end, starting it again after ends that call for it.

    Args:
        make_starts: returns what to start, anew for each start (the port may be another one).
        run_dir: the run's folder; output goes to its logs/ as soon as it is a run's.
        restarts: how often to start again at most.
        grace_seconds: how long processes may outlive the first one that failed.

    Raises:
        JobError: with the exit code of the first process that failed.
    """
    with _Signals() as signals:
        for left in range(restarts, -1, -1):
            failed = _Job(make_starts(), Path(run_dir), grace_seconds, signals).run()
            if failed is None:
                return
            process, code = failed
            what = f"process {process} ended with {_described(code)}"
            if signals.asked_to_stop or not starts_again(code) or not left:
                error = JobError(f"{what}; {_hint(code, run_dir)}")
                error.exit_code = code
                raise error
            say(f"{what}: starting all processes again ({left - 1} restarts left after this one)")


def say(text: str) -> None:
    """Prints a line of the launcher's own."""
    print(f"ptft launch: {text}", file=sys.stderr, flush=True)


def _described(code: int) -> str:
    if code <= 128:
        return f"exit code {code}"
    with suppress(ValueError):
        return f"exit code {code} ({signal.Signals(code - 128).name})"
    return f"exit code {code}"


def _hint(code: int, run_dir: str) -> str:
    logs = Path(run_dir) / "logs"
    where = f"its output is above and in {logs}" if logs.is_dir() else "its output is above"
    if starts_again(code):
        return f"{where}; the same command goes on from the last checkpoint"
    return where


class _Signals:
    """Takes SIGTERM, SIGINT and SIGHUP from their defaults while a job runs."""

    def __init__(self) -> None:
        self.asked_to_stop = False
        self.received: list[int] = []
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def fileno(self) -> int:
        """Returns the descriptor that is readable once a signal or a child's end has come."""
        return self._read

    def __enter__(self) -> "_Signals":
        self._before: list[tuple[int, Any]] = []
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            # nohup, and shells for jobs in the background, make them ignored.
            if number == signal.SIGCHLD or signal.getsignal(number) is not signal.SIG_IGN:
                self._before.append((number, signal.signal(number, self._take)))
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        return self

    def __exit__(self, *error: object) -> None:
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._before:
            signal.signal(number, handler)
        os.close(self._read)
        os.close(self._write)

    def _take(self, number: int, frame: Any) -> None:
        if number != signal.SIGCHLD:
            self.asked_to_stop = True
            self.received.append(number)

    def drain(self) -> list[int]:
        """Returns the signals to pass on, each once."""
        with suppress(BlockingIOError):
            while os.read(self._read, 512):
                pass
        received, self.received = self.received, []
        return received


class _Process:
    """A running process and what it prints."""

    def __init__(self, number: int, start: Start, log: "_Log", stack: ExitStack):
        self.number = number
        self.log = log
        self.code: int | None = None
        # Progress bars need the terminal itself; standard error is logged all the same.
        self.on_terminal = number == 0 and sys.stdout.isatty()
        self.popen = subprocess.Popen(
            start.command,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **start.environment},
            stdin=subprocess.DEVNULL,
            stdout=None if self.on_terminal else subprocess.PIPE,
            stderr=subprocess.PIPE,
            # Ctrl-C in the terminal reaches the launcher alone, which passes it on once.
            start_new_session=True,
            preexec_fn=_dies_with_parent(os.getpid()),
        )
        stack.enter_context(self.popen)

    def poll(self) -> int | None:
        """Returns the exit code of a process found to have ended just now, else None."""
        if self.code is not None:
            return None
        code = self.popen.poll()
        if code is not None:
            self.code = 128 - code if code < 0 else code
        return self.code

    def send(self, number: int) -> None:
        """Sends a signal, unless the process has ended."""
        if self.code is None:
            self.popen.send_signal(number)


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
        """Appends to the log."""
        self._pending += data
        self.flush()
        del self._pending[:-_PENDING_BYTES]

    def flush(self) -> None:
        """Writes what waits, if the run's folder is there by now."""
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

    def close(self) -> None:
        self.flush()
        if self._file is not None:
            self._file.close()


class _Output:
    """One stream of a process, passed on to the log and, by whole lines, to the screen."""

    def __init__(self, process: _Process, stream: IO[bytes], screen: IO[bytes] | None):
        self.process = process
        self.stream = stream
        self._screen = screen
        self._rest = b""
        os.set_blocking(stream.fileno(), False)

    def fileno(self) -> int:
        return self.stream.fileno()

    def read(self, shown: set[bytes]) -> bool:
        """Passes on what is there; returns False at the stream's end."""
        try:
            data = os.read(self.fileno(), 1 << 16)
        except BlockingIOError:
            return True
        self.process.log.write(data)
        if self._screen is not None:
            *lines, self._rest = (self._rest + data).split(b"\n")
            if len(self._rest) > _LINE_BYTES or (not data and self._rest):
                lines, self._rest = [*lines, self._rest], b""
            for line in lines:
                self._show(line, shown)
        return bool(data)

    def _show(self, line: bytes, shown: set[bytes]) -> None:
        assert self._screen is not None
        # What every process says, like a refused setting, is worth saying once.
        if self.process.number:
            if line in shown:
                return
            line_shown = b"[%d] %s" % (self.process.number, line)
        else:
            line_shown = line
        if len(shown) < 10_000:
            shown.add(line)
        with suppress(OSError):  # the reader of our output has gone; the job goes on
            self._screen.write(line_shown + b"\n")
            self._screen.flush()


class _Job:
    """One start of all processes."""

    def __init__(
        self, starts: Sequence[Start], run_dir: Path, grace_seconds: float, signals: _Signals
    ):
        self._starts = starts
        self._run_dir = run_dir
        self._grace = grace_seconds
        self._signals = signals
        self._shown: set[bytes] = set()
        self._failed: tuple[int, int] | None = None
        self._term_at = self._kill_at = float("inf")

    def run(self) -> tuple[int, int] | None:
        """Runs until all have ended; returns (process, exit code) of the first failure, or None."""
        with ExitStack() as stack, selectors.DefaultSelector() as selector:
            selector.register(self._signals, selectors.EVENT_READ)
            processes: list[_Process] = []
            stack.callback(self._end_all, processes)
            for number, start in enumerate(self._starts):
                log = _Log(self._run_dir, number)
                stack.callback(log.close)
                process = _Process(number, start, log, stack)
                processes.append(process)
                for stream, screen in (
                    (process.popen.stdout, None if number else sys.stdout.buffer),
                    (process.popen.stderr, sys.stderr.buffer),
                ):
                    if stream is not None:
                        selector.register(_Output(process, stream, screen), selectors.EVENT_READ)
            while any(process.code is None for process in processes):
                self._pass_on(selector, 1.0)
                for number in self._signals.drain():
                    self._forward(number, processes)
                self._note_ends(processes)
                self._end_late(processes)
            until = time.monotonic() + _DRAIN_SECONDS
            while len(selector.get_map()) > 1 and time.monotonic() < until:
                self._pass_on(selector, 0.1)
        return self._failed

    def _pass_on(self, selector: selectors.BaseSelector, seconds: float) -> None:
        next_deadline = min(self._term_at, self._kill_at) - time.monotonic()
        for key, _ in selector.select(max(0.0, min(seconds, next_deadline))):
            if isinstance(key.fileobj, _Output) and not key.fileobj.read(self._shown):
                selector.unregister(key.fileobj)

    def _forward(self, number: int, processes: Sequence[_Process]) -> None:
        """Passes a signal on; the job agrees on the step at which it stops.

        Ctrl-C goes to the first process only: the second one that a job gets ends it without
        saving, and that is for the person at the terminal to decide. A terminal that closes
        (SIGHUP) is a reason to save.
        """
        for process in processes[:1] if number == signal.SIGINT else processes:
            process.send(signal.SIGTERM if number == signal.SIGHUP else number)

    def _note_ends(self, processes: Sequence[_Process]) -> None:
        codes = [(process.number, process.poll()) for process in processes]
        found = [(number, code) for number, code in codes if code]
        if not found or self._failed is not None:
            return
        # Of several ends seen at once, one that lost a peer is the consequence of another.
        self._failed = min(found, key=lambda end: end[1] == PeerError.exit_code)
        self._term_at = time.monotonic() + self._grace

    def _end_late(self, processes: Sequence[_Process]) -> None:
        now = time.monotonic()
        late = [process for process in processes if process.code is None]
        if not late:
            return
        names = ", ".join(str(process.number) for process in late)
        if now >= self._term_at:
            self._term_at, self._kill_at = float("inf"), now + _TERM_SECONDS
            say(f"still running {self._grace:g} s after the failure: {names}; sending SIGTERM")
            for process in late:
                process.send(signal.SIGTERM)
        elif now >= self._kill_at:
            self._kill_at = float("inf")
            say(f"still running {_TERM_SECONDS:g} s after SIGTERM: {names}; sending SIGKILL")
            for process in late:
                process.send(signal.SIGKILL)

    def _end_all(self, processes: Sequence[_Process]) -> None:
        """Leaves nothing behind when the launcher itself fails."""
        for process in processes:
            if process.popen.poll() is None:
                process.popen.kill()
