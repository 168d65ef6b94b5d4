"""Scenarios 3 to 5: how jobs end, and what they have saved."""

import contextlib
import random
import signal
import time
from pathlib import Path
from typing import Any

from faults.jobs import Job, Result, flags_of, last_step, losses, numbers, whole_steps

SECONDS_TO_STOP = 10.0


def half_saved(run_dir: Path) -> set[tuple[str, int]]:
    """Returns what there is of checkpoints that are not complete, each told from its namesakes."""
    found = set()
    for path in (run_dir / "checkpoints").glob("*.saving*"):
        with contextlib.suppress(FileNotFoundError):
            found.add((path.name, path.stat().st_ctime_ns))
    return found


def kills(place: Path, count: int, processes: int, seed: int = 0) -> Result:
    """A run is killed `count` times, mostly while it saves, and is as if nothing had been.

    SIGKILL to all its processes at once, as when hosts lose power.
    """
    result = Result(f"SIGKILL, {processes} process{'es' * (processes > 1)}")
    rng = random.Random(seed)
    steps = 20 + 15 * count  # each kill comes at most 15 steps after the checkpoint before it
    settings: dict[str, Any] = {
        "steps": steps,
        "schedule.name": "linear",
        "checkpoint_every": 3,
        "eval_every": 6,
        "keep_last": 2,
    }
    whole = place / f"kills-whole-{processes}"
    Job(place, flags_of(place, whole, **settings), processes, 2 // processes).succeed()
    wanted, folder = losses(whole), place / f"kills-{processes}"
    flags = flags_of(place, folder, **settings)
    saving = 0
    for number in range(count):
        left, begins = half_saved(folder), max(whole_steps(folder), default=0)
        job = Job(place, flags, processes, 2 // processes)
        # Until then metrics.jsonl is that of the start before.
        job.wait_until(lambda: "first step" in job.said(), "the first step")  # noqa: B023
        target = begins + rng.randint(1, 12)
        job.wait_until(lambda: last_step(folder) >= target, f"step {target}")  # noqa: B023
        if rng.random() < 0.85:
            job.wait_until(lambda: bool(half_saved(folder) - left), "a save", 60)  # noqa: B023
        time.sleep(rng.uniform(0, 0.03))
        before = whole_steps(folder)
        job.kill()
        made = losses(folder)
        same = made.items() <= wanted.items()
        result.expect(same, f"kill {number}: not the losses of a run that was never killed")
        result.tries += 1
        saving += bool(half_saved(folder) - left)
        after = whole_steps(folder)
        result.expect(
            not before or max(after, default=0) >= max(before),
            f"kill {number}: last checkpoint {max(before, default=0)} lost, there are {after}",
        )
        best = min((loss for loss in before.values() if loss is not None), default=None)
        if best is not None:
            kept = any(loss is not None and loss <= best for loss in after.values())
            result.expect(kept, f"kill {number}: the best of {before} is lost, there are {after}")
    Job(place, flags, processes, 2 // processes).succeed()
    result.expect(numbers(folder) == numbers(whole), "the numbers logged are not those of one run")
    result.figures["during a save"] = f"{saving} of {count}"
    # Of both scenarios together it is to be 70 %; with one process nearly all are.
    result.expect(count < 10 or saving >= 0.5 * count, f"only {saving} kills during a save")
    result.figures["steps compared"] = str(len(losses(folder)))
    return result


# Where SIGTERM may find a process, and how the harness makes that stage long enough to hit.
STAGES: dict[str, dict[str, Any]] = {
    "data": {"slow": {"data": 4.0}},
    "compile": {"slow": {"compile": 5.0}},
    "evaluation": {"slow": {"evaluation": 0.4}},
    "training": {},
    "saving": {},
}


def stops(place: Path, stages: list[str], seed: int = 0) -> Result:
    """SIGTERM to one of two processes: both save the same step, end with 75, and go on later."""
    result = Result("SIGTERM to one of two processes")
    rng = random.Random(seed)
    steps = 50 + 50 * len(stages)
    settings: dict[str, Any] = {"steps": steps, "checkpoint_every": 20, "eval_every": 20}
    whole = place / "stops-whole"
    Job(place, flags_of(place, whole, **settings), 2).succeed()
    folder = place / "stops"
    flags = flags_of(place, folder, **settings)
    slowest: dict[str, float] = {}
    for number, stage in enumerate(stages):
        marks = [place / f"marks-{number}-{index}" for index in range(2)]
        plans = [{"marks": str(path), **STAGES[stage]} for path in marks]
        victim = rng.randrange(2)
        before = max(whole_steps(folder), default=0)
        job = Job(place, flags, 2, plans=plans)
        path = marks[victim]
        if stage in ("data", "compile", "evaluation"):
            job.wait_until(lambda: path.exists() and stage in path.read_text(), stage)  # noqa: B023
        else:
            target = before + rng.randint(2, 9)
            job.wait_until(lambda: last_step(folder) >= target, f"step {target}")  # noqa: B023
        if stage == "saving":
            job.wait_until(lambda: bool(half_saved(folder)), "a save", 60)
        time.sleep(rng.uniform(0, 0.5))
        job.send(signal.SIGTERM, victim)
        codes, times = job.ends()
        job.kill()
        result.tries += 1
        what = f"{number} ({stage})"
        took = max(times.values(), default=99.0)
        slowest[stage] = max(slowest.get(stage, 0.0), took)
        result.expect(codes == {0: 75, 1: 75}, f"{what}: codes {codes}\n{job.everything()}")
        result.expect(took <= SECONDS_TO_STOP, f"{what}: took {took:.1f} s")
        said, saved = job.said(0), max(whole_steps(folder), default=0)
        if "nothing to save" in said:
            result.expect(saved == before, f"{what}: {before} became {saved}")
        else:
            result.expect(f"saved step {saved} of" in said, f"{what}: {saved}, {said[-300:]}")
            result.expect(saved > before, f"{what}: nothing was saved after step {before}")
            logged = last_step(folder)
            result.expect(logged == saved, f"{what}: logged up to {logged}, saved {saved}")
        ended = f"by SIGTERM at process {victim}"
        result.expect(ended in said, f"{what}: does not say who: {said[-300:]}")
    Job(place, flags, 2).succeed()
    result.expect(numbers(folder) == numbers(whole), "the numbers logged are not those of one run")
    for stage, took in slowest.items():
        result.figures[f"slowest, {stage}"] = f"{took:.1f} s"
    return result


# What happens to which of two processes, how many seconds the other one has to end, and its words.
_LOSSES: dict[str, tuple[int, signal.Signals, float, str]] = {
    "worker killed": (1, signal.SIGKILL, 9, "process 1 on host"),
    "coordinator killed": (0, signal.SIGKILL, 2, "process 0 (the coordinator)"),
    "worker frozen": (1, signal.SIGSTOP, 9, "silent for"),
    "coordinator frozen": (0, signal.SIGSTOP, 9, "silent for"),
}
LOSSES = tuple(_LOSSES)


def peers(place: Path, losses: tuple[str, ...]) -> Result:
    """A process that dies or freezes is named by the others, which end with 76 in time."""
    result = Result("a process dies or freezes")
    heartbeat = 6  # and three seconds
    worst: dict[str, float] = {}

    for what in losses:
        victim, number, limit, named = _LOSSES[what]
        result.tries += 1
        folder = place / f"peers-{result.tries}"
        flags = flags_of(place, folder, steps=100_000, eval_every=0, checkpoint_every=5)
        job = Job(place, flags, 2, more=[f"--heartbeat_seconds={heartbeat}"])
        saved = folder / "checkpoints" / "5" / "manifest.json"
        job.wait_until(saved.exists, "a checkpoint")
        job.send(number, victim)
        other = 1 - victim
        began = time.monotonic()
        while job.processes[other].poll() is None and time.monotonic() < began + 60:
            time.sleep(0.005)
        took, code = time.monotonic() - began, job.processes[other].poll()
        job.kill()
        worst[what] = max(worst.get(what, 0.0), took)
        result.expect(code == 76, f"{what}: code {code}\n{job.everything()}")
        result.expect(took <= limit, f"{what}: took {took:.1f} s")
        result.expect(named in job.said(other), f"{what}: {job.said(other)[-500:]}")
        result.expect(bool(whole_steps(folder)), f"{what}: no whole checkpoint is left")

    for what, took in worst.items():
        result.figures[what] = f"noticed after {took:.2f} s"
    result.figures["heartbeat"] = f"{heartbeat} s"
    return result


def watchdog(place: Path, repeat: int) -> Result:
    """A job that hangs shows its stacks and ends with 70; a slow compilation is no hang."""
    result = Result("the watchdog")
    limit, worst = 5, 0.0
    for number in range(repeat):
        result.tries += 1
        folder = place / f"watchdog-{number}"
        flags = flags_of(place, folder, steps=100_000, eval_every=0, checkpoint_every=0)
        more = [f"--watchdog_seconds={limit}", "--heartbeat_seconds=100"]
        job = Job(place, flags, 2, more=more)
        job.wait_until(lambda: last_step(folder) > 5, "training")  # noqa: B023
        victim = number % 2
        job.send(signal.SIGSTOP, victim)
        began = time.monotonic()
        while job.processes[1 - victim].poll() is None and time.monotonic() < began + 60:
            time.sleep(0.01)
        took, code = time.monotonic() - began, job.processes[1 - victim].poll()
        job.kill()
        worst, said = max(worst, took), job.said(1 - victim)
        result.expect(code == 70, f"frozen peer {victim}: code {code}\n{job.everything()}")
        # The first process waits a second for the others to end.
        result.expect(took <= limit + 3, f"frozen peer {victim}: took {took:.1f} s")
        for part in ("Current thread", "in fit", "no progress for"):
            result.expect(part in said, f"the stacks lack {part!r}: {said[-2000:]}")
        stacks = folder / "status" / f"stacks-{1 - victim:05d}.txt"
        result.expect(stacks.exists() and "fit" in stacks.read_text(), "no stacks in the folder")
    result.tries += 1
    folder = place / "watchdog-slow"
    flags = flags_of(place, folder, steps=6, eval_every=3, checkpoint_every=3)
    plans = {"slow": {"compile": limit * 2.0}}
    job = Job(place, flags, plans=plans, more=[f"--watchdog_seconds={limit}"])
    codes = job.codes()
    result.expect(codes == [0], f"slow compilation: codes {codes}\n{job.everything()}")
    result.figures["limit"] = f"{limit} s"
    result.figures["ended after"] = f"{worst:.1f} s"
    result.figures["compilation without alarm"] = f"{limit * 2} s"
    return result
