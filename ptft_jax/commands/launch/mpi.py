"""ptft launch mpi --processes=8 --hosts=a:4,b:4 -- pretrain --config=FILE --run_dir=RUN

Runs a command under Open MPI (launch/mpi.sh). What follows `--` is the command, as it would be
typed for one process. Without --hosts or --hostfile all processes run on this machine. Several
processes on a host take one of its accelerators each. --pass_env=NAME,NAME hands environment
variables to processes on other hosts; on this one they have all of them.
"""

import re
from pathlib import Path

from absl import flags

from ptft_jax.commands.launch.command import (
    DEFAULT_PORT,
    PORT,
    PROCESSES,
    checked_command,
    define_launch_flags,
    ptft_executable,
    script,
    start,
)
from ptft_jax.commands.launch.local import free_port
from ptft_jax.errors import ConfigError

_HOST = re.compile(r"([\w.-]+)(:[1-9]\d*)?")
_THIS_MACHINE = ("localhost", "127.0.0.1")
_FLAGS = PROCESSES | {
    "hosts": (list, [], "HOST:SLOTS of each host; the first one runs process 0."),
    "hostfile": (str, None, "The same as a file of Open MPI."),
    "port": (
        PORT,
        0,
        f"Port of the first host at which the processes meet; 0: {DEFAULT_PORT}, or a free one "
        "when all are on this machine.",
    ),
    "pass_env": (list, [], "Names of environment variables for other hosts."),
}


def define_flags(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    define_launch_flags(values, _FLAGS)


def run(values: flags.FlagValues, positional: list[str]) -> None:
    """Runs the command."""
    for name in values.pass_env:
        if not re.fullmatch(r"[A-Za-z_]\w*", name):
            raise ConfigError(
                f"--pass_env={name}: expected names of environment variables, not their values."
            )
    first, options = hosts_of(values.hosts, values.hostfile)
    words = checked_command("launch mpi", positional).words
    port = values.port or (free_port() if first in _THIS_MACHINE else DEFAULT_PORT)
    command = [
        *("bash", str(script("mpi.sh")), f"--coordinator_address={first}:{port}"),
        *("-np", str(values.processes), *options),
        *(word for name in values.pass_env for word in ("-x", name)),
        *("--", *words),
    ]
    hint = "install Open MPI (Debian: openmpi-bin), or load the cluster's module."
    start(values, command, {"PTFT": ptft_executable()}, tool="mpirun", install=hint)


def hosts_of(hosts: list[str], hostfile: str | None) -> tuple[str, list[str]]:
    """Returns the host of process 0, and mpirun's options for where the processes run.

    Raises:
        ConfigError: the hosts cannot be read, or the first has a name that the others do not know.
    """
    if hosts and hostfile:
        raise ConfigError("--hosts and --hostfile: expected one of them.")
    if hostfile:
        try:
            lines = Path(hostfile).read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise ConfigError(
                f"--hostfile={hostfile}: {error.strerror}; expected a file of hosts, one a line."
            ) from error
        names = [words[0] for line in lines if (words := line.partition("#")[0].split())]
        if not names:
            raise ConfigError(f"--hostfile={hostfile}: there is no host in it.")
        options = ["--hostfile", hostfile]
    elif hosts:
        for host in hosts:
            if not _HOST.fullmatch(host):
                raise ConfigError(f"--hosts={host}: expected HOST or HOST:SLOTS, like node1:8.")
        names = [host.partition(":")[0] for host in hosts]
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
