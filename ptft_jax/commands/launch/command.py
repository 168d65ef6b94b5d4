"""What the launchers share: the command they start is checked before anything is started.

A typing error that shows after hours in a queue, or on 64 hosts at once, is an expensive one.
"""

import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from ptft_jax import cli
from ptft_jax.commands.parsing import parse
from ptft_jax.errors import ConfigError
from ptft_jax.runs.config import HOME, check_numbers, nearest
from ptft_jax.runs.defaults import BY_COMMAND
from ptft_jax.training.cluster.start import JobConfig

# The commands that can run in several processes.
COMMANDS = ("pretrain", "finetune", "evaluate")
# Which process this is and where the first one is: that is what a launcher is for.
LAUNCHERS_OWN = ("coordinator_address", "num_processes", "process_id")
# What is checked of a job's settings when it starts, and can be checked before.
_JOB_FLAGS = ("start_timeout_seconds", "heartbeat_seconds", "control_port", "watchdog_seconds")
DEFAULT_PORT = 8476

# What some launchers have alike.
COUNT, COUNT_OR_NONE = range(1, 100_001), range(100_001)
PORT = range(65536)
PROCESSES = {"processes": (COUNT, 1, "How many processes to start.")}
NODES = {
    "nodes": (COUNT, None, "How many nodes; None: one, or those of a TPU topology."),
    "gpus_per_node": (COUNT_OR_NONE, 0, "GPUs on each node."),
}


class Command(NamedTuple):
    """A checked command line of ptft: its words, and the run folder that it names."""

    words: list[str]
    run_dir: str


def define_launch_flags(
    values: flags.FlagValues, own: Mapping[str, tuple[type | range, Any, str]]
) -> None:
    """Defines a launcher's own flags, name → (kind, default, help), and what all launchers have.

    A kind is str, list (of strings), or the range of whole numbers that may be. Flags after the
    command's name belong to that command.
    """
    for name, (kind, default, text) in own.items():
        if isinstance(kind, range):
            flags.DEFINE_integer(name, default, text, kind[0], kind[-1], flag_values=values)
        else:
            define = flags.DEFINE_list if kind is list else flags.DEFINE_string
            define(name, default, text, flag_values=values)
    flags.DEFINE_bool("dry_run", False, "Print what would run, run nothing.", flag_values=values)
    # Parsing stops at the first word that is no flag, so `--` may also be left out.
    values.set_gnu_getopt(False)


def required(values: flags.FlagValues, flag: str, what: str) -> str:
    """Returns a flag's value, or raises ConfigError where it has none."""
    value: Any = values[flag].value
    if not value:
        raise ConfigError(f"--{flag} is missing: expected {what}.")
    return value


def checked_command(
    launcher: str, words: Sequence[str], sets: Sequence[str] = LAUNCHERS_OWN
) -> Command:
    """Parses a command line of ptft as that command would, without running it.

    `launcher` is the launching command, for the messages; `sets` are the flags that it sets itself.
    Raises ConfigError for no command, one that runs in a single process only, and flags and config
    keys that the command would refuse.
    """
    example = f"ptft {launcher} … -- pretrain --config=FILE --run_dir=RUN"
    if not words:
        raise ConfigError(f"nothing to launch: expected a command after `--`, like {example}.")
    words = list(words)
    if words[0] not in COMMANDS:
        near = nearest(words[0], COMMANDS)
        hint = f"; did you mean '{near}'?" if near else ""
        raise ConfigError(
            f"{words[0]!r} cannot be launched in several processes{hint} Expected one of "
            f"{', '.join(COMMANDS)} (without the word ptft), like {example}."
        )
    name, rest = cli.command_of(words)
    module = cli.module_of(name)
    values, positional = parse(module.define_flags, rest, BY_COMMAND.get(name))
    if positional:
        raise ConfigError(f"{positional[0]!r}: expected flags only, like --config.steps=100.")
    if not values["run_dir"].value:
        raise ConfigError("--run_dir is missing: name the folder of the run.")
    for flag in sets:
        if values[flag].present:
            raise ConfigError(f"--{flag} is set by `ptft {launcher}`: leave it out.")
    job: dict[str, Any] = {name: values[name].value for name in _JOB_FLAGS}
    JobConfig(**job)  # checks them
    if name in BY_COMMAND:
        check_numbers(values.config)
    return Command(words, values["run_dir"].value)


def script(name: str) -> Path:
    """Returns a file of `launch/`, which is a folder of the checkout, not of the package."""
    path = HOME / "launch" / name
    if not path.is_file():
        raise ConfigError(
            f"{path} is not there: the launchers need a checkout of the repository, installed by "
            "`bash launch/setup.sh` or `pip install --editable .`"
        )
    return path


def ptft_executable() -> str:
    """Returns the path of the `ptft` that belongs to this Python."""
    path = Path(sys.executable).with_name("ptft")
    if not path.is_file():
        raise ConfigError(
            f"{path} is not there: expected the command ptft beside this Python; install the "
            "package with `bash launch/setup.sh` or `pip install --editable .`"
        )
    return str(path)


def shown(command: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """Returns a command, and the variables set for it, in the form that a shell reads."""
    set_first = [f"{name}={shlex.quote(value)}" for name, value in (environment or {}).items()]
    return " ".join([*set_first, shlex.join(command)])


def start(
    values: flags.FlagValues,
    command: Sequence[str],
    environment: Mapping[str, str] | None = None,
    *,
    tool: str,
    install: str,
    reads: str | None = None,
) -> None:
    """Becomes the given program, so that its signals and its exit code are this process's.

    Its standard input is `reads`, if given. With --dry_run it is printed instead. Raises
    ConfigError, saying how to install it, when `tool` is not on PATH.
    """
    if values.dry_run:
        print(shown(command, environment))
        return
    if shutil.which(tool) is None:
        raise ConfigError(f"{tool} is not on PATH: {install}")
    sys.stdout.flush()
    sys.stderr.flush()
    if reads is not None:
        with tempfile.TemporaryFile() as file:
            file.write(reads.encode())
            file.seek(0)
            os.dup2(file.fileno(), 0)
    os.execvpe(command[0], list(command), {**os.environ, **(environment or {})})
