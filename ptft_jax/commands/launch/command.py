"""What the launchers share: the command they start is checked before anything is started."""

import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from ptft_jax import cli
from ptft_jax.commands.parsing import parse, required
from ptft_jax.errors import ConfigError
from ptft_jax.runs.config import HOME, check_numbers, nearest
from ptft_jax.runs.defaults import WITH_CONFIG
from ptft_jax.training.cluster.start import JobConfig

# The commands that can run in several processes.
_COMMANDS = ("pretrain", "finetune", "evaluate")
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


def define_launch_flags(
    own: Mapping[str, tuple[type | range, Any, str]], values: flags.FlagValues
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


def checked_command(
    launcher: str, words: Sequence[str], sets: Sequence[str] = LAUNCHERS_OWN
) -> tuple[list[str], str]:
    """Parses a command line of ptft as that command would; returns its words and its run folder.

    `launcher` is the launching command; `sets` are the flags that it sets itself. ConfigError for
    no command, one that runs in a single process only, and what the command would refuse.
    """
    words, example = list(words), f"ptft {launcher} … -- pretrain --config=FILE --run_dir=RUN"
    if not words:
        raise ConfigError(f"nothing to launch: expected a command after `--`, like {example}.")
    if words[0] not in _COMMANDS:
        near = nearest(words[0], _COMMANDS)
        hint = f"; did you mean '{near}'?" if near else "."
        raise ConfigError(
            f"{words[0]!r} cannot be launched in several processes{hint} Expected one of "
            f"{', '.join(_COMMANDS)} (without the word ptft), like {example}."
        )
    name, rest = cli.command_of(words)
    takes = name if name in WITH_CONFIG else None
    values = parse(cli.module_of(name).define_flags, rest, takes)
    required(values, "run_dir")
    for flag in sets:
        if values[flag].present:
            raise ConfigError(f"--{flag} is set by `ptft {launcher}`: leave it out.")
    job: dict[str, Any] = {name: values[name].value for name in _JOB_FLAGS}
    JobConfig(**job)  # checks them
    if takes:
        check_numbers(values.config)
    return words, values.run_dir


def script(name: str) -> str:
    """Returns the path of a file of `launch/`, a folder of the checkout, not of the package."""
    return _there(HOME / "launch" / name)


def ptft_executable() -> str:
    """Returns the path of the `ptft` that belongs to this Python."""
    return _there(Path(sys.executable).with_name("ptft"))


def _there(path: Path) -> str:
    if not path.is_file():
        raise ConfigError(
            f"{path} is not there: the launchers need a checkout of the repository, installed by "
            "`bash launch/setup.sh` or `pip install --editable .`"
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

    Its standard input is `reads`, if given. With --dry_run that, or else the command, is printed
    instead. Raises ConfigError, saying how to install it, when `tool` is not on PATH.
    """
    if values.dry_run:
        print(shown(command, environment) + "\n" if reads is None else reads, end="")
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
