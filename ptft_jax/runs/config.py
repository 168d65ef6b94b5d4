"""Config files: finding and running one, and what is asked of the tree of keys that it gives."""

import difflib
import importlib.util
import math
import os
from collections.abc import Sequence
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any

from ml_collections import ConfigDict

from ptft_jax.errors import ConfigError, DataError
from ptft_jax.models.config import EncoderConfig

# An `ml_collections.ConfigDict`; its keys are attributes that no type checker can know.
Config = Any

_PACKAGE = Path(__file__).resolve().parents[1]
# The folder that holds configs/: the package where it is installed, else the root of the checkout.
HOME = _PACKAGE if (_PACKAGE / "configs").is_dir() else _PACKAGE.parent


class _Source(SourceFileLoader):
    """Runs a file as it is now, and leaves no compiled copy beside it.

    Python's own loader takes such a copy for the file when size and second of the last change are
    the same: a rate changed from 1e-4 to 2e-4 right after a start would stay 1e-4.
    """

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


def load_config(file: str) -> Config:
    """Returns the config of a `--config` value.

    Args:
        file: a shipped config's name (pretrain/bert_base), or FILE.py; a task follows a colon
            (finetune/glue:mrpc). Or a run's folder: the config that it was last started with.

    Raises:
        ConfigError: there is no such file, or it gives no config.
        DataError: a run's config.json is damaged.
    """
    if (Path(file) / "config.json").is_file():
        return _of_run(Path(file))
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
        return config.lock()  # a mistyped key of a notebook is an error where it stands
    except ConfigError as error:  # what the file was asked for cannot be
        raise ConfigError(f"--config={file}: {error}") from error
    # Whatever a config file does wrong when it is run.
    except Exception as error:
        takes = f", and takes the task '{task}'" if colon else ""
        raise ConfigError(
            f"--config={file}: this file gives no config: {type(error).__name__}: {error}. "
            f"Expected a function get_config() that returns a ConfigDict{takes}; "
            f"{shipped_configs()}."
        ) from error


def _of_run(run_dir: Path) -> Config:
    """Returns the config that a run's config.json holds, in the types of its command's keys."""
    # Both begin with this module.
    from ptft_jax.runs.defaults import WITH_CONFIG, expected
    from ptft_jax.runs.record import read_record

    record = read_record(run_dir)
    if record.command not in WITH_CONFIG:
        raise ConfigError(
            f"--config={run_dir}: this run was made by `ptft {record.command}` and has no config: "
            "expected one that was trained."
        )
    config = expected(record.command, ConfigDict(record.config))
    try:
        config.lock().update(_with_tuples(record.config))
    except (TypeError, ValueError) as error:
        raise DataError(f"{run_dir}/config.json is damaged: {error}") from error
    return config


def _with_tuples(value: Any) -> Any:
    """Returns JSON values with tuples for lists, as configs have them."""
    if isinstance(value, dict):
        return {name: _with_tuples(inner) for name, inner in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def _existing(file: str) -> Path:
    """Finds a file, a shipped config by name, or `configs/…` from any working directory."""
    name = file.partition(":")[0]
    for candidate in (Path(name), HOME / name, HOME / "configs" / f"{name}.py"):
        if candidate.is_file() and candidate.suffix == ".py":
            return candidate
    known = _names()
    near = nearest(name.removeprefix("configs/").removesuffix(".py"), known)
    hint = f"the nearest is {near}; " if near else ""
    raise ConfigError(
        f"--config={file}: there is no Python file {name!r} and no shipped config of that name; "
        f"{hint}{shipped_configs()}."
    )


def _names() -> list[str]:
    folder = HOME / "configs"
    files = (path for path in folder.glob("*/*.py") if path.stem[0] != "_")
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in files)


def shipped_configs(command: str | None = None) -> str:
    """Returns the names of the configs that come with the package, for a message.

    command: those that it takes; None: all.
    """
    folder = "data" if command == "prepare" else command or ""
    return f"shipped are {', '.join(name for name in _names() if name.startswith(folder))}"


def check_place(flag: str, path: str | Path) -> None:
    """Raises ConfigError when no folder can be made at `path`, or it cannot be written to."""
    place = next(place for place in (Path(path), *Path(path).absolute().parents) if place.exists())
    if not place.is_dir():
        raise ConfigError(
            f"--{flag}={path}: {place} is a file; expected the name of a folder to make."
        )
    if not os.access(place, os.W_OK):
        raise ConfigError(
            f"--{flag}={path}: {place} cannot be written to; expected a folder that can."
        )


