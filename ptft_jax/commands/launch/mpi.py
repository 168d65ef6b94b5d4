"""ptft launch mpi --processes=8 --hosts=a:4,b:4 -- pretrain --config=FILE --run_dir=RUN

Runs a command under Open MPI (launch/mpi.sh). What follows `--` is the command, as it would be
typed for one process. Without --hosts all processes run on this machine. Several processes on a
host take one of its accelerators each. --pass_env=NAME,NAME hands environment variables to
processes on other hosts; on this one they have all of them.
"""

import re
from functools import partial

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
from ptft_jax.commands.launch.local import HOST, free_port
from ptft_jax.errors import ConfigError

_FLAGS = PROCESSES | {
    "hosts": (list, [], "HOST:SLOTS of each host; the first one runs process 0."),
    "port": (PORT, 0, "Port at which the processes meet; 0: 8476, or a free one on this machine."),
    "pass_env": (list, [], "Names of environment variables for other hosts."),
}
define_flags = partial(define_launch_flags, _FLAGS)


def run(values: flags.FlagValues, words: list[str]) -> None:
    """Runs the command."""
    for name in values.pass_env:
        if not re.fullmatch(r"[A-Za-z_]\w*", name):
            raise ConfigError(
                f"--pass_env={name}: expected names of environment variables, not their values."
            )
    for host in values.hosts:
        if not re.fullmatch(r"[\w.-]+(:[1-9]\d*)?", host):
            raise ConfigError(f"--hosts={host}: expected HOST or HOST:SLOTS, like node1:8.")
    names = [host.partition(":")[0] for host in values.hosts] or [HOST]
    is_here = names[0] in ("localhost", HOST)
    if is_here and len(set(names)) > 1:
        raise ConfigError(
            f"{names[0]!r} is the first of several hosts, but the others cannot reach it by that "
            "name: expected its name in the network."
        )
    words, _ = checked_command("launch mpi", words)
    port = values.port or (free_port() if is_here else DEFAULT_PORT)
    # Slots are counted in cores by default, and processes with accelerators need few of them.
    places = ["--host", ",".join(values.hosts)] if values.hosts else ["--oversubscribe"]
    command = [
        *("bash", script("mpi.sh"), f"--coordinator_address={names[0]}:{port}"),
        *("-np", str(values.processes), *places),
        *(word for name in values.pass_env for word in ("-x", name)),
        *("--", *words),
    ]
    hint = "install Open MPI (Debian: openmpi-bin), or load the cluster's module."
    start(values, command, {"PTFT": ptft_executable()}, tool="mpirun", install=hint)
