"""What the commands that train read from a command line, with the checks they share."""

import hashlib
import os
import platform
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import jax
from absl import flags
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ptft_jax.commands import screen
from ptft_jax.commands.parsing import config_of, required
from ptft_jax.commands.screen import flag, made, make_console, results_table, resume_command
from ptft_jax.commands.train.progress import ConsoleProgress
from ptft_jax.errors import ConfigError, StopError
from ptft_jax.runs.config import load_config
from ptft_jax.runs.folder import RunFolder
from ptft_jax.runs.train import train
from ptft_jax.training.cluster.agreement import agree, software
from ptft_jax.training.cluster.job import Job
from ptft_jax.training.cluster.start import JobConfig, join_job, process_map

_DEFAULTS = JobConfig()
# A longer process map is cut in the middle.
_SHOWN_PROCESSES = 16


_TEXTS = {
    "coordinator_address": "HOST:PORT of the first process; else from SLURM, Open MPI, TPU.",
    "local_device_ids": "Accelerators of this process, like 0,1; else those it is given.",
}
_NUMBERS = {
    "num_processes": "Number of processes of the job.",
    "process_id": "Which of them this is, from 0.",
    "start_timeout_seconds": "How long to wait for all processes.",
    "heartbeat_seconds": "How long a process may be silent before the others give it up.",
    "control_port": "Port of the first process for the control channel, 0 for any.",
    "watchdog_seconds": "Time without a step after which the run counts as hung, 0: never.",
}
JOB_FLAGS = (*_TEXTS, *_NUMBERS)


def command_for(arguments: Sequence[str]) -> str:
    """Returns the command whose config a command line names: finetune or pretrain."""
    file = config_of(arguments)
    return "pretrain" if file is not None and "masking" in load_config(file) else "finetune"


def define_training_flags(values: flags.FlagValues) -> None:
    """Defines the flags of every command that trains."""
    flags.DEFINE_string("run_dir", None, "Folder of the run.", flag_values=values)
    flags.DEFINE_string(
        "init_from",
        None,
        "Run, Hugging Face folder or name of a model on the Hub (perhaps with @REVISION) to start "
        "from; a run that has a checkpoint goes on from it.",
        flag_values=values,
    )
    flags.DEFINE_enum(
        "config_change",
        "refuse",
        ["refuse", "allow"],
        "Whether a run may go on with a config that differs from the one it was started with.",
        flag_values=values,
    )
    text = (
        "Stop after so many updates in all, or a share of them like 1/3: evaluated and saved, on "
    )
    text += "the schedule of the whole run, which goes on from there without this flag."
    flags.DEFINE_string("stop_at", None, text, flag_values=values)
    text = "START:STOP, like 100:103: traces the updates 101 to 103 into RUN/profile."
    flags.DEFINE_string("profile", None, text, flag_values=values)
    text = "Print what of each parameter would be trained, at which rate, and stop."
    flags.DEFINE_boolean("explain", False, text, flag_values=values)
    text = "Service that is told the run too; see docs/pretraining.md."
    flags.DEFINE_enum("track", None, ["wandb", "mlflow", "trackio"], text, flag_values=values)
    define_job_flags(values)


def define_series_flags(values: flags.FlagValues) -> None:
    """Defines the flags of a command that makes several runs."""
    text = "A run with each of these seeds, like 0,1,2, and a table of their scores."
    flags.DEFINE_list("seeds", [], text, flag_values=values)
    text = "How many of several runs at once; else one on each GPU."
    flags.DEFINE_integer("at_once", None, text, lower_bound=1, flag_values=values)


def trained(command: str, values: flags.FlagValues) -> RunFolder | None:
    """Trains as the flags say, in the job of this process.

    Returns the run's folder; None where it has stopped before its end, as --stop_at says, or was
    only explained.

    Raises:
        PtftError: see `ptft_jax.runs.train.train`; a ConfigError as well without --run_dir, or
            where processes differ in command line or software.
    """
    folder, profile = _folder(values), _profile(values.profile)
    stop_at = _stop_at(values.stop_at)
    with job_of(values) as job, screen.output_may_end():
        names = ("run_dir", "init_from", "config_change", "profile")
        arguments = {name: values[name].value for name in (*names, "stop_at", "track")}
        config = values.config.to_dict()
        agree(job, "command line and software", {**arguments, "config": config, **software()})
        console = make_console()
        if values.explain:
            from ptft_jax.commands.train.explain import explain

            explain(console, command, values.config, folder, values.init_from)
            return None
        try:
            results = train(
                command,
                values.config,
                values.run_dir,
                values.init_from,
                job=job,
                watch=ConsoleProgress(console),
                allow_changes=values.config_change == "allow",
                stop_at=stop_at,
                profile=profile,
                track=values.track,
            )
        except StopError:
            _stopped(console, command, folder, job)
            raise
        console.print(results_table(results))
        if stop_at is not None and not _has_ended(folder):
            _stopped(console, command, folder, job)
            return None
    return folder


