"""From a command line to flags and an ml_collections config, with every mistake caught by name."""

import difflib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from ptft_jax.errors import ConfigError

# An `ml_collections.ConfigDict`; its keys are attributes that no type checker can know.
Config = Any

ROOT = Path(__file__).resolve().parents[2]


def parse(
    define: Callable[[flags.FlagValues], None], arguments: Sequence[str], *, has_config: bool
) -> tuple[flags.FlagValues, list[str]]:
    """Reads a command's flags.

    Args:
        define: defines the command's own flags.
        arguments: what follows the command's name.
        has_config: the command takes `--config=FILE` and `--config.key=value`.

    Returns:
        The flag values, `config` (a locked ConfigDict) among them, and the positional arguments.

    Raises:
        ConfigError: an unknown flag or config key (with the nearest one), a value of a wrong type,
            or a config file that is not there.
    """
    arguments = [_existing_config(argument) for argument in arguments]
    if has_config:
        if not any(a == "--config" or a.startswith("--config=") for a in arguments):
            raise ConfigError(f"--config is missing: name a config file, {_some_configs()}.")
        base = [argument for argument in arguments if argument.startswith("--config=")]
        _check_keys(arguments, _read(define, base, has_config=True)[0].config)
    return _read(define, arguments, has_config=has_config)


def _read(
    define: Callable[[flags.FlagValues], None], arguments: Sequence[str], *, has_config: bool
) -> tuple[flags.FlagValues, list[str]]:
    values = flags.FlagValues()
    values.set_gnu_getopt(True)
    argv = ["ptft", *arguments]
    if has_config:
        config_flags.DEFINE_config_file(
            "config", flag_values=values, sys_argv=argv, help_string="Config file, FILE.py[:TASK]."
        )
    define(values)
    try:
        positional = values(argv)[1:]
        if has_config:
            _ = values.config
    except (flags.Error, AttributeError, TypeError, ValueError, OSError) as error:
        raise ConfigError(f"{error}. `ptft COMMAND --help` lists the flags.") from error
    return values, positional


def _existing_config(argument: str) -> str:
    """Finds `configs/…` from any working directory, and refuses a config that does not exist."""
    flag, equals, value = argument.partition("=")
    if flag != "--config" or not equals:
        return argument
    name, colon, task = value.partition(":")
    for candidate in (Path(name), ROOT / name):
        if candidate.is_file():
            return f"--config={candidate}{colon}{task}"
    raise ConfigError(f"--config={value}: there is no file {name!r}; {_some_configs()}.")


def _some_configs() -> str:
    found = sorted(
        str(path.relative_to(ROOT)) for path in ROOT.glob("configs/*/*.py") if path.stem[0] != "_"
    )
    return f"for example {', '.join(found)}" if found else "for example configs/pretrain/bert.py"


def _check_keys(arguments: Sequence[str], config: ConfigDict) -> None:
    known = list(flatten(config.to_dict()))
    sections = {name.rpartition(".")[0] for name in known} - {""}
    for argument in arguments:
        if not argument.startswith("--config."):
            continue
        key = argument.partition("=")[0].removeprefix("--config.")
        if key in known or key in sections:
            continue
        near = nearest(key, known)
        hint = f"the nearest key is '{near}'" if near else f"the keys are {', '.join(known)}"
        raise ConfigError(f"--config.{key}: the config has no key '{key}'; {hint}.")


def nearest(key: str, known: Sequence[str]) -> str | None:
    """Returns the known key most like `key`, by its whole path or by its last part; else None."""
    by_path = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    if by_path:
        return by_path[0]
    last = {name.rpartition(".")[2]: name for name in known}
    by_name = difflib.get_close_matches(key.rpartition(".")[2], list(last), n=1, cutoff=0.6)
    return last[by_name[0]] if by_name else None


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Returns the leaves of nested dicts by dotted path."""
    flat = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + str(name)] = value
    return flat
