"""RUN/goodput.json: what each start of a run spent its wall-clock time on, and the sums of that.

Times are seconds since 1970 (`began`, `ended`) or seconds. `seconds` of a start add up to
`ended - began`; those of the run, with 'stopped' between two starts, to `wall_seconds`.
"""

import dataclasses
import json
import math
import os
import time
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

FORMAT = "ptft_jax goodput"
FORMAT_VERSION = 1

ACTIVITIES = (
    "training",
    "data_wait",
    "starting",
    "restoring",
    "compiling",
    "evaluating",
    "saving",
)
_KINDS = ("training", "lost", *ACTIVITIES[1:])
_ENDS = {0: "finished", 75: "SIGTERM", 130: "Ctrl-C", 76: "peer lost", 70: "hung"}
KILLED = "killed"
_TAIL_BYTES = 1 << 16
# Of how many checkpoints the seconds of training are kept: of this start, and of earlier ones. The
# newest, from which runs are resumed, are all among them.
_MOST_SAVES, _MOST_SAVES_BEFORE, _NEWEST_SAVES = 256, 32, 8


def end_of(code: int) -> str:
    """Returns an exit code in words; 'error' for all that are not a kind of their own."""
    return _ENDS.get(code, "error")


@dataclasses.dataclass
class Start:
    """One start of a run.

    Attributes:
        began, ended: its ends; `ended` is the time of writing while it runs.
        seconds: by kind; 'lost' is training whose steps a later start has made again.
        first_step, last_step: it went on from the one and came to the other; None before that.
        until: the step that the run was to end at; None where that was not said.
        kept_step: the last of its steps that no later start has made again.
        saved_step: the last step of which it made a checkpoint.
        saves: the checkpoints' steps, each with the seconds of training that led to it.
        end: how it ended, None while it runs; `KILLED` for one that could not say.
        code: its exit code, None while it runs and for a killed one.
        processes: how many there were.
        hosts: where they ran, each host once.
    """

    began: float
    ended: float
    seconds: dict[str, float] = dataclasses.field(
        default_factory=lambda: dict.fromkeys(_KINDS, 0.0)
    )
    first_step: int | None = None
    last_step: int | None = None
    until: int | None = None
    kept_step: int | None = None
    saved_step: int | None = None
    saves: list[tuple[int, float]] = dataclasses.field(default_factory=list)
    end: str | None = None
    code: int | None = None
    processes: int = 1
    hosts: list[str] = dataclasses.field(default_factory=list)

    def begin_at(self, step: int, until: int | None) -> None:
        """Goes on from `step`."""
        self.first_step = self.last_step = self.kept_step = step
        self.until = until

    def reached(self, step: int) -> None:
        """Has come to `step` at least."""
        if self.first_step is not None and step > (self.last_step or 0):
            self.last_step = self.kept_step = step

    def went_on(self, step: int, ended: float) -> None:
        """Has come to a later step and moment than it said before it was killed, by training."""
        if self.first_step is not None and step > (self.last_step or 0) and ended > self.ended:
            self.seconds["training"] += ended - self.ended
            self.ended = ended
            self.reached(step)

    def save(self, step: int, points: Mapping[int, float]) -> None:
        """Has a checkpoint of `step`; `points` are seconds of training until some steps."""
        if self.first_step is None or step < self.first_step:
            return
        self.reached(step)
        seconds = self._trained_until(step, points)
        self.saves = [held for held in self.saves if held[0] < step] + [(step, seconds)]
        self.forget(_MOST_SAVES)
        self.saved_step = step

    def forget(self, most: int) -> None:
        """Forgets some older `saves`, until `most` are left; what led to those is interpolated."""
        while len(self.saves) > most:
            self.saves = [*self.saves[:-_NEWEST_SAVES:2], *self.saves[-_NEWEST_SAVES:]]

    def lose_after(self, step: int) -> None:
        """Moves the training beyond `step` to 'lost': a later start makes those steps again."""
        if self.first_step is None or self.kept_step is None or self.kept_step <= step:
            return
        kept = max(step, self.first_step)
        seconds = self._trained_until(kept, {})
        self.seconds["lost"] += self.seconds["training"] - seconds
        self.seconds["training"] = seconds
        self.saves = [held for held in self.saves if held[0] <= kept]
        self.kept_step = kept

    @property
    def lost_steps(self) -> int:
        """How many of its updates were made again."""
        return (self.last_step or 0) - (self.kept_step or 0)

    def _trained_until(self, step: int, points: Mapping[int, float]) -> float:
        """Returns the seconds of training until `step`: known, or interpolated between known."""
        assert self.first_step is not None
        assert self.kept_step is not None
        known = dict(points) | dict(self.saves) | {self.first_step: 0.0}
        known.setdefault(self.kept_step, self.seconds["training"])
        steps = sorted(at for at in known if self.first_step <= at <= self.kept_step)
        after = min(bisect_left(steps, step), len(steps) - 1)
        high = steps[after]
        low = steps[max(after - 1, 0)]
        share = (step - low) / (high - low) if high > low else 1.0
        seconds = known[low] + min(share, 1.0) * (known[high] - known[low])
        return min(max(seconds, 0.0), self.seconds["training"])


