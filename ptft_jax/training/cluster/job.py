"""The job that a process belongs to: its peers, its signals, and whether it still makes progress.

`Job()` is the job of one process; `start` makes those of several, which the control channel joins.
Entered as a context manager it handles SIGTERM, SIGHUP and Ctrl-C and starts a thread that watches
over the process:

* SIGTERM, SIGHUP or Ctrl-C at one process stops all of them at the same step (`stops_here`);
* a peer that dies or falls silent ends this process with exit code 76, one that fails with its
  own code;
* a main thread without progress for too long ends the job with exit code 70 and all stacks.
"""

import ctypes
import faulthandler
import os
import selectors
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NoReturn

from ptft_jax.errors import HangError, PeerError, PtftError, StopError, StorageError
from ptft_jax.training.accounting.heartbeat import Heartbeat
from ptft_jax.training.resources.storage import refusal

if TYPE_CHECKING:  # a job of one process does not load it
    from ptft_jax.training.cluster.control_channel import Link, Server

Message = dict[str, Any]
# The answers to the question where to stop, beside the number of a point.
NOW, NEVER = "now", "never"

# Compiling a large model, reading a corpus or writing a checkpoint may take this many times longer
# than a step may.
_PATIENCE = {"starting": 10, "restoring": 10, "compiling": 10, "saving": 10}
_SIGNALS = {signal.SIGTERM: StopError.exit_code, signal.SIGINT: 130, signal.SIGHUP: 129}
_NAMES = {StopError.exit_code: "SIGTERM", 130: "Ctrl-C", 129: "SIGHUP"}
# How long the first process, which hands on messages, stays for the others to end: a frozen one
# never does.
_STAY_SECONDS = 1.0
NOT_ALL_CAME = (
    "the processes of the job did not come together in time; expected each of them to be started "
    "and to reach the coordinator: check that its port is free and open, and raise "
    "--start_timeout_seconds if they start slowly."
)


