"""What a sweep tries: every combination of some values, or draws from values and ranges."""

import dataclasses
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from ptft_jax.errors import ConfigError

# A comma that no bracket encloses.
_COMMA = re.compile(r",(?![^()\[\]]*[)\]])")
_RANGE = re.compile(r"([^,]+?)\.\.([^,:]+)(:log)?")
# Less of a run than this says little of its end: the warm-up alone may be a tenth.
_SMALLEST_SHARE = Fraction(1, 10)


@dataclasses.dataclass(frozen=True)
class Axis:
    """A config key with what to try of it.

    Attributes:
        key: the config key.
        values: a list; empty for a range.
        low, high: the ends of a range.
        log: whether logarithms are drawn evenly, and not the values themselves.
        whole: whether they are whole numbers.
    """

    key: str
    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False

    def draw(self, rng: np.random.Generator) -> Any:
        """Returns a value; of a range with three digits, so that it can be written again."""
        if self.values:
            return self.values[int(rng.integers(len(self.values)))]
        share = rng.random()
        if self.log:
            value = self.low * (self.high / self.low) ** share
        else:
            value = self.low + (self.high - self.low) * share
        return round(value) if self.whole else float(f"{value:.3g}")


def axis_of(text: str) -> Axis:
    """Reads KEY=A,B,C or KEY=LOW..HIGH, perhaps with :log; the values of a list stay texts.

    Raises:
        ConfigError: it is neither, or the range is empty.
    """
    key, equals, listed = text.partition("=")
    key = key.strip().removeprefix("--").removeprefix("config.")
    values = tuple(value.strip() for value in _COMMA.split(listed))
    if not key or not equals or not all(values):
        raise ConfigError(
            f"--grid {text!r}: expected a key of the config and values with commas between them, "
            "like optimizer.learning_rate=1e-5,3e-5; with --random also a range, like 1e-5..1e-4."
        )
    form = _RANGE.fullmatch(listed.strip())
    if form is None:
        return Axis(key, values)
    try:
        low, high = float(form[1]), float(form[2])
    except ValueError:
        return Axis(key, values)  # a path, say
    if not low < high < math.inf or (form[3] and low <= 0):
        raise ConfigError(
            f"--grid {text!r}: expected LOW..HIGH with LOW < HIGH"
            f"{', and LOW above 0 for :log' if form[3] else ''}."
        )
    return Axis(key, (), low, high, bool(form[3]))


def combinations(axes: Sequence[Axis]) -> list[dict[str, Any]]:
    """Returns every combination of the values of some lists, the last key changing fastest."""
    keys = [axis.key for axis in axes]
    return [
        dict(zip(keys, one, strict=True)) for one in itertools.product(*(a.values for a in axes))
    ]


def draws(axes: Sequence[Axis], count: int, seed: int) -> list[dict[str, Any]]:
    """Returns `count` different draws; with a larger count the first ones stay the same.

    Raises:
        ConfigError: there are not so many.
    """
    listed = [len(axis.values) for axis in axes if axis.values]
    if len(listed) == len(axes) and math.prod(listed) < count:
        raise ConfigError(
            f"--random={count}: there are {math.prod(listed)} combinations; leave --random out to "
            "try them all."
        )
    found: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    # A range of a few whole numbers may hold fewer values than are asked for.
    for number in range(1000 * count):
        rng = np.random.default_rng([seed, number])
        one = {axis.key: axis.draw(rng) for axis in axes}
        found.setdefault(tuple(one.values()), one)
        if len(found) == count:
            return [dict(one) for one in found.values()]
    raise ConfigError(
        f"--random={count}: only {len(found)} different draws were found; ask for less."
    )


def stops(count: int, factor: int) -> list[Fraction]:
    """Returns at which shares of their updates `count` trials are compared, before the end.

    At each of them one in `factor` goes on, at least one; each is `factor` times the one before.

    Raises:
        ConfigError: there are too few trials to leave any out.
    """
    found, left, share = [], count, Fraction(1, factor)
    while left >= factor and share >= _SMALLEST_SHARE:
        found.append(share)
        left, share = left // factor, share / factor
    if not found:
        raise ConfigError(
            f"--halving={factor}: there are {count} trials; expected at least {factor}, of which "
            "one goes on."
        )
    return found[::-1]
