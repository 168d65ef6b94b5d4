"""Whether processes that a test has started, or that those have started, are still there."""

import time
from collections.abc import Sequence
from pathlib import Path


def alive(pid: int) -> bool:
    """Says whether a process runs; a dead one that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def gone(pids: Sequence[int], seconds: float = 5) -> bool:
    """Waits for the ends of processes; says whether all have come."""
    until = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < until:
        time.sleep(0.02)
    return not any(map(alive, pids))
