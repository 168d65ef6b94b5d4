"""Where the wall-clock time of a run went, over all its starts, and what each process does now.

The first process keeps RUN/goodput.json: seconds by activity, for each start and over all of them.
A start that was killed is known up to what it wrote or logged last; the next start adds its own.
Seconds of training whose steps have to be made again are moved from 'training' to 'lost'. Every
process keeps a file in RUN/status (`ptft_jax.training.status_files`).

Account is taken of the main thread; another thread calls `beat`, and the files are written by a
third, so that neither training nor the watch over signals and peers ever waits for a disk.
"""

import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ptft_jax.errors import StorageError
from ptft_jax.training.goodput_file import (
    ACTIVITIES,
    KILLED,
    Start,
    end_of,
    last_logged,
    read_starts,
    to_text,
)
from ptft_jax.training.status_files import (
    FOLDER,
    ProcessStatus,
    machine,
    process_began,
    process_ticks,
    status_file,
)
from ptft_jax.training.tracker import Tracker

GOODPUT_FILE = "goodput.json"
# Seconds between two writings: in the first minutes of a start, in which most things go wrong, and
# afterwards.
INTERVAL_AT_FIRST, INTERVAL = 5.0, 15.0
_AT_FIRST_SECONDS = 300.0
# How long the end of a process waits for its last words to be written.
_LAST_SECONDS = 1.0
# Of the positions between two checkpoints at most so many are remembered.
_MOST_POINTS = 256

_process_time_is_taken = threading.Event()


