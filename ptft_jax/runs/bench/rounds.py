"""Sides that take turns, so that what else the machine does meets all of them alike."""

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence

from ptft_jax.data.progress import Progress, no_progress


@dataclasses.dataclass(frozen=True)
class Spread:
    """The median of some rounds, with the lowest and the highest of them."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Returns it for at least one value."""
        return cls(statistics.median(values), min(values), max(values))


def take_turns[T](
    sides: Mapping[str, Callable[[], T]],
    rounds: int,
    progress: Progress = no_progress,
    description: str = "measuring",
) -> dict[str, list[T]]:
    """Lets each side make one round after another, in turn: A B A B.

    Args:
        sides: name → makes one round, and returns what was measured in it.
        rounds: how many each makes.
        progress: is told after each round.
        description: what progress calls it.

    Returns:
        What each side measured, in the order of the rounds.
    """
    found: dict[str, list[T]] = {name: [] for name in sides}
    progress(description, 0, rounds * len(sides))
    for number in range(rounds):
        for place, (name, make_round) in enumerate(sides.items(), start=1):
            found[name].append(make_round())
            progress(description, number * len(sides) + place, rounds * len(sides))
    return found


def times_as_fast(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Returns how many times as fast ours are: seconds of theirs over ours, round by round."""
    return Spread.of([their / our for our, their in zip(ours, theirs, strict=True)])
