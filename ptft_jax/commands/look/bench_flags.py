"""What the commands of `ptft bench` share: flags, checks, and what they leave behind."""

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from ptft_jax.commands.screen import made, make_console
from ptft_jax.errors import ConfigError
from ptft_jax.runs.bench.machine import hardware, versions
from ptft_jax.runs.bench.plot import FORMATS, rounds_plot
from ptft_jax.training.metric_sinks import json_ready, write_atomically


def define_common(values: flags.FlagValues, rounds: int) -> None:
    """Defines what all benches have; `rounds` is the default."""
    flags.DEFINE_integer("rounds", rounds, "Rounds of each side, in turn.", flag_values=values)
    flags.DEFINE_string("json", None, "File for every round's times.", flag_values=values)
    formats = ", ".join(f".{kind}" for kind in FORMATS)
    flags.DEFINE_string("plot", None, f"File for a picture: {formats}.", flag_values=values)


def define_against(values: flags.FlagValues, others: Sequence[str]) -> None:
    """Defines --against, one of `others`."""
    text = f"What to measure in turn with ours: {', '.join(others)}."
    flags.DEFINE_enum("against", None, others, text, flag_values=values)


def check(values: flags.FlagValues, positional: list[str], **least: int) -> None:
    """Raises ConfigError for a flag that cannot be used."""
    if positional:
        raise ConfigError(f"{positional[0]!r}: expected flags only, like --rounds=5.")
    for name, low in {"rounds": 2, **least}.items():
        if getattr(values, name) < low:
            raise ConfigError(f"--{name}={getattr(values, name)}: expected at least {low}.")
    for name in ("json", "plot"):
        file = getattr(values, name)
        if file and (not Path(file).absolute().parent.is_dir() or Path(file).is_dir()):
            raise ConfigError(f"--{name}={file}: expected a file in a folder that is there.")
    if values.plot and Path(values.plot).suffix[1:] not in FORMATS:
        endings = ", ".join(f".{kind}" for kind in FORMATS)
        raise ConfigError(f"--plot={values.plot}: expected a name that ends in {endings}.")


def numbers(name: str, values: flags.FlagValues) -> list[int]:
    """Returns the numbers of a list flag; raises ConfigError for what are none."""
    texts = getattr(values, name)
    if not texts or not all(text.isdecimal() and int(text) > 0 for text in texts):
        raise ConfigError(f"--{name}={','.join(texts)}: expected numbers, like 1,8,32.")
    return [int(text) for text in texts]


def spread(of: Mapping[str, float], unit: str = "") -> str:
    """Writes a median with the lowest and the highest round."""
    ends = f"({of['low']:,.4g} to {of['high']:,.4g})"
    return " ".join(filter(None, [f"{of['median']:,.4g}", unit, ends]))


def again(more: str) -> str:
    """Returns this very command line with a flag more."""
    return shlex.join(["ptft", *sys.argv[1:], more])


def finish(
    values: flags.FlagValues,
    found: Mapping[str, Any],
    rounds: Mapping[str, Sequence[float]],
    unit: str,
    title: str,
    what: dict[str, str],
    following: Sequence[str],
) -> None:
    """Writes the files that were asked for, and ends the command."""
    if values.json:
        config = {"config": values.config.to_dict()} if "config" in values else {}
        machine = {"hardware": hardware(), "versions": versions()}
        command = {"command": shlex.join(["ptft", *sys.argv[1:]])}
        text = json.dumps(json_ready({**command, **found, **machine, **config}), indent=1)
        write_atomically(Path(values.json), text + "\n")
        what["numbers"] = values.json
    if values.plot:
        kind = Path(values.plot).suffix[1:]
        Path(values.plot).write_bytes(rounds_plot(rounds, unit, title, kind))
        what["picture"] = values.plot
    made(make_console(), "measured", what, following)
