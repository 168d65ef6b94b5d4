"""RUN/status: one small JSON file per process, that says what it does and when it last said so.

`ptft status` reads them from any machine that sees the folder, while they are being replaced. They
hold names, numbers and times, nothing of the environment.
"""

import dataclasses
import json
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = "status"


@dataclasses.dataclass(frozen=True)
class ProcessStatus:
    """What one process of a job says of itself. Times are seconds since 1970, of its own clock.

    Attributes:
        process, processes: which process this is, of how many.
        host, pid: where it runs.
        machine: boot and pid namespace of the host, which tell whether `pid` means anything to the
            reader; None where the system does not say.
        pid_ticks: when the process started, in clock ticks since that boot (proc(5), starttime): a
            later process may get the same `pid`. None where the system does not say.
        began: when this start of the run began.
        time: when this was written.
        interval: seconds after which it is written again at the latest.
        first_step, step: the updates made before this start and until now; None before the run has
            been read or made.
        activity: what it does (`ptft_jax.training.goodput.ACTIVITIES`).
        since: since when it does that.
        training, data_wait: seconds of this start that trained, and in which the devices waited for
            the batches of this process.
        code: exit code, None while it runs.
    """

    process: int
    processes: int
    host: str
    pid: int
    machine: str | None
    pid_ticks: int | None
    began: float
    time: float
    interval: float
    first_step: int | None
    step: int | None
    activity: str
    since: float
    training: float
    data_wait: float
    code: int | None

    def to_json(self) -> str:
        """Returns the content of the file."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"


def status_file(run_dir: Path, process: int) -> Path:
    """Returns the path of a process's file."""
    return run_dir / FOLDER / f"process-{process:05d}.json"


class Heard(NamedTuple):
    """What a process has said of itself, and when by the clock of the file system."""

    status: ProcessStatus
    modified: float


def read_status_files(run_dir: Path) -> tuple[list[Heard], list[Path]]:
    """Returns what the processes have said, in their order, and the files that cannot be read.

    A file that goes away meanwhile (a job with fewer processes is starting) is neither.
    """
    found, unreadable = [], []
    for path in sorted((run_dir / FOLDER).glob("process-*.json")):
        try:
            with path.open(encoding="utf-8") as file:
                modified = os.fstat(file.fileno()).st_mtime
                found.append(Heard(_checked(json.load(file)), modified))
        except FileNotFoundError:
            continue
        except (OSError, ValueError, TypeError):
            unreadable.append(path)
    return sorted(found, key=lambda heard: heard.status.process), unreadable


def _checked(content: Any) -> ProcessStatus:
    status = ProcessStatus(**content)
    numbers = ("process", "processes", "pid", "began", "time", "interval", "since", "training")
    for name in (*numbers, "data_wait"):
        value = getattr(status, name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"{name}={value!r} is no number")
    for name in ("pid_ticks", "first_step", "step", "code"):
        value = getattr(status, name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise TypeError(f"{name}={value!r} is no whole number")
    for name in ("host", "activity"):
        value = getattr(status, name)
        # They are shown on a terminal, which obeys what is not printable.
        if not isinstance(value, str) or not value.isprintable():
            raise TypeError(f"{name}={value!r} is no name")
    return status


def machine() -> str | None:
    """Returns what tells this boot of this machine, and this pid namespace, from all others."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def process_ticks(pid: int | None = None) -> int | None:
    """Returns when a process (None: this one) started, in clock ticks since the boot.

    None where no such process runs, and where the system does not say, as anywhere but on Linux.
    """
    try:
        stat = Path(f"/proc/{'self' if pid is None else pid}/stat").read_text(encoding="utf-8")
        # The second field is the program's name in brackets, and may hold anything.
        fields = stat.rpartition(")")[2].split()
        if fields[0] in "ZX":  # it has ended, and its parent has not taken notice yet
            return None
        return int(fields[19])
    except (OSError, ValueError, IndexError):
        return None


def process_began() -> float | None:
    """Returns when this process started, in seconds since 1970; None where that is not known."""
    ticks = process_ticks()
    if ticks is None:
        return None
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.time() - max(0.0, age)
