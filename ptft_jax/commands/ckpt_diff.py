"""ptft ckpt diff RUN[:STEP] RUN2[:STEP]

Says in what two checkpoints differ: arrays, names of arrays, config, tokenizer.

STEP is a number, last or best; without it the last checkpoint is meant. Both are verified before
they are read. The exit code is 0 whether they are equal or not.
"""

from typing import Any, NamedTuple

import numpy as np
from absl import flags
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ptft_jax.commands.ckpt_ls import add_row, checked_run, show
from ptft_jax.commands.screen import count, facts, made, make_console
from ptft_jax.commands.settings import flatten
from ptft_jax.errors import ConfigError
from ptft_jax.training.checkpoint_manifest import verify
from ptft_jax.training.checkpoints import Checkpoints
from ptft_jax.training.stored_arrays import read_item

_ITEMS = ("params", "opt_state")
_COUNTED = ("step", "next_index", "skipped", "skipped_in_row")
# Two tokenizers may differ in every word.
_SHOWN = 20
_LONGEST = 60
_ABSENT = object()


class ArrayDifference(NamedTuple):
    """How far two arrays are apart.

    `largest` is the largest absolute difference, `relative` the norm of the difference divided by
    that of the first array (both NaN where shape, dtype or a NaN forbids them); `note` says what
    else there is.
    """

    name: str
    largest: float
    relative: float
    note: str


def define_flags(values: flags.FlagValues) -> None:
    """Defines the command's flags: none."""
    del values


def run(values: flags.FlagValues, positional: list[str]) -> None:
    """Runs the command."""
    del values
    if len(positional) != 2:
        raise ConfigError(
            f"{len(positional)} checkpoints are named; expected two, like "
            "`ptft ckpt diff runs/a:1000 runs/b:1000`."
        )
    (first, step), (second, other_step) = map(_opened, positional)
    console = make_console()
    facts(console, {"first": f"{first.folder}/{step}", "second": f"{second.folder}/{other_step}"})
    differing: dict[str, str] = {}
    for item in _ITEMS:
        here, there = _arrays(first, step, item), _arrays(second, other_step, item)
        differing[item] = _compare_arrays(console, here, there, item)
    pairs = {
        "config": (first.meta(step)["config"], second.meta(other_step)["config"]),
        "tokenizer": (first.tokenizer_json(step), second.tokenizer_json(other_step)),
        "counters": tuple(
            {name: checkpoints.meta(number)[name] for name in _COUNTED}
            for checkpoints, number in ((first, step), (second, other_step))
        ),
    }
    for name, (here, there) in pairs.items():
        differing[name] = _compare_json(console, here, there, name)
    made(console, "compared", differing, [])


def _opened(argument: str) -> tuple[Checkpoints, int]:
    run_dir, colon, which = argument.rpartition(":")
    if not colon or not (which.isdecimal() or which in ("last", "best")):
        run_dir, which = argument, "last"
    folder = checked_run(run_dir, [])
    checkpoints = folder.checkpoints(best=folder.record().best)
    return checkpoints, checkpoints.choose(which)


def _arrays(checkpoints: Checkpoints, step: int, item: str) -> dict[str, np.ndarray]:
    """The arrays of an item; an imported run has no optimizer state."""
    path = checkpoints.folder / str(step)
    return read_item(path, item) if verify(path, (item,)).holds(item) else {}


def _compare_arrays(
    console: Console, first: dict[str, np.ndarray], second: dict[str, np.ndarray], item: str
) -> str:
    """Prints in which arrays two items differ; returns that in a few words."""
    names = first.keys() | second.keys()
    found = []
    for name in sorted(names):
        if name not in first or name not in second:
            where = "first" if name in first else "second"
            found.append(ArrayDifference(name, np.nan, np.nan, f"only in the {where}"))
        else:
            difference = array_difference(name, first.pop(name), second.pop(name))
            found += [] if difference is None else [difference]
    if not found:
        return f"equal to the last bit ({count(len(names))} arrays)" if names else "none in both"
    table = Table(f"{item}", "largest difference", "relative norm", "", box=SIMPLE_HEAD)
    for name, largest, relative, note in found:
        add_row(table, name, _number(largest), _number(relative), note)
    show(console, table)
    return f"{count(len(found))} of {count(len(names))} arrays differ"


def array_difference(name: str, first: np.ndarray, second: np.ndarray) -> ArrayDifference | None:
    """Returns how far two arrays are apart, None when they are equal to the last bit."""
    if (first.shape, first.dtype) != (second.shape, second.dtype):
        kinds = [f"{array.dtype.name}{list(array.shape)}" for array in (first, second)]
        return ArrayDifference(name, np.nan, np.nan, f"{kinds[0]} and {kinds[1]}")
    here, there = (np.ravel(array).view(np.uint8) for array in (first, second))
    if np.array_equal(here, there):
        return None
    here, there = first.astype(np.float64), second.astype(np.float64)
    odd = [int(np.sum(~np.isfinite(array))) for array in (here, there)]
    note = f"not finite: {count(odd[0])} and {count(odd[1])} values" if any(odd) else ""
    with np.errstate(invalid="ignore", divide="ignore"):
        apart = here - there
        relative = np.linalg.norm(apart) / np.linalg.norm(here)
        return ArrayDifference(name, float(np.max(np.abs(apart))), float(relative), note)


def _number(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.3g}"


def _compare_json(console: Console, first: Any, second: Any, what: str) -> str:
    """Prints the keys in which two JSON objects differ; returns that in a few words."""
    here, there = flatten(first), flatten(second)
    names = sorted(
        name
        for name in here.keys() | there.keys()
        if here.get(name, _ABSENT) != there.get(name, _ABSENT)
    )
    if not names:
        return "equal"
    table = Table(what, "first", "second", box=SIMPLE_HEAD)
    for name in names[:_SHOWN]:
        cells = [_value(side, name) for side in (here, there)]
        add_row(table, *map(_cut, (name, *cells)))
    show(console, table)
    more = f" ({_SHOWN} are shown)" if len(names) > _SHOWN else ""
    return f"{count(len(names))} {'key differs' if len(names) == 1 else 'keys differ'}{more}"


def _value(flat: dict[str, Any], name: str) -> str:
    return repr(flat[name]) if name in flat else "absent"


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
