"""What each process of a job does now, in RUN/status; the first one also keeps RUN/events.jsonl.

A heartbeat is a small JSON file that is replaced every few seconds, for `ptft status`. A thread of
its own writes: nothing waits for a slow disk.
"""

import json
import os
import socket
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import cast

from ptft_jax import BEGAN

EVENTS_FILE = "events.jsonl"
ACTIVITIES = ("training", "starting", "restoring", "compiling", "evaluating", "saving")
FOLDER = "status"
# Seconds after which a heartbeat comes at the latest.
INTERVAL = 10.0
# What happens within so many seconds is written together; at its end a process waits as long.
_MOMENT = 1.0
_starts = iter([BEGAN])


@dataclass(frozen=True)
class Beat:
    """What one process of a job says of itself: a heartbeat, or a line of events.jsonl.

    Attributes:
        time: seconds since 1970, by its own clock, as all times.
        start: which start of the run it belongs to: when that began, the same for all processes.
        activity, since: what its main thread does, one of `ACTIVITIES`, and since when.
        step, until: updates made, None before the run has been read or made; where it is to end.
        waited: seconds of this start in which the devices stood idle for want of a batch.
        code: its exit code, None while it runs.
        process, processes, host, pid: which process this is, of how many, and where it runs.
    """

    time: float
    start: float
    activity: str
    since: float
    step: int | None
    until: int
    waited: float
    code: int | None
    process: int
    processes: int
    host: str
    pid: int

    @classmethod
    def parse(cls, line: str) -> "Beat | None":
        """Returns the beat in a line of JSON; None for what a kill has cut off, or is none."""
        with suppress(ValueError, TypeError):
            beat = cls(**json.loads(line))
            types = {one.name: cast(type, one.type) for one in fields(cls)}
            typed = all(isinstance(getattr(beat, name), wanted) for name, wanted in types.items())
            # The host is shown on a terminal, which obeys what is not printable.
            if typed and beat.activity in ACTIVITIES and beat.host.isprintable():
                return beat
        return None


class Heartbeat:
    """Says what this process does; without a run's folder (None) nobody hears of it.

    For `process`, `processes`, `start`, `until`, and `step` and `waited`, which the main thread
    sets, see `Beat`. `stacks` is the file for the stacks of all threads if this process hangs.
    """

    def __init__(
        self,
        run_dir: Path | None = None,
        process: int = 0,
        processes: int = 1,
        start: float = 0.0,
        until: int = 0,
    ):
        self.step: int | None = None
        self.waited = 0.0
        self.stacks: Path | None = None
        about = (process, processes, socket.gethostname(), os.getpid())
        self._said = Beat(start, start, "starting", start, None, until, 0.0, None, *about)
        # Where the clock is set while the process runs, no second is counted twice.
        self._offset = time.time() - time.monotonic()
        self._lines: deque[str] = deque()
        self._lock = threading.Lock()
        self._changed, self._ended = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        if run_dir is None:
            return
        folder = run_dir / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        self.stacks = folder / f"stacks-{process:05d}.txt"
        self._file = folder / f"process-{process:05d}.json"
        self._events = run_dir / EVENTS_FILE
        # A start that was killed may have left half a line, and its last words as a heartbeat.
        self._unwritten = "\n" if self._events.exists() else ""
        with suppress(OSError):
            self._lines.append(self._file.read_text("utf-8", errors="replace"))
        self._thread = threading.Thread(target=self._run, name="ptft-heartbeat", daemon=True)
        self._thread.start()
        self._say()

    def does(self, activity: str) -> None:
        """Says that the main thread turns to something else, one of `ACTIVITIES`."""
        self._say(activity=activity, since=self._offset + time.monotonic())

    def end(self, code: int) -> None:
        """Says with which exit code this start ends; only the first one counts.

        It waits a second at most: where the disk does not answer, the start counts as killed.
        """
        if self._thread is not None and self._said.code is None:
            self._say(code=code)
            self._ended.set()
            self._thread.join(_MOMENT)

    def _now(self) -> Beat:
        now = self._offset + time.monotonic()
        return replace(self._said, time=now, step=self.step, waited=self.waited)

    def _say(self, **changes: str | float) -> None:
        with self._lock:  # the watch over signals and peers may end a process at any moment
            self._said = replace(self._now(), **changes)
            if self._thread is not None:
                self._lines.append(_line(self._said))
                self._changed.set()

    def _run(self) -> None:
        while not self._ended.wait(_MOMENT):
            self._changed.wait(INTERVAL)
            self._changed.clear()
            self._write()
        self._write()

    def _write(self) -> None:
        while self._lines:
            self._unwritten += self._lines.popleft()
        temporary = self._file.with_suffix(".tmp")
        try:
            if self._said.process == 0 and self._unwritten:
                with self._events.open("a", encoding="utf-8") as file:
                    file.write(self._unwritten)
            self._unwritten = ""
            temporary.write_text(_line(self._now()), encoding="utf-8")
            temporary.replace(self._file)
        except OSError:
            # A full disk ends the run at its next checkpoint, and says so. What may have been
            # written in part is written again, on lines of its own.
            self._unwritten = "\n" + self._unwritten.lstrip("\n")


def _line(beat: Beat) -> str:
    values = {n: round(v, 3) if isinstance(v, float) else v for n, v in asdict(beat).items()}
    return json.dumps(values) + "\n"


def began() -> float:
    """Returns when this process began; for its second run, that is now."""
    return next(_starts, time.time())


def read_heartbeats(run_dir: Path) -> list[tuple[Beat, float]]:
    """Returns what processes have said, in their order, and when by the file system's clock."""
    found = []
    for path in sorted((run_dir / FOLDER).glob("process-*.json")):
        with suppress(OSError), path.open(encoding="utf-8", errors="replace") as file:
            modified, beat = os.fstat(file.fileno()).st_mtime, Beat.parse(file.read())
            found += [(beat, modified)] if beat is not None else []
    return found