def _has_ended(folder: RunFolder) -> bool:
    record = folder.record()
    stands = folder.checkpoints(record).choose(record.checkpoint)
    return folder.results().get("step") == stands


def _stopped(console: Console, command: str, folder: RunFolder, job: Job) -> None:
    """Prints the box of a run that is not at its end."""
    processes = job.process_count
    again, found = resume_command(command, folder.path), {"run": str(folder.path)}
    if processes > 1:  # by a launcher that is not known here
        found["start it again"] = f"by its launcher, in {processes} processes: {again}"
        again = ""
    made(console, "stopped", found, [again, f"ptft status {flag('run_dir', folder.path)}"])


def _profile(text: str | None) -> tuple[int, int] | None:
    """Returns START and STOP of --profile."""
    if text is None:
        return None
    form = re.fullmatch(r"(\d+):(\d+)", text, re.ASCII)
    start, stop = map(int, form.groups()) if form else (0, 0)
    if start >= stop:
        raise ConfigError(
            f"--profile={text}: expected START:STOP with START < STOP, both numbers of updates, "
            "like 100:103 for the updates 101 to 103."
        )
    return start, stop


def _stop_at(text: str | None) -> int | Fraction | None:
    """Returns the updates, or the share of them, that --stop_at names."""
    if text is None:
        return None
    form = re.fullmatch(r"([1-9]\d*)(?:/([1-9]\d*))?", text, re.ASCII)
    share = Fraction(int(form[1]), int(form[2])) if form and form[2] else None
    if form is None or (share is not None and share >= 1):
        raise ConfigError(
            f"--stop_at={text}: expected a number of updates, like 1000, or a share of them below "
            "1, like 1/3."
        )
    return int(form[1]) if share is None else share


def _folder(values: flags.FlagValues) -> RunFolder:
    required(values, "run_dir")
    folder = RunFolder(values.run_dir)
    folder.check_usable()
    return folder


def define_job_flags(values: flags.FlagValues) -> None:
    """Defines the flags."""
    for name, text in _TEXTS.items():
        flags.DEFINE_string(name, None, text, flag_values=values)
    for name, text in _NUMBERS.items():
        flags.DEFINE_integer(name, getattr(_DEFAULTS, name), text, flag_values=values)
    text = "Folder of compiled programs, or off; else in the user's cache folder."
    flags.DEFINE_string("compile_cache", None, text, flag_values=values)


@contextmanager
def job_of(values: flags.FlagValues) -> Iterator[Job]:
    """Joins the job that the flags or the launcher name, for as long as the context lasts.

    Raises:
        ConfigError: the flags do not fit together.
        PeerError: the other processes did not come.
    """
    config = JobConfig(
        coordinator_address=values.coordinator_address,
        num_processes=values.num_processes,
        process_id=values.process_id,
        local_device_ids=_device_ids(values.local_device_ids),
        start_timeout_seconds=values.start_timeout_seconds,
        heartbeat_seconds=values.heartbeat_seconds,
        control_port=values.control_port,
        watchdog_seconds=values.watchdog_seconds,
    )
    _keep_compiled_programs(values.compile_cache)
    with join_job(config) as job:
        if not job.is_first:
            screen.silence()
        if job.process_count > 1:
            _print_map(process_map(job))
        yield job


def _device_ids(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    parts = text.split(",")
    if not all(part.isdecimal() for part in parts):
        raise ConfigError(f"--local_device_ids={text}: expected numbers, like 0,1.")
    return tuple(map(int, parts))


def _keep_compiled_programs(folder: str | None) -> None:
    """Lets JAX keep what it compiles, so that a restart need not compile it again.

    Not in the run's folder: compiled programs are code, and a run is data that may be passed on.
    """
    if folder == "off":
        jax.config.update("jax_enable_compilation_cache", False)
        return
    if folder is None:
        if jax.config.jax_compilation_cache_dir:
            return  # the person's own setting
        cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        folder = f"{cache}/ptft_jax/xla"
    # Programs for the CPU use the instructions of the CPU that they were compiled on, and a home
    # folder is often shared by machines of several kinds.
    path = Path(folder).expanduser() / _cpu()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"--compile_cache={folder}: {error.strerror}; expected a folder that can be written, "
            "or off."
        ) from error
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def _cpu() -> str:
    """Returns a name for this kind of CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        kind = "".join(line for line in lines if line.startswith(("model name", "flags")))
    except OSError:
        kind = platform.processor()
    return f"{platform.machine()}-{hashlib.sha256(kind.encode()).hexdigest()[:12]}"


def _print_map(processes: list[dict]) -> None:
    table = Table("process", "host", "pid", "devices", box=SIMPLE_HEAD)
    half = _SHOWN_PROCESSES // 2
    for index, entry in enumerate(processes):
        if len(processes) > _SHOWN_PROCESSES and half <= index < len(processes) - half:
            if index == half:
                table.add_row("…", f"{len(processes) - 2 * half} more", "", "")
            continue
        devices = f"{entry['devices']} x {entry['kind']}"
        table.add_row(str(index), entry["host"], str(entry["pid"]), devices)
    screen.make_console().print(table)
