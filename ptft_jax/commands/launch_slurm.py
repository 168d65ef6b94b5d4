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

from absl import flags

from ptft_jax.commands.launch_command import (
    check_count,
    checked_command,
    define_launch_flags,
    ptft_executable,
    replace_process,
    require_tool,
    script,
    shown,
)
from ptft_jax.errors import ConfigError

# Flags that are sbatch's own options, by name.
_PASSED_ON = ("time", "partition", "account")


def define_flags(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    flags.DEFINE_integer("nodes", 1, "How many nodes.", flag_values=values)
    flags.DEFINE_integer(
        "tasks_per_node",
        None,
        "Processes on each node; None: one for each GPU, one where there are none.",
        flag_values=values,
    )
    flags.DEFINE_integer("gpus_per_node", 0, "GPUs on each node.", flag_values=values)
    flags.DEFINE_integer(
        "cpus_per_task", None, "CPU cores of each process; None: SLURM's.", flag_values=values
    )
    flags.DEFINE_string("time", None, "Time limit of one start, like 24:00:00.", flag_values=values)
    flags.DEFINE_string("partition", None, "Partition.", flag_values=values)
    flags.DEFINE_string("account", None, "Account.", flag_values=values)
    flags.DEFINE_string(
        "job_name", None, "Name of the job and its log; None: the command's.", flag_values=values
    )
    flags.DEFINE_string(
        "sbatch", "", "Further options of sbatch, in one string.", flag_values=values
    )
    define_launch_flags(values)


def run(values: flags.FlagValues, positional: list[str]) -> None:
    """Runs the command."""
    check_count("nodes", values.nodes)
    check_count("gpus_per_node", values.gpus_per_node, least=0)
    if values.cpus_per_task is not None:
        check_count("cpus_per_task", values.cpus_per_task)
    tasks = values.tasks_per_node
    if tasks is None:
        tasks = max(1, values.gpus_per_node)
    check_count("tasks_per_node", tasks)
    command = checked_command("launch slurm", positional)
    options = [f"--nodes={values.nodes}", f"--ntasks-per-node={tasks}"]
    if values.gpus_per_node:
        options.append(f"--gpus-per-node={values.gpus_per_node}")
    if values.cpus_per_task is not None:
        options.append(f"--cpus-per-task={values.cpus_per_task}")
    options += [f"--{name}={values[name].value}" for name in _PASSED_ON if values[name].value]
    options.append(f"--job-name={values.job_name or f'ptft-{command.words[0]}'}")
    try:
        options += shlex.split(values.sbatch)
    except ValueError as error:
        raise ConfigError(
            f"--sbatch={values.sbatch}: {error}; expected options as in a shell."
        ) from error
    words = list(command.words)
    if not any(re.match(r"--?local_device_ids(=|$)", word) for word in words):
        words += local_devices(tasks, values.gpus_per_node)
    submit = ["sbatch", *options, str(script("slurm.sbatch")), *words]
    environment = {"PTFT": ptft_executable()}
    if values.dry_run:
        print(shown(submit, environment))
        return
    require_tool(
        "sbatch", "run this on a login node of the cluster, or install it (Debian: slurm-client)."
    )
    replace_process(submit, environment)


def local_devices(tasks: int, gpus: int) -> list[str]:
    """Returns the flag that gives each task its GPUs, where it is not one GPU by local rank.

    Raises:
        ConfigError: several tasks of a node with several GPUs each, which one command line for
            all tasks cannot say.
    """
    if gpus in (0, tasks):
        return []
    if tasks == 1:
        return [f"--local_device_ids={','.join(map(str, range(gpus)))}"]
    raise ConfigError(
        f"--tasks_per_node={tasks} --gpus_per_node={gpus}: expected one task for each GPU "
        f"(--tasks_per_node={gpus}), or one for all of a node (--tasks_per_node=1)."
    )