def nearest(key: str, known: Sequence[str]) -> str | None:
    """Returns the known key most like `key`, in its group if there is one there; else None.

    Initials count: lr is learning_rate.
    """
    group, _, own = key.rpartition(".")
    beside = [name for name in known if name.rpartition(".")[0] == group]
    for names in (beside, known):
        last = {name.rpartition(".")[2]: name for name in names}
        initials = {"".join(word[:1] for word in name.split("_")): name for name in last}
        near = difflib.get_close_matches(own, list(last), n=1, cutoff=0.6)
        if near or own in initials:
            return last[near[0] if near else initials[own]]
    by_path = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    return by_path[0] if by_path else None


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


def check_complete(config: Config, command: str, named: str) -> None:
    """Raises ConfigError for a config made for another command, or with keys of its own."""
    # It begins with this module.
    from ptft_jax.runs.defaults import WITH_CONFIG, expected

    there = flatten(config.to_dict())
    wanted = flatten(expected(command, config).to_dict())
    if there.keys() == wanted.keys():
        return
    for other in WITH_CONFIG:
        if there.keys() == flatten(expected(other, config).to_dict()).keys():
            raise ConfigError(f"{named} is a config of `ptft {other}`; {shipped_configs(command)}.")
    problems = [
        f"{word} {', '.join(names[:5])}{', …' if len(names) > 5 else ''}"
        for word, names in (
            ("it lacks", sorted(wanted.keys() - there.keys())),
            ("unknown are", sorted(there.keys() - wanted.keys())),
        )
        if names
    ]
    raise ConfigError(
        f"{named} is no config of `ptft {command}`: {'; '.join(problems)}. Expected what "
        f"{command}() of ptft_jax/runs/defaults.py returns, with other values."
    )


def check_numbers(config: Config) -> None:
    """Raises ConfigError for a seed, intervals and sizes that cannot be."""
    if not 0 <= config.seed < 2**31:
        raise ConfigError(f"--config.seed={config.seed}: expected from 0 to {2**31 - 1}.")
    for name, least in (
        ("batch_size", 1),
        ("accumulate", 1),
        ("log_every", 1),
        ("keep_last", 1),
        ("max_skipped_in_row", 1),
        ("workers", 1),
        ("eval_every", 0),
        ("checkpoint_every", 0),
        ("eval_examples", 0),
        ("eval_batch_size", 1),
        ("steps", 0),
        ("max_train_examples", 0),
        ("examples_per_class", 0),
        ("patience", 0),
        ("reinit_layers", 0),
    ):
        value = config.get(name)
        if value is not None and value < least:
            raise ConfigError(f"--config.{name}={value}: expected at least {least}.")
    epochs, few_shot = config.get("epochs"), config.get("few_shot")
    if epochs is not None and not config.steps and not 0 < epochs < math.inf:
        is_asked_as_it_is = epochs == 0 and few_shot is not None and few_shot.way == "prompt"
        if not is_asked_as_it_is:
            raise ConfigError(f"--config.epochs={epochs}: expected a number above 0.")
    if not 0 <= config.get("unfreeze", 0.0) < 1:
        raise ConfigError(
            f"--config.unfreeze={config.unfreeze}: expected a share of the run, from 0 and below 1."
        )
    if not 0 <= config.ema < 1:
        raise ConfigError(
            f"--config.ema={config.ema}: expected a decay from 0 (no average) to below 1, like "
            "0.999."
        )
    if not 0 <= config.get("label_smoothing", 0.0) <= 1:
        raise ConfigError(
            f"--config.label_smoothing={config.label_smoothing}: expected a share from 0 to 1."
        )
    if not 0 <= config.get("mixout", 0.0) < 1:
        raise ConfigError(
            f"--config.mixout={config.mixout}: expected a probability from 0 to below 1."
        )
    for bucket in config.get("length_buckets") or ():
        if not isinstance(bucket, int) or isinstance(bucket, bool) or bucket < 1:
            raise ConfigError(
                f"--config.length_buckets: {bucket!r} is no length; expected numbers of tokens, "
                "like (32,64,128)."
            )


def refuse_teacher(config: Config, does: str) -> None:
    """Raises ConfigError for a config with a teacher, in a command that counts none."""
    if config.teacher:
        raise ConfigError(
            f"--config.teacher={config.teacher}: {does} a model without one; expected "
            "--config.teacher='', and on top of what is said the teacher's parameters and its "
            "forward pass."
        )


def check_length(config: Config, model: EncoderConfig) -> None:
    """Raises ConfigError when the sequences are longer than the position embeddings."""
    before = model.max_position_embeddings - model.max_tokens
    if config.max_seq_length > model.max_tokens:
        less = f", of which {before} are those of virtual tokens" if before else ""
        raise ConfigError(
            f"--config.max_seq_length={config.max_seq_length}: the model has "
            f"{model.max_position_embeddings} positions (max_position_embeddings){less}; shorten "
            "the sequences."
        )
