"""What the commands that train read from a command line, with the checks they share."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from absl import flags
from rich.console import Console

from ptft_jax.commands.screen import make_console, say
from ptft_jax.commands.train.job_flags import define_job_flags, job_of
from ptft_jax.commands.train.profiling import define_profile_flag, profile_of
from ptft_jax.errors import ConfigError
from ptft_jax.models.config import EncoderConfig
from ptft_jax.runs.config import Config
from ptft_jax.runs.folder import RunFolder
from ptft_jax.runs.start_checks import agree, software
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
    define_profile_flag(values)
    define_job_flags(values)


class Started(NamedTuple):
    """A command that trains, as its flags say.

    Attributes:
        folder, job: the run's folder, and the job of this process.
        allow: whether the run may go on with another config.
        profile: the updates to trace are those after the first number up to the second.
    """

    folder: RunFolder
    job: Job
    allow: bool
    profile: tuple[int, int] | None


@contextmanager
def started(values: flags.FlagValues, positional: list[str]) -> Iterator[Started]:
    """Joins the job of a command that trains; all its processes have agreed, and rewound if asked.

    Raises:
        ConfigError: no --run_dir, something else in its place, a stray argument, updates to trace
            that cannot be, or processes that differ in command line or software.
    """
    folder, profile = _folder(values, positional), profile_of(values.profile)
    with job_of(values) as job:
        names = ("run_dir", "init_from", "config_change", "rewind", "skip_batches", "profile")
        arguments = {name: values[name].value for name in names}
        config = values.config.to_dict()
        agree(job, "command line and software", {**arguments, "config": config, **software()})
        if values.rewind is not None:
            _rewind(job, folder, values.rewind, values.skip_batches)
        yield Started(folder, job, values.config_change == "allow", profile)


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
        rewound = rewind_once(folder.path, step, skip_batches)
        done = "went back to" if rewound else "has gone back before to"
        say(
            make_console(),
            f"{folder.path} {done} step {step}, leaving out {skip_batches} batches from there; its "
            "later checkpoints are set aside",
        )
    job.gather("rewound", None)


def say_changes(console: Console, changes: list[str]) -> None:
    """Says in which settings a run goes on otherwise than it was started."""
    for change in changes:
        say(console, f"changed since the run was started: {change}")


def check_length(config: Config, model: EncoderConfig) -> None:
    """Raises ConfigError when the sequences are longer than the position embeddings."""
    if config.max_seq_length > model.max_position_embeddings:
        raise ConfigError(
            f"--config.max_seq_length={config.max_seq_length}: the model has "
            f"{model.max_position_embeddings} positions (max_position_embeddings); shorten the "
            "sequences."
        )


def check_numbers(config: Config) -> None:
    """Raises ConfigError for a seed, intervals and sizes that cannot be."""
    if not 0 <= config.seed < 2**31:
        raise ConfigError(f"--config.seed={config.seed}: expected from 0 to {2**31 - 1}.")
    for name, least in (
        ("batch_size", 1),
        ("accumulate", 1),
        ("log_every", 1),
        ("keep_last", 1),
        ("max_skipped_in_row", 1),
        ("workers", 1),
        ("eval_every", 0),
        ("checkpoint_every", 0),
        ("eval_examples", 0),
        ("eval_batch_size", 1),
        ("steps", 0),
    ):
        value = config.get(name)
        if value is not None and value < least:
            raise ConfigError(f"--config.{name}={value}: expected at least {least}.")
    if config.get("epochs") is not None and not config.steps and not 0 < config.epochs < math.inf:
        raise ConfigError(f"--config.epochs={config.epochs}: expected a number above 0.")
    for bucket in config.get("length_buckets") or ():
        if not isinstance(bucket, int) or isinstance(bucket, bool) or bucket < 1:
            raise ConfigError(
                f"--config.length_buckets: {bucket!r} is no length; expected numbers of tokens, "
                "like (32,64,128)."
            )