class Job:
    """One process's view of its job; see the module.

    A peer may be silent for `heartbeat_seconds`. The main thread may be without progress (a step, a
    batch of an evaluation) for `watchdog_seconds`; ten times that where it starts, compiles,
    restores or saves. None: for ever. A run that has a folder sets `heartbeat`.
    """

    def __init__(self, heartbeat_seconds: float = 100.0, watchdog_seconds: float | None = None):
        self.process_index, self.process_count = 0, 1
        self.host = socket.gethostname()
        self._link: Link | None = None
        self._server: Server | None = None
        self._heartbeat_seconds = heartbeat_seconds
        self._watchdog = watchdog_seconds
        self.heartbeat = Heartbeat()
        self._activities = ["starting"]
        self._progress = time.monotonic()
        # "joining" the others, "before" the first update, "running", or "finishing".
        self._stage = "before"
        self._join_until: float | None = None
        self._point = 0
        self._stopping: Message | None = None
        self._stop_at: int | str | None = None
        self._answers: dict[str, list[Any]] = {}
        self._changed = threading.Condition()
        self._leaving = threading.Lock()
        self._closed = False
        self._thread: threading.Thread | None = None
        self._restore_signals: list[tuple[int, Any]] = []

    @property
    def is_first(self) -> bool:
        """Whether this process speaks and writes for the job."""
        return self.process_index == 0

    # Joining the others.

    def joins(self, seconds: float) -> None:
        """Says that this process waits for the others, for so long at most."""
        self._stage, self._join_until = "joining", time.monotonic() + seconds

    def joined(
        self, process_index: int, process_count: int, link: "Link", server: "Server | None"
    ) -> None:
        """Says that the others are there."""
        self.process_index, self.process_count = process_index, process_count
        self._link, self._server = link, server
        _hold_aborts()
        self.stays_alone()

    def stays_alone(self) -> None:
        """Says that nothing has to be waited for any more."""
        self._stage, self._join_until = "before", None
        self._poke()

    # What the main thread does.

    def gather(self, tag: str, value: Any) -> list[Any]:
        """Returns what every process gave under `tag`, in their order; waits for all of them.

        `value` is made of JSON's types. All processes call with the same tags in the same order.
        """
        if self._link is None:
            return [value]
        self._link.send({"gather": tag, "value": value})
        with self._changed:
            self._changed.wait_for(lambda: tag in self._answers)
            self.made_progress()
            return self._answers.pop(tag)

    @contextmanager
    def activity(self, name: str) -> Iterator[None]:
        """Names what the main thread does meanwhile; activities nest."""
        self._activities.append(name)
        self.heartbeat.does(name)
        self.made_progress()
        try:
            yield
        finally:
            self._activities.pop()
            self.heartbeat.does(self._activities[-1])
            self.made_progress()

    def made_progress(self) -> None:
        """Tells the watchdog that the main thread is alive."""
        self._progress = time.monotonic()

    def begin(self) -> None:
        """Says that a run begins: until its first update a stop has nothing to save."""
        self._stage = "before"

    def has_begun(self) -> None:
        """Says that this start has made an update, which a stop from now on must not lose."""
        self._stage = "running"

    def stops_here(self) -> bool:
        """Says whether the job stops at this point: between two updates or evaluation batches.

        All processes come to the same points in the same order, and stop at the first one that
        nobody has passed. Main threads do not wait for each other there: one that has not heard of
        the stop yet may need the others in a collective or a save before its next point.
        """
        self.made_progress()
        with self._changed:
            self._point += 1
            if self._stopping is None:
                return False
            if self._link is None:
                return True
            self._changed.wait_for(lambda: self._stop_at not in (None, NOW))
            return self._stop_at == self._point

    def finishing(self) -> None:
        """Says that this process comes to no more points: a stop from now on lets it end."""
        if self._link is not None:
            self._link.send({"finishing": True})
        self._stage = "finishing"

    def stopped(self, message: str) -> StopError:
        """Returns the error that ends a stopped run, with the exit code of what stopped it."""
        assert self._stopping is not None
        error = StopError(f"{self._asked(self._stopping)}: {message}")
        error.exit_code = self._stopping["code"]
        return error

    # The beginning and the end.

    def __enter__(self) -> "Job":
        wake, self._wake = socket.socketpair()
        for end in (wake, self._wake):
            end.setblocking(False)
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                # A shell gives background jobs an ignored Ctrl-C, which is meant for others, and
                # nohup an ignored SIGHUP.
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._restore_signals.append((number, signal.signal(number, self._on_signal)))
            # Python runs its handlers between two of its own instructions only, and compiling is
            # a single one: the thread learns of a signal through this socket at once.
            signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._watch, args=(wake,), name="ptft-job")
        self._thread.daemon = True
        self._thread.start()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if self._link is not None:
            if error is not None:
                self._fail(error)
            self.gather("the end", None)
            self._link.send({"bye": True})
        self.heartbeat.end(_code_of(error))
        self._closed = True
        if threading.current_thread() is threading.main_thread():
            signal.set_wakeup_fd(-1)
        for number, handler in self._restore_signals:
            signal.signal(number, handler)
        self._poke()
        assert self._thread is not None
        self._thread.join()
        self._wake.close()

    def _poke(self) -> None:
        """Wakes the watching thread."""
        with suppress(OSError):
            self._wake.send(b"\0")

    def _fail(self, error: BaseException) -> NoReturn:
        """Ends all processes because this one cannot go on."""
        code, message = _code_of(error), str(error) or type(error).__name__
        if code == 1:
            # Where a peer died, its collectives fail before it is known to be gone.
            time.sleep(1.0 if "Jax" not in type(error).__name__ else self._heartbeat_seconds + 1)
            traceback.print_exception(error)
            message = f"{type(error).__name__}: {error}"
        elif not self.is_first:
            time.sleep(0.3)  # what all of them have found, the first one says for all
        if isinstance(error, StopError):
            self._leave(code, message)
        assert self._link is not None
        self._link.send({"fail": {"code": code, "message": message}})
        self._leave(code, f"error: {message}")

    def _leave(self, code: int, message: str, *, say: bool | None = None) -> NoReturn:
        """Ends this process at once: JAX would wait for its peers when Python exits.

        `say` None: the first process alone says why.
        """
        if not self._leaving.acquire(blocking=False):
            threading.Event().wait()
        if self.is_first if say is None else say:
            who = "" if self.process_count == 1 else f" (process {self.process_index})"
            cursor = "\x1b[?25h\n" if sys.stdout.isatty() else ""
            print(f"{cursor}ptft{who}: {message}", file=sys.stderr, flush=True)
        with suppress(Exception):
            self.heartbeat.end(code)
        if self._link is not None:
            self._link.send({"bye": True})
        if self._server is not None:
            until = time.monotonic() + _STAY_SECONDS
            while time.monotonic() < until and not self._server.all_ended():
                time.sleep(0.02)
        with suppress(Exception):
            sys.stdout.flush()
        os._exit(code)

    # What the thread does.

    def _on_signal(self, number: int, frame: Any) -> None:
        """What Python does in the main thread; the rest is the watching thread's."""
        if number == signal.SIGINT and self._link is None and self._stage == "before":
            raise KeyboardInterrupt

    def _watch(self, wake: socket.socket) -> None:
        tick = min(1.0, self._heartbeat_seconds / 4, (self._watchdog or 1e9) / 8)
        with selectors.DefaultSelector() as selector:
            selector.register(wake, selectors.EVENT_READ)
            listens = False
            heard = sent = woke = time.monotonic()
            while not self._closed:
                ready = selector.select(timeout=tick)
                now = time.monotonic()
                if now - woke > 5 * tick:
                    # This process itself was frozen: nobody else is to blame for the time.
                    heard += now - woke
                    self._progress += now - woke
                woke = now
                for key, _ in ready:
                    if key.fileobj is wake:
                        for number in wake.recv(64):
                            self._signalled(number)
                    else:
                        heard = now
                        self._listen()
                if self._link is not None and not listens:
                    selector.register(self._link, selectors.EVENT_READ)
                    listens, heard = True, now
                if self._link is not None:
                    if now - sent >= tick:
                        sent = now
                        self._link.send({"beat": True})
                    if now - heard > self._heartbeat_seconds:
                        self._lost({"process": 0, "why": f"silent for {now - heard:.0f} s"})
                if self._join_until is not None and now > self._join_until:
                    self._leave(PeerError.exit_code, f"error: {NOT_ALL_CAME}", say=True)
                self._check_progress(now)
        wake.close()

    def _signalled(self, number: int) -> None:
        code = _SIGNALS.get(signal.Signals(number)) if number else None
        if code is None:
            return
        if self._link is not None:
            if self._stopping is not None and number == signal.SIGINT:
                self._leave(code, "interrupted twice: ends without saving", say=True)
            self._link.send({"stop": code})
            return
        if self._stopping is not None and number == signal.SIGINT:
            self._leave(code, "interrupted twice: ends without saving")
        stopping = {"code": code, "process": 0, "host": self.host}
        if self._stage == "running":
            self._stopping = stopping
        elif self._stage == "joining" or (self._stage == "before" and number != signal.SIGINT):
            self._leave(code, f"{self._asked(stopping)} before the first update: nothing to save")

    def _asked(self, stopping: Message) -> str:
        name = _NAMES[stopping["code"]]
        if self.process_count == 1:
            return f"stopped by {name}"
        return f"stopped by {name} at process {stopping['process']} on host {stopping['host']}"

    def _listen(self) -> None:
        assert self._link is not None
        try:
            messages = self._link.receive()
        except ValueError:
            messages = None
        if messages is None:
            self._lost({"process": 0, "why": "its connection has ended"})
        for message in messages:
            self._take(message)

    def _take(self, message: Message) -> None:
        assert self._link is not None
        with self._changed:
            if "gathered" in message:
                self._answers[message["gathered"]] = message["values"]
            elif "stopping" in message and self._stopping is None:
                self._stopping = message["stopping"]
                began = self._stage != "before"
                self._link.send({"stands": {"began": began, "passed": self._point}})
            elif "stop_at" in message:
                self._stop_at = message["stop_at"]
            self._changed.notify_all()
        if message.get("stop_at") == NOW:
            assert self._stopping is not None
            asked = self._asked(self._stopping)
            self._leave(self._stopping["code"], f"{asked} before the first update: nothing to save")
        elif message.get("stop_at") == NEVER:
            self._stopping = None
        elif "lost" in message:
            self._lost(message["lost"])
        elif "failed" in message and message["failed"]["process"] != self.process_index:
            failed = message["failed"]
            self._leave(
                failed["code"],
                f"process {failed['process']} on host {failed['host']}: {failed['message']}",
            )

    def _lost(self, lost: Message) -> NoReturn:
        if self._closed:
            threading.Event().wait()
        where = f" on host {lost['host']}" if "host" in lost else " (the coordinator)"
        self._leave(
            PeerError.exit_code,
            f"error: process {lost['process']}{where} is gone: {lost['why']}; the run goes on from "
            "its last checkpoint when the job is started again",
            say=True,
        )

    def _check_progress(self, now: float) -> None:
        activity = self._activities[-1]
        if self._watchdog is None:
            return
        limit = self._watchdog * _PATIENCE.get(activity, 1)
        idle = now - self._progress
        if idle <= limit:
            return
        faulthandler.dump_traceback(sys.stderr, all_threads=True)
        if self.heartbeat.stacks is not None:
            with suppress(OSError), self.heartbeat.stacks.open("w", encoding="utf-8") as file:
                faulthandler.dump_traceback(file, all_threads=True)
        message = (
            f"error: no progress for {idle:.0f} s while {activity} (the limit is {limit:.0f} s, "
            "from --watchdog_seconds); the stacks of all threads are above"
        )
        if self._link is not None:
            fail = {"code": HangError.exit_code, "message": message}
            self._link.send({"fail": fail})
        self._leave(HangError.exit_code, message, say=True)


def _code_of(error: BaseException | None) -> int:
    if error is None:
        return 0
    if isinstance(error, PtftError):
        return error.exit_code
    if isinstance(error, OSError) and refusal(error):
        return StorageError.exit_code
    return 130 if isinstance(error, KeyboardInterrupt) else 1


def _hold_aborts() -> None:
    """Gives this process a few seconds between an abort and its end.

    JAX aborts a process that has lost its coordinator as soon as the connection breaks; the thread
    here learns of it in the same moment, and can end with the right code. `sleep` as the handler of
    SIGABRT gets the signal's number, 6: another program that aborts dies six seconds later.
    """
    libc = ctypes.CDLL(None)
    libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
    libc.signal.restype = ctypes.c_void_p
    libc.signal(signal.SIGABRT, ctypes.cast(libc.sleep, ctypes.c_void_p))