def to_text(starts: Sequence[Start]) -> str:
    """Returns the file's content: the sums over all starts, then each of them."""
    gaps = (later.began - earlier.ended for earlier, later in pairwise(starts))
    stopped = sum((max(0.0, gap) for gap in gaps), start=0.0)
    wall = sum(start.ended - start.began for start in starts) + stopped
    seconds = {kind: sum(start.seconds[kind] for start in starts) for kind in _KINDS}
    steps = [start.kept_step for start in starts if start.kept_step is not None]
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "wall_seconds": wall,
        "seconds": {**seconds, "stopped": stopped},
        "goodput": seconds["training"] / wall if wall > 0 else 0.0,
        "restarts": len(starts) - 1,
        "lost_steps": sum(start.lost_steps for start in starts),
        "steps": steps[-1] if steps else 0,
    }
    # A start is a line, so that the file is one that can be looked at.
    lines = ",\n    ".join(json.dumps(_rounded(dataclasses.asdict(start))) for start in starts)
    head = json.dumps(_rounded(content), indent=2).removesuffix("\n}")
    return f'{head},\n  "starts": [\n    {lines}\n  ]\n}}\n'


def read_goodput(path: Path) -> dict[str, Any] | None:
    """Returns the content of goodput.json with `starts` as `Start`s; None where there is none.

    Raises ValueError when it cannot be used, OSError when it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    try:
        content = json.loads(text)
        if (content["format"], content["format_version"]) != (FORMAT, FORMAT_VERSION):
            raise ValueError(f"expected {FORMAT!r}, version {FORMAT_VERSION}")
        content["starts"] = [_start(values) for values in content["starts"]]
        if not content["starts"]:
            raise ValueError("expected a start at least")
        numbers = (content[name] for name in ("wall_seconds", "goodput", "restarts", "lost_steps"))
        for value in (*numbers, *(content["seconds"][kind] for kind in (*_KINDS, "stopped"))):
            _check_number(value)
        return content
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def read_starts(path: Path) -> tuple[list[Start], str | None]:
    """Returns the starts before this one, and what to tell of them.

    A start that has not said how it ended was killed after it wrote last. A file that cannot be
    used is kept under another name, and the account begins anew.
    """
    try:
        content = read_goodput(path)
    except (ValueError, OSError) as error:
        aside = path.with_name(f"goodput.damaged-{time.time_ns()}.json")
        with suppress(OSError):
            path.rename(aside)
        return [], (
            f"{path} cannot be read ({error}): it is kept as {aside.name}, and the account of the "
            "run's time begins anew; the run itself is not touched by this"
        )
    starts = [] if content is None else content["starts"]
    for start in starts:
        start.end = start.end or KILLED
        start.forget(_MOST_SAVES_BEFORE)
    return starts, None


def last_logged(path: Path) -> tuple[int, float] | None:
    """Returns the last training step in metrics.jsonl, and when the file was last written to.

    None without such a step; a line that was cut off by a kill does not count.
    """
    try:
        with path.open("rb") as file:
            modified = os.fstat(file.fileno()).st_mtime
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            lines = file.read().split(b"\n")
    except OSError:
        return None
    for line in reversed(lines):
        with suppress(ValueError, KeyError, TypeError):
            entry = json.loads(line)
            if isinstance(entry["step"], int) and "split" not in entry:
                return entry["step"], modified
    return None


def _start(values: Mapping[str, Any]) -> Start:
    start = Start(**values)
    start.saves = [(int(step), float(seconds)) for step, seconds in start.saves]
    for name in ("first_step", "last_step", "until", "kept_step", "saved_step", "code"):
        value = getattr(start, name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise TypeError(f"{name}={value!r}")
    if set(start.seconds) != set(_KINDS):
        raise ValueError(f"seconds of {', '.join(start.seconds)}")
    for value in (start.began, start.ended, start.processes, *start.seconds.values()):
        _check_number(value)
    if start.ended < start.began:
        raise ValueError(f"ended {start.ended} before it began, {start.began}")
    # They are shown on a terminal, which obeys what is not printable.
    for text in (*start.hosts, start.end or ""):
        if not isinstance(text, str) or not text.isprintable():
            raise TypeError(f"{text!r} is no name")
    return start


def _check_number(value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError(f"{value!r} is no number")


def _rounded(value: Any) -> Any:
    """Rounds to microseconds: what is beyond that is noise."""
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value
