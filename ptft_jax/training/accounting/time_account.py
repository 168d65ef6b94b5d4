"""Where the wall-clock time of a run went, over all its starts, from RUN/events.jsonl.

The first process of a job appends a line to that file whenever it turns to something else, so that
the time between two lines belongs to what the earlier one says (`heartbeat`).
A start that was killed has no end; the next one adds what its last heartbeat said.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

from ptft_jax.training.accounting.heartbeat import ACTIVITIES, EVENTS_FILE, Beat

_KINDS = ("training", "lost", "data_wait", *ACTIVITIES[1:])
_ENDS = {0: "finished", 75: "SIGTERM", 129: "SIGHUP", 130: "Ctrl-C", 76: "peer lost", 70: "hung"}


def end_of(code: int | None) -> str:
    """Returns an exit code in words, 'SIGTERM (75)'; None is that of a start that was killed."""
    return "killed" if code is None else f"{_ENDS.get(code, 'error')} ({code})"


def read_events(run_dir: Path) -> list[Beat]:
    """Returns the events of a run, [] without any; lines that are no events are left out."""
    path = run_dir / EVENTS_FILE
    lines = path.read_text("utf-8", errors="replace").splitlines() if path.is_file() else []
    return [beat for line in lines if (beat := Beat.parse(line)) is not None]


@dataclass
class Start:
    """One start of a run, and what its time went into.

    Attributes:
        began, ended: in seconds since 1970; `ended` of one that runs is its last beat.
        last: the last beat; without a code it runs, or was killed.
        seconds: by activity, `ended - began` in all; 'data_wait' is taken out of them, and 'lost'
            out of 'training': a later start has made those steps again.
        points: steps, ascending, each with the seconds of training until then; from the one that
            it went on from to the last that no later start has made again.
        last_step: the last step it made, None before the run has been read or made.
    """

    began: float
    ended: float
    last: Beat
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_KINDS, 0.0))
    points: list[tuple[int, float]] = field(default_factory=list)
    last_step: int | None = None

    def take(self, beat: Beat) -> None:
        """Counts the time until a beat."""
        # The clock of another host may be behind: what is counted is not counted again.
        now = max(beat.time, self.ended)
        waited = min(max(beat.waited - self.last.waited, 0.0), now - self.ended)
        self.seconds[self.last.activity] += now - self.ended - waited
        self.seconds["data_wait"] += waited
        self.ended, self.last = now, beat
        if beat.step is not None and (self.last_step is None or beat.step > self.last_step):
            self.points.append((beat.step, self.seconds["training"]))
            self.last_step = beat.step

    def lose_after(self, step: int) -> None:
        """Moves the training beyond `step` to 'lost': a later start makes those steps again."""
        if not self.points or step >= self.points[-1][0]:
            return
        kept = max(step, self.points[0][0])
        steps, seconds = zip(*self.points, strict=True)
        trained = float(np.interp(kept, steps, seconds))
        self.seconds["lost"] += self.seconds["training"] - trained
        self.seconds["training"] = trained
        self.points = [point for point in self.points if point[0] < kept] + [(kept, trained)]

    @property
    def lost_steps(self) -> int:
        """How many of its updates were made again."""
        return self.last_step - self.points[-1][0] if self.last_step is not None else 0

    @property
    def steps_per_second(self) -> float:
        """Its pace, with evaluations and saving but without what is done once; 0 if not known."""
        once = sum(self.seconds[name] for name in ("starting", "restoring", "compiling"))
        took = self.ended - self.began - once
        return (self.last_step - self.points[0][0]) / took if self.last_step and took > 0 else 0.0


def account(events: Iterable[Beat]) -> list[Start]:
    """Returns the starts of a run, after what each of them has lost to a later one."""
    starts: list[Start] = []
    for beat in events:
        if not starts or beat.start != starts[-1].last.start:
            began = max(beat.start, starts[-1].ended) if starts else beat.start
            starts.append(Start(began, began, beat))
        if len(starts) > 1 and starts[-1].last_step is None and beat.step is not None:
            for before in starts[:-1]:
                before.lose_after(beat.step)
        # A heartbeat may be older than the end.
        if starts[-1].last.code is None or starts[-1].last is beat:
            starts[-1].take(beat)
    return starts


def totals(starts: list[Start]) -> dict[str, float]:
    """Returns the whole time of all starts by kind, in seconds, with 'down' between two of them."""
    seconds = {kind: sum(start.seconds[kind] for start in starts) for kind in _KINDS}
    gaps = (later.began - earlier.ended for earlier, later in pairwise(starts))
    return {**seconds, "down": sum(gaps, start=0.0)}
