"""Sides that take turns, so that what else the machine does meets all of them alike."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ptft_jax.data.progress import Progress, no_progress


def spread(values: Sequence[float]) -> dict[str, float]:
    """Returns the median of some rounds, with the lowest and the highest of them."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def times_as_fast(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """Returns how many times as fast ours are: seconds of theirs over ours, round by round."""
    return spread([their / our for our, their in zip(ours, theirs, strict=True)])


CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
"""What seconds are: of the wall, or those that the processor spends on this process."""


def repeated(
    call: Callable[[], Any],
    calls: int,
    wait: Callable[[Any], Any] = lambda made: made,
    clock: str = "wall",
) -> Callable[[], float]:
    """Returns what makes a round of so many calls after an untimed one: it returns their seconds.

    `wait` gets what calls have returned, and waits until it has been computed.
    """
    now = CLOCKS[clock]

    def make_round() -> float:
        wait(call())
        began = now()
        wait([call() for _ in range(calls)])
        return now() - began

    return make_round


def take_turns[T](
    sides: Mapping[str, Callable[[], T]],
    rounds: int,
    progress: Progress = no_progress,
    description: str = "measuring",
) -> dict[str, list[T]]:
    """Lets each side make one round after another, in turn: A B A B; returns what each measured."""
    found: dict[str, list[T]] = {name: [] for name in sides}
    progress(description, 0, rounds * len(sides))
    for number in range(rounds):
        for place, (name, make_round) in enumerate(sides.items(), start=1):
            found[name].append(make_round())
            progress(description, number * len(sides) + place, rounds * len(sides))
    return found
