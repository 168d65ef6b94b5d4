"""What the commands that train read from a command line, with the checks they share."""

import re

from absl import flags

from ptft_jax.commands.screen import make_console, results_table, say
from ptft_jax.commands.train.job_flags import define_job_flags, job_of
from ptft_jax.commands.train.progress import ConsoleProgress
from ptft_jax.errors import ConfigError
from ptft_jax.runs.folder import RunFolder
from ptft_jax.runs.lock import check_free
from ptft_jax.runs.start_checks import agree, software
from ptft_jax.runs.train import train
from ptft_jax.training.checkpoints.rewind import rewind_once
from ptft_jax.training.cluster.job import Job


def define_training_flags(values: flags.FlagValues) -> None:
    """Defines the flags of every command that trains."""
    flags.DEFINE_string("run_dir", None, "Folder of the run.", flag_values=values)
    flags.DEFINE_string(
        "init_from",
        None,
        "Run or Hugging Face folder to start from; a run that has a checkpoint goes on from it.",
        flag_values=values,
    )
    flags.DEFINE_enum(
        "config_change",
        "refuse",
        ["refuse", "allow"],
        "Whether a run may go on with a config that differs from the one it was started with.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "rewind", None, "Go back to the checkpoint of this step, once.", flag_values=values
    )
    flags.DEFINE_integer(
        "skip_batches", 0, "Batches after --rewind that are left out.", flag_values=values
    )
    text = "START:STOP, like 100:103: traces the updates 101 to 103 into RUN/profile."
    flags.DEFINE_string("profile", None, text, flag_values=values)
    define_job_flags(values)


def trained(command: str, values: flags.FlagValues, positional: list[str]) -> RunFolder:
    """Trains as the flags say, in the job of this process, and returns the run's folder.

    All processes of the job have agreed on the flags before, and gone back if those say so.

    Raises:
        PtftError: see `ptft_jax.runs.train.train`; a ConfigError as well without --run_dir, with a
            stray argument, or where processes differ in command line or software.
    """
    folder, profile = _folder(values, positional), _profile(values.profile)
    with job_of(values) as job:
        names = ("run_dir", "init_from", "config_change", "rewind", "skip_batches", "profile")
        arguments = {name: values[name].value for name in names}
        config = values.config.to_dict()
        agree(job, "command line and software", {**arguments, "config": config, **software()})
        if values.rewind is not None:
            _rewind(job, folder, values.rewind, values.skip_batches)
        console = make_console()
        results = train(
            command,
            values.config,
            values.run_dir,
            values.init_from,
            job=job,
            watch=ConsoleProgress(console),
            allow_changes=values.config_change == "allow",
            profile=profile,
        )
        console.print(results_table(results))
    return folder


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


def _folder(values: flags.FlagValues, positional: list[str]) -> RunFolder:
    if positional:
        raise ConfigError(f"{positional[0]!r}: expected flags only, like --config.steps=100.")
    if not values.run_dir:
        raise ConfigError("--run_dir is missing: name the folder of the run.")
    if values.rewind is None and values.skip_batches:
        raise ConfigError(
            f"--skip_batches={values.skip_batches}: expected --rewind=STEP beside it."
        )
    folder = RunFolder(values.run_dir)
    folder.check_usable()
    return folder


def _rewind(job: Job, folder: RunFolder, step: int, skip_batches: int) -> None:
    """Rewinds a run, unless these very flags have done so before."""
    if job.is_first:
        check_free(folder.path)
        rewound = rewind_once(folder.path, step, skip_batches)
        done = "went back to" if rewound else "has gone back before to"
        say(
            make_console(),
            f"{folder.path} {done} step {step}, leaving out {skip_batches} batches from there; its "
            "later checkpoints are set aside",
        )
    job.gather("rewound", None)
