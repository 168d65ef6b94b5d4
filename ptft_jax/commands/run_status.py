"""What can be told of a run from its folder: which processes live, how far it is, what it has."""

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from ptft_jax.training.goodput_file import Start, end_of
from ptft_jax.training.status_files import Heard, ProcessStatus, machine, process_ticks

# A process is silent when it has not been heard of for two of its intervals and as long as a busy
# disk may take.
_INTERVALS, _DISK_SECONDS = 2, 30.0
# Clocks of hosts differ by seconds without any harm.
_CLOCK_SECONDS = 10.0
_TAIL_BYTES = 1 << 18

# What a process is, and what a job is.
RUNNING, ENDED, SILENT, GONE, ABSENT = "running", "ended", "silent", "gone", "not heard of"
DEGRADED, DEAD, UNKNOWN = "degraded", "dead", "unknown"
# Which exit code tells most of why a job ended: those of the processes that were the reason come
# before those that followed them.
_TELLING = (70, 74, 65, 2, 1, 76, 130, 75, 0)


@dataclass(frozen=True)
class Process:
    """One process of a job as it looks from here.

    Attributes:
        number: which process.
        state: RUNNING, ENDED, SILENT (not heard of for too long), GONE (there is no such process on
            this machine any more) or ABSENT (it has written nothing in this start).
        status: what it said last; None where ABSENT.
        age: seconds since then, 0 where ABSENT.
        clock: by how many seconds its clock seems to differ from the one here; 0 where that is
            nothing to speak of.
    """

    number: int
    state: str
    status: ProcessStatus | None = None
    age: float = 0.0
    clock: float = 0.0


def judge(heard: Sequence[Heard], now: float | None = None) -> list[Process]:
    """Returns all processes of the job that the files are of, [] without files.

    Clocks of hosts differ: a process counts as heard of when either its own clock or that of the
    file system says so. `now` None is this very moment.
    """
    if not heard:
        return []
    now = time.time() if now is None else now
    here = machine()
    first = heard[0].status
    count = first.processes if first.process == 0 else max(one.status.processes for one in heard)
    found = {}
    for one in heard:
        status = one.status
        by_own_clock, by_files = now - status.time, now - one.modified
        age = max(0.0, min(by_own_clock, by_files))
        limit = _INTERVALS * status.interval + _DISK_SECONDS
        clock = 0.0
        if by_own_clock < -_CLOCK_SECONDS or by_own_clock > limit >= by_files:
            clock = by_files - by_own_clock
        if one is not heard[0] and status.time < first.began - limit:
            continue  # of an earlier start
        state = RUNNING if age <= limit else SILENT
        if status.code is not None:
            state = ENDED
        elif here == status.machine is not None and process_ticks(status.pid) != status.pid_ticks:
            state = GONE
        found[status.process] = Process(status.process, state, status, age, clock)
    return [found.get(number) or Process(number, ABSENT) for number in range(count)]


def slowest(processes: Sequence[Process]) -> int | None:
    """Returns the process that the others wait for, None where none stands out.

    It is behind by more than a step (at the speed it has, and the age of what it says, allowed
    for), or its batches come later than those of the others.
    """
    living = [one.status for one in processes if one.state in (RUNNING, SILENT) and one.status]
    if len(living) < 2:
        return None
    steps = {status.process: _step_now(status, max(s.time for s in living)) for status in living}
    behind = min(steps, key=lambda process: steps[process])
    if median(steps.values()) - steps[behind] > 1.5:
        return behind
    waits = {status.process: status.data_wait for status in living}
    late = max(waits, key=lambda process: waits[process])
    took = next(s.time - s.began for s in living if s.process == late)
    others = median(wait for process, wait in waits.items() if process != late)
    return late if waits[late] > max(0.05 * took, 1.5 * others) else None


def _step_now(status: ProcessStatus, now: float) -> float:
    """Returns the step that a process should have come to at `now`, going on as until then."""
    step, first = status.step or 0, status.first_step or 0
    if status.activity != "training" or status.training <= 0:
        return step
    return step + (step - first) / status.training * min(now - status.time, 2 * status.interval)


@dataclass(frozen=True)
class State:
    """What a job does.

    Attributes:
        kind: RUNNING; DEGRADED, it runs but some processes are lost; DEAD, all that have not ended
            are lost; ENDED; UNKNOWN, there are no files.
        words: the same for a person.
        code: of a job that has ended: the exit code, of those of its processes, that tells most.
    """

    kind: str
    words: str
    code: int | None = None


def state_of(processes: Sequence[Process]) -> State:
    """Returns what the processes do together."""
    states = Counter(one.state for one in processes)
    lost = states[SILENT] + states[GONE]
    if states[RUNNING]:
        if lost:
            return State(DEGRADED, f"running, but {_lost(processes)}")
        return State(RUNNING, "running")
    if lost:
        return State(DEAD, f"dead: {_lost(processes)}")
    codes = [one.status.code for one in processes if one.status is not None]
    code = next((code for code in _TELLING if code in codes), codes[0] if codes else None)
    if code is None:
        return State(UNKNOWN, "not known")
    words = {"finished": "finished", "SIGTERM": "stopped by SIGTERM", "Ctrl-C": "stopped by Ctrl-C"}
    end = end_of(code)
    return State(ENDED, words.get(end, f"ended with exit code {code} ({end})"), code)


def _lost(processes: Sequence[Process]) -> str:
    lost = [one for one in processes if one.state in (SILENT, GONE)]
    if len(processes) == 1:
        return {GONE: "its process is gone", SILENT: "nothing is heard of it"}[lost[0].state]
    which = ", ".join(str(one.number) for one in lost[:5]) + (", …" if len(lost) > 5 else "")
    return f"{len(lost)} of {len(processes)} processes are gone or silent ({which})"


@dataclass(frozen=True)
class Logged:
    """The ends of metrics.jsonl.

    Attributes:
        training: the last logged step, {} before the first.
        evaluations: the last evaluation of each split.
    """

    training: dict[str, Any]
    evaluations: dict[str, dict[str, Any]]


def read_metrics(path: Path) -> Logged:
    """Returns what was logged last; a line that is being written is left out."""
    training: dict[str, Any] = {}
    evaluations: dict[str, dict[str, Any]] = {}
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return Logged(training, evaluations)
    for line in lines:
        try:
            entry = json.loads(line)
            if isinstance(entry["step"], int):
                if "split" in entry:
                    evaluations[str(entry["split"])] = entry
                else:
                    training = entry
        except (ValueError, KeyError, TypeError):
            continue  # the first one is cut off, the last one may be
    return Logged(training, evaluations)


def seconds_left(start: Start, until: int | None) -> float | None:
    """Returns how long a start has to go, at its pace so far; None where that is not known.

    Its pace has evaluations and saving in it, but not what is done once.
    """
    if until is None or start.first_step is None or start.last_step is None:
        return None
    once = ("starting", "restoring", "compiling")
    took = start.ended - start.began - sum(start.seconds[name] for name in once)
    made = start.last_step - start.first_step
    return took / made * (until - start.last_step) if made > 0 and took > 0 else None
