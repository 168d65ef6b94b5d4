"""From a command line to flags and an ml_collections config, with every mistake caught by name."""

import difflib
import importlib.util
from collections.abc import Callable, Sequence
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from ptft_jax.commands.secrets import refuse_secrets
from ptft_jax.errors import ConfigError

# An `ml_collections.ConfigDict`; its keys are attributes that no type checker can know.
Config = Any

ROOT = Path(__file__).resolve().parents[2]


def parse(
    define: Callable[[flags.FlagValues], None],
    arguments: Sequence[str],
    defaults: Callable[[], Config] | None = None,
) -> tuple[flags.FlagValues, list[str]]:
    """Reads a command's flags.

    Args:
        define: defines the command's own flags.
        arguments: what follows the command's name.
        defaults: makes the config that names every key of the command, which then takes
            `--config=FILE` and `--config.key=value`; None for a command without a config.

    Returns:
        The flag values, `config` (a locked ConfigDict) among them, and the positional arguments.

    Raises:
        ConfigError: an unknown flag or config key (with the nearest one), a value of a wrong type,
            a credential in a URL, or a config file that is not there or lacks keys.
    """
    refuse_secrets(arguments)
    if defaults is None:
        return _read(define, arguments)
    file, arguments = _split_config(arguments)
    if file is None:
        raise ConfigError(f"--config is missing: name a config file, {_some_configs()}.")
    config = load_config(file)
    refuse_secrets((), flatten(config.to_dict()).items())
    _check_complete(file, config, defaults())
    known = flatten(config.to_dict())
    for argument in arguments:
        if argument.startswith(("--config.", "--noconfig.")):
            _check_key(argument.partition("=")[0].partition("config.")[2], known)
            if "=" in argument:
                _check_value(argument, load_config(file))
    return _read(define, arguments, config)


class _Source(SourceFileLoader):
    """Runs a file as it is now, and leaves no compiled copy beside it.

    Python's own loader takes such a copy for the file when size and second of the last change are
    the same: a rate changed from 1e-4 to 2e-4 right after a start would stay 1e-4.
    """

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


def load_config(file: str) -> Config:
    """Returns the config of a `--config` value, FILE.py or FILE.py:TASK.

    Raises:
        ConfigError: there is no such file, or it gives no config.
    """
    path, (_, colon, task) = _existing(file), file.partition(":")
    name = f"ptft_config_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path, loader=_Source(name, str(path)))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config(*([task] if colon else []))
        if not isinstance(config, ConfigDict):
            raise TypeError(f"get_config() returned {config!r}")
        return config
    # Whatever a config file does wrong when it is run.
    except Exception as error:
        takes = f", and takes the task '{task}'" if colon else ""
        raise ConfigError(
            f"--config={file}: this file gives no config: {type(error).__name__}: {error}. "
            f"Expected a function get_config() that returns a ConfigDict{takes}; "
            f"{_some_configs()}."
        ) from error


def config_of(arguments: Sequence[str]) -> str | None:
    """Returns the value of `--config` in a command line, None where there is none."""
    return _split_config(arguments)[0]


def _read(
    define: Callable[[flags.FlagValues], None],
    arguments: Sequence[str],
    config: Any = None,
) -> tuple[flags.FlagValues, list[str]]:
    values = flags.FlagValues()
    values.set_gnu_getopt(True)
    argv = ["ptft", *arguments]
    if config is not None:
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=argv)
    define(values)
    try:
        return values, values(argv)[1:]
    except flags.Error as error:
        text = str(error).strip().rstrip(".?").rstrip()
        raise ConfigError(f"{text}. `ptft COMMAND --help` lists the flags.") from error


def _split_config(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """Takes `--config=FILE` or `--config FILE` out of a command line."""
    found, rest = [], []
    ahead = iter(arguments)
    for argument in ahead:
        if argument == "--config":
            found.append(next(ahead, ""))
        elif argument.startswith("--config="):
            found.append(argument.removeprefix("--config="))
        else:
            rest.append(argument)
    if len(found) > 1:
        raise ConfigError(f"--config is given {len(found)} times, {', '.join(found)}: name one.")
    return (found[0] or None) if found else None, rest


def _existing(file: str) -> Path:
    """Finds `configs/…` from any working directory, and refuses a config that does not exist."""
    name = file.partition(":")[0]
    for candidate in (Path(name), ROOT / name):
        if candidate.is_file() and candidate.suffix == ".py":
            return candidate
    known = _configs()
    near = nearest(name, known)
    hint = f"the nearest is {near}" if near else _some_configs()
    raise ConfigError(f"--config={file}: there is no Python file {name!r}; {hint}.")


def _configs() -> list[str]:
    return sorted(
        str(path.relative_to(ROOT)) for path in ROOT.glob("configs/*/*.py") if path.stem[0] != "_"
    )


def _some_configs() -> str:
    found = _configs()
    return f"for example {', '.join(found)}" if found else "for example configs/pretrain/bert.py"


def _check_complete(file: str, config: Config, defaults: Config) -> None:
    """Raises ConfigError for a config made for another command, or with keys of its own."""
    there, wanted = flatten(config.to_dict()), flatten(defaults.to_dict())
    problems = [
        f"{word} {', '.join(names[:5])}{', …' if len(names) > 5 else ''}"
        for word, names in (
            ("it lacks", sorted(wanted.keys() - there.keys())),
            ("unknown are", sorted(there.keys() - wanted.keys())),
        )
        if names
    ]
    if problems:
        raise ConfigError(
            f"--config={file} is no config of this command: {'; '.join(problems)}. Expected what "
            f"the command's function in ptft_jax/commands/defaults.py returns, with other values."
        )


def _check_key(key: str, known: dict[str, Any]) -> None:
    if key in known:
        return
    inside = [name for name in known if name.startswith(f"{key}.")]
    if inside:
        raise ConfigError(
            f"--config.{key}: '{key}' is a section; set its keys, like --config.{inside[0]}=…"
        )
    near = nearest(key, list(known))
    hint = f"the nearest key is '{near}'" if near else f"the keys are {', '.join(known)}"
    raise ConfigError(f"--config.{key}: the config has no key '{key}'; {hint}.")


def _check_value(argument: str, config: Config) -> None:
    """Raises ConfigError when an override is not of its key's type; writes into `config`."""
    path = argument.partition("=")[0].removeprefix("--config.").split(".")
    section = config
    for name in path[:-1]:
        section = section[name]
    kind, now = section.get_type(path[-1]), section[path[-1]]
    try:
        _read(lambda _: None, [argument], config)
    except ConfigError as error:
        example = "" if now in (None, "", ()) else f", like {now}"
        raise ConfigError(f"{argument}: expected {_KINDS.get(kind, kind)}{example}.") from error


_KINDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    tuple: "a list in brackets, like (32,64)",
}


def check_place(flag: str, path: str | Path) -> None:
    """Raises ConfigError when no folder can be made at `path`, because a file is in the way."""
    for place in (Path(path), *Path(path).parents):
        if place.exists() and not place.is_dir():
            raise ConfigError(
                f"--{flag}={path}: {place} is a file; expected the name of a folder to make."
            )


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


def require_data_dir(config: Config, what: str) -> str:
    """Returns `data_dir`, or raises ConfigError saying what it has to be."""
    if not config.data_dir:
        raise ConfigError(f"--config.data_dir is missing: name {what}.")
    return config.data_dir
