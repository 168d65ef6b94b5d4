"""What the launchers share: the command they start is checked before anything is started.

A typing error that shows after hours in a queue, or on 64 hosts at once, is an expensive one.
"""

import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from absl import flags

from ptft_jax import cli
from ptft_jax.commands import settings
from ptft_jax.commands.defaults import BY_COMMAND
from ptft_jax.commands.training_flags import check_numbers
from ptft_jax.errors import ConfigError
from ptft_jax.training.distributed import JobConfig

# The commands that can run in several processes.
COMMANDS = ("pretrain", "finetune", "evaluate")
# Which process this is and where the first one is: that is what a launcher is for.
LAUNCHERS_OWN = ("coordinator_address", "num_processes", "process_id")
# What is checked of a job's settings when it starts, and can be checked before.
_JOB_FLAGS = ("start_timeout_seconds", "heartbeat_seconds", "control_port", "watchdog_seconds")
DEFAULT_PORT = 8476
_PROCESS_LIMIT = 100_000


class Command(NamedTuple):
    """A checked command line of ptft: its words, and the run folder that it names."""

    words: list[str]
    run_dir: str


def define_launch_flags(values: flags.FlagValues) -> None:
    """Defines what all launchers have; flags after the command's name belong to that command."""
    flags.DEFINE_bool(
        "dry_run", False, "Print what would run, and run nothing.", flag_values=values
    )
    # Parsing stops at the first word that is no flag, so `--` may also be left out.
    values.set_gnu_getopt(False)


def checked_command(
    launcher: str, words: Sequence[str], sets: Sequence[str] = LAUNCHERS_OWN
) -> Command:
    """Parses a command line of ptft as that command would, without running it.

    Args:
        launcher: name of the launching command, for the messages.
        words: the command and its flags.
        sets: the command's flags that the launcher sets.

    Raises:
        ConfigError: no command, one that runs in a single process only, or flags and config keys
            that the command would refuse.
    """
    example = f"ptft {launcher} … -- pretrain --config=FILE --run_dir=RUN"
    if not words:
        raise ConfigError(f"nothing to launch: expected a command after `--`, like {example}.")
    words = list(words)
    if words[0] not in COMMANDS:
        near = settings.nearest(words[0], COMMANDS)
        hint = f"; did you mean '{near}'?" if near else ""
        raise ConfigError(
            f"{words[0]!r} cannot be launched in several processes{hint} Expected one of "
            f"{', '.join(COMMANDS)} (without the word ptft), like {example}."
        )
    name, rest = cli.command_of(words)
    module = cli.module_of(name)
    values, positional = settings.parse(module.define_flags, rest, BY_COMMAND.get(name))
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


def check_count(flag: str, value: int, least: int = 1) -> None:
    """Raises ConfigError when a number of processes, nodes or devices cannot be."""
    if not least <= value <= _PROCESS_LIMIT:
        raise ConfigError(f"--{flag}={value}: expected from {least} to {_PROCESS_LIMIT}.")


def check_port(value: int) -> None:
    """Raises ConfigError when --port is none; 0 stands for a choice of ours."""
    if not 0 <= value < 65536:
        raise ConfigError(f"--port={value}: expected from 1 to 65535, or 0 for a free one.")


def script(name: str) -> Path:
    """Returns a file of `launch/`, which is a folder of the checkout, not of the package."""
    path = settings.ROOT / "launch" / name
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


def require_tool(name: str, how: str) -> None:
    """Raises ConfigError when a program is not on PATH, saying how to install it."""
    if shutil.which(name) is None:
        raise ConfigError(f"{name} is not on PATH: {how}")


def shown(command: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """Returns a command, and the variables set for it, in the form that a shell reads."""
    set_first = [f"{name}={shlex.quote(value)}" for name, value in (environment or {}).items()]
    return " ".join([*set_first, shlex.join(command)])


def replace_process(
    command: Sequence[str], environment: Mapping[str, str] | None = None
) -> NoReturn:
    """Becomes the given program, so that its signals and its exit code are this process's."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execvpe(command[0], list(command), {**os.environ, **(environment or {})})
