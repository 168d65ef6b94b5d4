"""ptft launch mpi --processes=8 --hosts=a:4,b:4 -- pretrain --config=FILE --run_dir=RUN

Runs a command under Open MPI (launch/mpi.sh). What follows `--` is the command, as it would be
typed for one process. Without --hosts or --hostfile all processes run on this machine. Several
processes on a host take one of its accelerators each. --pass_env=NAME,NAME hands environment
variables to processes on other hosts; on this one they have all of them.
"""

import re
from pathlib import Path

from absl import flags

from ptft_jax.commands.launch_command import (
    DEFAULT_PORT,
    check_count,
    check_port,
    checked_command,
    define_launch_flags,
    ptft_executable,
    replace_process,
    require_tool,
    script,
    shown,
)
from ptft_jax.commands.launch_local import free_port
from ptft_jax.errors import ConfigError

_HOST = re.compile(r"([\w.-]+)(?::([1-9]\d*))?")
_THIS_MACHINE = ("localhost", "127.0.0.1")


def define_flags(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    flags.DEFINE_integer("processes", 1, "How many processes to start.", flag_values=values)
    flags.DEFINE_list(
        "hosts", [], "HOST:SLOTS of each host; the first one runs process 0.", flag_values=values
    )
    flags.DEFINE_string("hostfile", None, "The same as a file of Open MPI.", flag_values=values)
    flags.DEFINE_integer(
        "port",
        0,
        f"Port of the first host at which the processes meet; 0: {DEFAULT_PORT}, or a free one "
        "when all are on this machine.",
        flag_values=values,
    )
    flags.DEFINE_list(
        "pass_env", [], "Names of environment variables for other hosts.", flag_values=values
    )
    define_launch_flags(values)


def run(values: flags.FlagValues, positional: list[str]) -> None:
    """Runs the command."""
    check_count("processes", values.processes)
    check_port(values.port)
    for name in values.pass_env:
        if not re.fullmatch(r"[A-Za-z_]\w*", name):
            raise ConfigError(
                f"--pass_env={name}: expected names of environment variables, not their values."
            )
    first, options = hosts_of(values.hosts, values.hostfile, values.processes)
    words = checked_command("launch mpi", positional).words
    port = values.port or (free_port() if first in _THIS_MACHINE else DEFAULT_PORT)
    command = [
        *("bash", str(script("mpi.sh")), f"--coordinator_address={first}:{port}"),
        *("-np", str(values.processes), *options),
        *(word for name in values.pass_env for word in ("-x", name)),
        *("--", *words),
    ]
    environment = {"PTFT": ptft_executable()}
    if values.dry_run:
        print(shown(command, environment))
        return
    require_tool("mpirun", "install Open MPI (Debian: openmpi-bin), or load the cluster's module.")
    replace_process(command, environment)


def hosts_of(hosts: list[str], hostfile: str | None, processes: int) -> tuple[str, list[str]]:
    """Returns the host of process 0, and mpirun's options for where the processes run.

    Raises:
        ConfigError: the hosts cannot be read, or have fewer slots than there are processes.
    """
    if hosts and hostfile:
        raise ConfigError("--hosts and --hostfile: expected one of them.")
    if hostfile:
        names = _first_words(hostfile)
        options = ["--hostfile", hostfile]
    elif hosts:
        matches = [_HOST.fullmatch(host) for host in hosts]
        for host, match in zip(hosts, matches, strict=True):
            if match is None:
                raise ConfigError(f"--hosts={host}: expected HOST or HOST:SLOTS, like node1:8.")
        slots = sum(int(match[2] or 1) for match in matches if match)
        if slots < processes:
            raise ConfigError(
                f"--processes={processes}: the hosts have {slots} slots; expected at most that "
                "many, or --hosts=HOST:SLOTS with more."
            )
        names = [match[1] for match in matches if match]
        options = ["--host", ",".join(hosts)]
    else:
        # Slots are counted in cores by default, and processes with accelerators need few of them.
        return _THIS_MACHINE[1], ["--oversubscribe"]
    if names[0] in _THIS_MACHINE and len(set(names)) > 1:
        raise ConfigError(
            f"{names[0]!r} is the first of several hosts, but the others cannot reach it by that "
            "name: expected its name in the network."
        )
    return names[0], options


def _first_words(hostfile: str) -> list[str]:
    try:
        lines = Path(hostfile).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigError(
            f"--hostfile={hostfile}: {error.strerror}; expected a file with a host on each line."
        ) from error
    words = [line.partition("#")[0].split() for line in lines]
    names = [found[0] for found in words if found]
    if not names:
        raise ConfigError(f"--hostfile={hostfile}: there is no host in it.")
    return names
