"""ptft launch slurm --nodes=2 --gpus_per_node=8 -- pretrain --config=FILE --run_dir=RUN

Submits a command as a SLURM job (launch/slurm.sbatch). What follows `--` is the command, as it
would be typed for one process; it is checked before it is queued.

Two minutes before the time limit the job saves and ends with exit code 75; it is then queued again
by itself, as after a hang, a lost process or node, or a death by a signal, and goes on from its
last checkpoint. Three such starts in a row without a new checkpoint end that. Further options of
sbatch: --sbatch="--qos=high --exclude=node7".
"""

import re
import shlex
from functools import partial

from absl import flags

from ptft_jax.commands.launch.command import (
    COUNT,
    NODES,
    checked_command,
    define_launch_flags,
    ptft_executable,
    script,
    start,
)
from ptft_jax.errors import ConfigError

_FLAGS = NODES | {
    "tasks_per_node": (COUNT, None, "Processes on each node; None: one for each GPU, at least 1."),
    "cpus_per_task": (COUNT, None, "CPU cores of each process; None: SLURM's."),
    "time": (str, None, "Time limit of one start, like 24:00:00."),
    "partition": (str, None, "Partition."),
    "account": (str, None, "Account."),
    "job_name": (str, None, "Name of the job and its log; None: the command's."),
    "sbatch": (str, "", "Further options of sbatch, in one string."),
}
define_flags = partial(define_launch_flags, _FLAGS)


def run(values: flags.FlagValues, words: list[str]) -> None:
    """Runs the command."""
    gpus = values.gpus_per_node
    tasks = values.tasks_per_node or max(1, gpus)
    if tasks != 1 and gpus not in (0, tasks):
        # One command line for all tasks cannot give each of them several.
        raise ConfigError(
            f"--tasks_per_node={tasks} --gpus_per_node={gpus}: expected one task for each GPU "
            f"(--tasks_per_node={gpus}), or one for all of a node (--tasks_per_node=1)."
        )
    words, _ = checked_command("launch slurm", words)
    given = {
        "nodes": values.nodes or 1,
        "ntasks-per-node": tasks,
        "gpus-per-node": gpus,
        "cpus-per-task": values.cpus_per_task,
        "time": values.time,
        "partition": values.partition,
        "account": values.account,
        "job-name": values.job_name or f"ptft-{words[0]}",
    }
    options = [f"--{name}={value}" for name, value in given.items() if value]
    try:
        options += shlex.split(values.sbatch)
    except ValueError as error:
        raise ConfigError(
            f"--sbatch={values.sbatch}: {error}; expected options as in a shell."
        ) from error
    # A task takes one GPU, by its local rank, unless it is told otherwise.
    told = any(re.match(r"--?local_device_ids(=|$)", word) for word in words)
    if tasks == 1 and gpus > 1 and not told:
        words.append(f"--local_device_ids={','.join(map(str, range(gpus)))}")
    submit = ["sbatch", *options, script("slurm.sbatch"), *words]
    hint = "run this on a login node of the cluster, or install it (Debian: slurm-client)."
    start(values, submit, {"PTFT": ptft_executable()}, tool="sbatch", install=hint)
