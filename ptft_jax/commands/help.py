"""`ptft --help`, `ptft COMMAND --help` and `ptft help KEY`, in 100 columns or a narrower window."""

import inspect
import os
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from absl import flags

from ptft_jax.commands.keys import KEYS
from ptft_jax.commands.parsing import config_of
from ptft_jax.errors import ConfigError
from ptft_jax.runs.config import Config, check_complete, flatten, load_config, nearest
from ptft_jax.runs.defaults import KINDS, expected, finetune

_WIDEST, _NARROWEST = 100, 60
_EXAMPLES = {
    "prepare": "data/text",
    "pretrain": "pretrain/bert_base",
    "finetune": "finetune/glue:mrpc (the task behind a colon)",
}
# Names longer than this have their sentence on the next line.
_NAMES = 38


def overview(commands: Mapping[str, str]) -> str:
    """Returns commands with what they do."""
    return (
        "ptft COMMAND [flags]: encoder models in JAX\n\n"
        + "\n".join(_columns(commands.items()))
        + "\n\n`ptft COMMAND --help` explains a command, `ptft help KEY` a key of a config."
    )


def of_command(module: Any, command: str | None, arguments: Sequence[str]) -> str:
    """Returns a command's docstring, its flags, and its config's keys with values and meaning.

    Args:
        module: of the command.
        command: whose config it takes, None for a command without one.
        arguments: the command line; a --config in it gives the values.
    """
    # Here, because the overview need not wait for JAX.
    from ptft_jax.commands.train.flags import JOB_FLAGS

    values = flags.FlagValues()
    module.define_flags(values)
    own = {name: values[name] for name in sorted(values)}
    lines = [_paragraphs(inspect.cleandoc(module.__doc__)), "", "Flags:"]
    rows = [(_flag(flag), str(flag.help)) for name, flag in own.items() if name not in JOB_FLAGS]
    if command is not None:
        text = f"A config that comes along, like {_EXAMPLES[command]}, or a FILE.py"
        text += "." if command == "prepare" else "; or a run's folder, for the config that it has."
        rows = [
            ("--config=NAME_OR_FILE", text),
            ("--print_config", "Print the config as the flags make it, and stop."),
            *rows,
        ]
    lines += _columns(rows)
    job = [(_flag(own[name]), str(own[name].help)) for name in JOB_FLAGS if name in own]
    if job:
        lines += ["", "Flags of a job of several processes:", *_columns(job)]
    if command is not None:
        file = config_of(arguments)
        config = expected(command) if file is None else load_config(file)
        check_complete(config, command, f"--config={file}")
        known = flatten(config.to_dict())
        values_of = f"the values of {file}" if file else "values that --config=FILE may change"
        lines += ["", f"Keys of the config, with {values_of}:"]
        for title, keys in KEYS[command].items():
            rows = [
                (f"--config.{key}={known[key]}", text) for key, text in keys.items() if key in known
            ]
            if rows:
                lines += ["", f" {title}", *_columns(rows)]
    return "\n".join(lines)


def of_key(name: str) -> str:
    """Returns what a key, or each key of a group, means, in each command whose config has it.

    Raises:
        ConfigError: there is none of that name.
    """
    key = name.lstrip("-").partition("=")[0].removeprefix("config.")
    found = []
    for command, groups in KEYS.items():
        kinds = [expected(command)] if command != "finetune" else map(finetune, KINDS)
        known = {k: v for config in kinds for k, v in flatten(config.to_dict()).items()}
        found += [
            (f"ptft {command} --config.{name}={known[name]}", text)
            for keys in groups.values()
            for name, text in keys.items()
            # A key by its last word, and all keys of a group by its name.
            if name == key or name.endswith(f".{key}") or name.startswith(f"{key}.")
        ]
    if not found:
        names = sorted(
            {key for groups in KEYS.values() for keys in groups.values() for key in keys}
        )
        near = nearest(key, names)
        hint = f"the nearest is {near}" if near else "`ptft COMMAND --help` lists a command's keys"
        raise ConfigError(f"no config has a key {key!r}; {hint}.")
    return "\n".join(_columns(found))


def key_flags(config: Config) -> list[str]:
    """Returns a config's keys as the flags that set them."""
    return [f"--config.{name}={value}" for name, value in flatten(config.to_dict()).items()]


def _flag(flag: flags.Flag) -> str:
    """Returns a flag as it is written, with its default where it has one."""
    if flag.default is None or flag.default is False:
        return f"--{flag.name}"
    is_list = isinstance(flag.default, list)
    return f"--{flag.name}={','.join(flag.default) if is_list else flag.default}"


def _width() -> int:
    """Returns how many columns to fill."""
    try:
        columns = os.get_terminal_size(sys.stdout.fileno()).columns
    except (OSError, ValueError):  # a file or a pipe
        columns = _WIDEST
    return max(_NARROWEST, min(columns, _WIDEST))


def _paragraphs(text: str) -> str:
    """Returns a docstring, filled anew where the window is narrower than it was written for."""
    if _width() == _WIDEST:
        return text
    return "\n\n".join(
        textwrap.fill(" ".join(part.split()), _width(), break_on_hyphens=False)
        for part in text.split("\n\n")
    )


def _columns(rows: Iterable[tuple[str, str]]) -> list[str]:
    """Returns names and sentences in two columns."""
    rows = list(rows)
    width = min(_NAMES, max((len(name) for name, _ in rows), default=0)) + 4
    lines = []
    for name, text in rows:
        head = f"  {name}".ljust(width)
        if len(head.rstrip()) > width - 2:
            lines.append(head.rstrip())
            head = " " * width
        lines += textwrap.wrap(
            text, _width(), initial_indent=head, subsequent_indent=" " * width
        ) or [head.rstrip()]
    return lines
