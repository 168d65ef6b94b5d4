"""Finishes and retains checkpoints again and again, each time killed at another moment.

    python killed_retention.py FOLDER

A program of its own: it forks, which a process with the threads of JAX must not. In each trial a
process completes the checkpoint 40 beside 10 (the best), 20 and 30 and applies retention (the last
one and the best), and is killed before one of its requests to the file system; then another process
looks at what is there, goes on, and completes 50. Every moment is tried once. Prints one JSON
object: how many moments there are, and what was lost ([] is right).
"""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from lasting_calls import count_calls

from ptft_jax.training.checkpoints import retention
from ptft_jax.training.checkpoints.manifest import verify

# A killed process loses nothing that it has written, so the disk need not be waited for here.
os.fsync = lambda descriptor: None
CALLS = ("fsync", "rename", "replace", "unlink", "rmdir")
BEST = ("dev_loss", "min")
LOSSES = {10: 1.0, 20: 3.0, 30: 2.0, 40: 2.5, 50: 2.5}


def write_files(folder: Path, step: int) -> Path:
    """Writes what Orbax would have written of a step, and returns its folder."""
    saving = folder / f"{step}.saving"
    for name in ("params/d/one", "params/manifest.ocdbt", "opt_state/d/two", "meta/metadata"):
        path = saving / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"{step} {name}".encode() * 50)
    return saving


def finish(folder: Path, step: int) -> None:
    """What a run does when all files of a step have been written."""
    metrics = {"dev_loss": LOSSES[step]}
    retention.finish(folder / f"{step}.saving", step, metrics, False, last=1, best=BEST)


def in_child(work: Callable[[], None]) -> int:
    """Works in a forked process; its exit status. This one must not start threads of its own."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    try:
        work()
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        os._exit(1)
    os._exit(0)


def killed_finish(folder: Path, kill_at: int, counts: Path) -> None:
    """Completes 40, killed before call `kill_at`; for 0 writes down how many calls there are."""
    made = 0

    def at(call: int) -> None:
        nonlocal made
        made = call
        if call == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    count_calls(CALLS, at)
    finish(folder, 40)
    counts.write_text(str(made))


def lost(folder: Path) -> list[str]:
    """Says what a killed process has cost: the best and the last must be whole, and no half one."""
    steps = list(retention.complete(folder))
    problems = [f"step {step} counts and is damaged" for step in steps if not whole(folder, step)]
    if 40 in steps:
        problems += ["the best is gone"] * (10 not in steps)
    elif steps != [10, 20, 30]:
        problems.append(f"40 is not complete, and of the earlier ones there are {steps}")
    return problems


def whole(folder: Path, step: int) -> bool:
    try:
        return verify(folder / str(step)).step == step
    except Exception:
        return False


def prepare(folder: Path) -> None:
    """Makes the checkpoints 10, 20 and 30, and the files of 40."""
    for step in (10, 20, 30):
        saving = write_files(folder, step)
        retention.finish(saving, step, {"dev_loss": LOSSES[step]}, False, last=3, best=BEST)
    write_files(folder, 40)


def look_and_go_on(folder: Path, findings: Path) -> None:
    """Writes down what was lost, then does what the next run does, and looks again."""
    problems = lost(folder)
    retention.clear(folder)
    problems += [f"{path.name} is left" for path in retention.leftovers(folder)]
    write_files(folder, 50)
    finish(folder, 50)
    if list(retention.complete(folder)) != [10, 50] or retention.aside(folder):
        problems.append(f"after going on there are {sorted(os.listdir(folder))}")
    findings.write_text(json.dumps(problems))


def trial(place: Path, kill_at: int) -> tuple[int, list[str]]:
    """Kills one process and lets another go on; the first one's exit status and what was lost."""
    folder, findings = place / "checkpoints", place / "findings"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    assert in_child(lambda: prepare(folder)) == 0
    status = in_child(lambda: killed_finish(folder, kill_at, place / "calls"))
    assert in_child(lambda: look_and_go_on(folder, findings)) == 0
    return status, json.loads(findings.read_text())


def main() -> None:
    place = Path(sys.argv[1])
    status, problems = trial(place, 0)
    assert status == 0, problems
    moments = int((place / "calls").read_text())
    for moment in range(1, 1 + moments):
        status, found = trial(place, moment)
        problems += [f"killed before call {moment}: {problem}" for problem in found]
        if not os.WIFSIGNALED(status):
            problems.append(f"killed before call {moment}: it ended with {status}")
    print(json.dumps({"moments": moments, "lost": problems}))


if __name__ == "__main__":
    main()
