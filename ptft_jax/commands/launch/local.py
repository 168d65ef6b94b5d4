"""ptft launch local --processes=2 -- pretrain --config=FILE --config.data_dir=DATA --run_dir=RUN

Starts a command in several processes on this machine, shows their output and watches over them.
What follows `--` is the command, as it would be typed for one process.

The output of process 0 is shown as it is; of the others, what goes to standard error, behind their
number. RUN/logs/process-00003.log gets all of a process's output. SIGTERM or Ctrl-C lets the job
save and stop. When a process fails, the others get --grace_seconds to end by themselves; the exit
code is that of the first one that failed, 128 + n for a death by signal n.
"""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping

from absl import flags

from ptft_jax.commands.launch.command import (
    COUNT,
    COUNT_OR_NONE,
    LAUNCHERS_OWN,
    PORT,
    PROCESSES,
    checked_command,
    define_launch_flags,
    shown,
)
from ptft_jax.commands.launch.supervisor import Start, supervise
from ptft_jax.errors import ConfigError

HOST = "127.0.0.1"
_FLAGS = PROCESSES | {
    "devices_per_process": (COUNT, None, "None: one on a CPU, an equal share of the GPUs."),
    "port": (PORT, 0, "Port at which the processes meet; 0: a free one."),
    "restarts": (
        COUNT_OR_NONE,
        0,
        "How often to start all processes again after one was killed, hung, lost or told to stop.",
    ),
    "grace_seconds": (COUNT_OR_NONE, 15, "How long the others may outlive one that has failed."),
}


def define_flags(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    text = "auto: the GPUs that are visible here, the CPU where there are none."
    flags.DEFINE_enum("platform", "auto", ["auto", "cpu", "gpu"], text, flag_values=values)
    define_launch_flags(_FLAGS, values)


def run(values: flags.FlagValues, words: list[str]) -> None:
    """Runs the command."""
    # Each process sees its own devices only, so there is nothing to choose among.
    own = (*LAUNCHERS_OWN, "local_device_ids")
    given, run_dir = checked_command("launch local", words, own)
    devices = split_devices(values.platform, values.processes, values.devices_per_process)
    words = [sys.executable, "-m", "ptft_jax", *given]

    def make_starts() -> list[Start]:
        address = f"{HOST}:{values.port or free_port()}"
        job = [f"--coordinator_address={address}", f"--num_processes={values.processes}"]
        return [
            Start([*words, *job, f"--process_id={process}"], environment)
            for process, environment in enumerate(devices)
        ]

    if values.dry_run:
        for start in make_starts():
            print(shown(start.command, start.environment), "&")
        print("wait")
        return
    supervise(
        make_starts,
        run_dir=run_dir,
        restarts=values.restarts,
        grace_seconds=values.grace_seconds,
    )


def split_devices(
    platform: str,
    processes: int,
    per_process: int | None,
    environment: Mapping[str, str] = os.environ,
) -> list[dict[str, str]]:
    """Returns the variables that give each process its devices.

    Raises:
        ConfigError: there are not that many GPUs, or they cannot be shared out equally.
    """
    if platform == "auto" and environment.get("JAX_PLATFORMS") == "cpu":
        platform = "cpu"
    gpus = [] if platform == "cpu" else _visible_gpus(environment)
    if platform == "gpu" and not gpus:
        raise ConfigError(
            "--platform=gpu: no GPU is visible here (nvidia-smi, CUDA_VISIBLE_DEVICES); expected "
            "at least one, or --platform=cpu."
        )
    if not gpus:
        devices = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(per_process or 1)}
        return [devices] * processes
    share = per_process or len(gpus) // processes
    fits = share * processes <= len(gpus) if per_process else share * processes == len(gpus)
    if not (share and fits):
        raise ConfigError(
            f"--processes={processes} --devices_per_process={per_process or 'equal shares'}: there "
            f"are {len(gpus)} visible GPUs; expected what divides or fits them, or --platform=cpu."
        )
    return [
        {"JAX_PLATFORMS": "cuda", "CUDA_VISIBLE_DEVICES": ",".join(gpus[start : start + share])}
        for start in range(0, processes * share, share)
    ]


def _visible_gpus(environment: Mapping[str, str]) -> list[str]:
    """Returns the names (numbers or UUIDs) of the GPUs that a program here would see."""
    chosen = environment.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name for part in chosen.split(",") if (name := part.strip()) not in ("", "-1")]
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    found = subprocess.run(query, capture_output=True, text=True, check=False)
    return [] if found.returncode else found.stdout.split()


def free_port() -> int:
    """Returns a port of this machine that nobody uses at this moment."""
    with socket.create_server((HOST, 0)) as server:
        return server.getsockname()[1]