class Goodput(Tracker):
    """Takes account of one start of a run, in one process; see the module.

    Outside any `activity` time counts as 'starting': Python and JAX, opening the data, tidying up.

    Args:
      run_dir: the run's folder, which exists.
      process_index, process_count: which process this is, of how many.
      began: when this start began, in seconds since 1970; None: when this process started, or now
        where another run of this process has had that time counted already.
      hosts: the hosts of all processes, in their order; () where only this one's is known.

    Attributes:
      notice: something to tell the person who watches (a damaged file was set aside), or None.

    Raises StorageError when the folder of the status files cannot be made.
    """

    def __init__(
        self,
        run_dir: str | Path,
        process_index: int = 0,
        process_count: int = 1,
        began: float | None = None,
        hosts: Sequence[str] = (),
    ):
        self._run_dir = Path(run_dir)
        self._process, self._processes = process_index, process_count
        self._host = socket.gethostname()
        self.notice: str | None = None
        self._make_folder()
        self._before: list[Start] = []
        self._clear()
        if process_index == 0:
            self._before, self.notice = read_starts(self._run_dir / GOODPUT_FILE)
            self._follow_up()
        now = time.time()
        began = _began() if began is None else began
        if self._before:
            # The clock of another host may be behind; what was counted is not counted again.
            began = max(began, self._before[-1].ended)
        began = min(began, now)
        self._origin = time.monotonic() - (now - began)  # `began` on the monotonic clock
        self._start = Start(
            began=began,
            ended=began,
            processes=process_count,
            hosts=list(dict.fromkeys(hosts or [self._host])),
        )
        self._machine, self._ticks = machine(), process_ticks()
        self._step: int | None = None
        self._code: int | None = None
        self._stack = ["starting"]
        self._counted = self._entered = self._origin
        # (step, seconds of training until then), since the last checkpoint.
        self._points: dict[int, float] = {}
        self._lock = threading.Lock()
        self._replacing = threading.Lock()
        self._writing = threading.Lock()  # held while a thread that `beat` has started writes
        self._writer: threading.Thread | None = None
        self._due = -float("inf")

    # What the main thread says.

    @contextmanager
    def activity(self, name: str) -> Iterator[None]:
        """Counts the time within as `name`, one of `ACTIVITIES`; an inner one pauses the outer."""
        if name not in ACTIVITIES:
            raise ValueError(f"activity {name!r} is none of {', '.join(ACTIVITIES)}")
        with self._lock:
            self._count()
            self._stack.append(name)
            self._entered = self._counted
            if self._step is not None:
                # A checkpoint of this step, if one is being made, stands for this much training.
                self._points.setdefault(self._step, self._start.seconds["training"])
                if len(self._points) > _MOST_POINTS:
                    self._points = dict(list(self._points.items())[1::2])
        try:
            yield
        finally:
            with self._lock:
                self._count()
                self._stack.pop()
                self._entered = self._counted

    def resumed(self, step: int, until: int | None = None) -> None:
        """Says that this start goes on after `step` updates (0: from the beginning), up to `until`.

        What earlier starts have trained beyond that step is lost.
        """
        with self._lock:
            for before in self._before:
                before.lose_after(step)
            known = [before for before in self._before if before.first_step is not None]
            if known:
                known[-1].reached(step)
            self._start.begin_at(step, until)
            self._step = step
            self._due = -float("inf")

    def step(self, step: int) -> None:
        """Says that `step` updates are made."""
        self._step = step

    def add_data_wait(self, seconds: float) -> None:
        """Counts seconds of the activity that goes on as spent waiting for the next batch."""
        with self._lock:
            self._count()
            held = self._start.seconds
            moved = min(seconds, held[self._stack[-1]])
            held[self._stack[-1]] -= moved
            held["data_wait"] += moved

    def saved(self, step: int) -> None:
        """Says that a checkpoint of `step` is under way.

        Where it does not become whole, the next start moves what it would have kept to 'lost'.
        """
        with self._lock:
            self._count()
            self._bring_up()
            self._start.save(step, self._points)
            self._points = {at: seconds for at, seconds in self._points.items() if at > step}
            self._due = -float("inf")

    # What any thread says.

    def beat(self) -> None:
        """Has the files written when that is due; returns at once and never raises."""
        now = time.monotonic()
        if self._code is not None or now < self._due or not self._writing.acquire(blocking=False):
            return
        self._due = now + self._interval(now)
        self._writer = threading.Thread(target=self._write_once, name="ptft-goodput", daemon=True)
        try:
            self._writer.start()
        except RuntimeError:  # Python is shutting down
            self._writing.release()

    def end(self, code: int) -> None:
        """Says with which exit code this start ends, and writes the files a last time.

        Where the disk does not answer within a second the process need not wait: the start will be
        taken for a killed one. Called again, with another code, that one counts.
        """
        self._code = code
        writer = threading.Thread(target=self._write, name="ptft-goodput-end", daemon=True)
        writer.start()
        writer.join(_LAST_SECONDS)

    # Counting; the lock is held.

    def _count(self) -> None:
        """Counts the time since the last call for the activity that goes on."""
        now = time.monotonic()
        self._start.seconds[self._stack[-1]] += now - self._counted
        self._counted = now

    def _bring_up(self) -> None:
        self._start.ended = self._start.began + (self._counted - self._origin)
        if self._step is not None:
            self._start.reached(self._step)

    # Writing.

    def _interval(self, now: float) -> float:
        return INTERVAL_AT_FIRST if now - self._origin < _AT_FIRST_SECONDS else INTERVAL

    def _write_once(self) -> None:
        try:
            self._write()
        finally:
            self._writing.release()

    def _write(self) -> None:
        code = self._code
        with suppress(OSError):  # a full disk ends the run at its next checkpoint, and says so
            for path, text in self._texts(code).items():
                words = "" if code is None else f".{code}"
                temporary = path.with_name(f".{path.name}.{os.getpid()}{words}.tmp")
                try:
                    with temporary.open("w", encoding="utf-8") as file:
                        file.write(text)
                        # So that a power cut leaves no empty file; at the end there is no time.
                        if code is None and path.name == GOODPUT_FILE:
                            file.flush()
                            os.fsync(file.fileno())
                    with self._replacing:
                        # What was begun before the end must not come in the place of its words.
                        if code == self._code:
                            temporary.replace(path)
                finally:
                    temporary.unlink(missing_ok=True)

    def _texts(self, code: int | None) -> dict[Path, str]:
        """Returns the files to write, with their contents at this moment."""
        with self._lock:
            self._count()
            self._bring_up()
            self._start.code, self._start.end = code, None if code is None else end_of(code)
            status = ProcessStatus(
                process=self._process,
                processes=self._processes,
                host=self._host,
                pid=os.getpid(),
                machine=self._machine,
                pid_ticks=self._ticks,
                began=self._start.began,
                time=time.time(),
                interval=self._interval(self._counted),
                first_step=self._start.first_step,
                step=self._step,
                activity=self._stack[-1],
                since=self._start.began + (self._entered - self._origin),
                training=self._start.seconds["training"],
                data_wait=self._start.seconds["data_wait"],
                code=code,
            )
            texts = {status_file(self._run_dir, self._process): status.to_json()}
            if self._process == 0:
                texts[self._run_dir / GOODPUT_FILE] = to_text([*self._before, self._start])
            return texts

    def _follow_up(self) -> None:
        """Adds what a killed start logged after it wrote its account for the last time."""
        logged = last_logged(self._run_dir / "metrics.jsonl")
        if not self._before or self._before[-1].end != KILLED or logged is None:
            return
        step, when = logged
        # The clock is the file system's; what is much later is the writing of something else.
        if when - self._before[-1].ended <= 2 * INTERVAL:
            self._before[-1].went_on(step, min(when, time.time()))

    def _make_folder(self) -> None:
        folder = self._run_dir / FOLDER
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except PermissionError:
            raise
        except OSError as error:
            raise StorageError(
                f"the folder {folder} cannot be made ({error.strerror}): expected room and a "
                "folder that can be written to; mend that, or choose another --run_dir."
            ) from error

    def _clear(self) -> None:
        """Removes what killed starts left half written, and files of a job with more processes."""
        own = status_file(self._run_dir, self._process)
        left = list(own.parent.glob(f".{own.name}.*.tmp"))
        if self._process == 0:
            left += self._run_dir.glob(f".{GOODPUT_FILE}.*.tmp")
            for path in own.parent.glob("*process-*.json*"):
                number = path.name.partition("process-")[2].partition(".")[0]
                if number.isdecimal() and int(number) >= self._processes:
                    left.append(path)
        for path in left:
            with suppress(OSError):
                path.unlink(missing_ok=True)


def _began() -> float:
    """Returns when this process started, the first time; then, and where that is unknown, now."""
    began = None if _process_time_is_taken.is_set() else process_began()
    _process_time_is_taken.set()
    return time.time() if began is None else began
