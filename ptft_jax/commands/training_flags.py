"""What the commands that train read from a command line, with the checks they share."""

import math

from absl import flags

from ptft_jax.commands.run_folder import RunFolder
from ptft_jax.commands.settings import Config
from ptft_jax.errors import ConfigError
from ptft_jax.models.config import EncoderConfig


def define_run_flags(values: flags.FlagValues) -> None:
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


def check_run_flags(values: flags.FlagValues, positional: list[str]) -> RunFolder:
    """Returns the run folder that the flags name.

    Raises:
        ConfigError: there is no --run_dir, something else is in its place, or a stray argument.
    """
    if positional:
        raise ConfigError(f"{positional[0]!r}: expected flags only, like --config.steps=100.")
    if not values.run_dir:
        raise ConfigError("--run_dir is missing: name the folder of the run.")
    folder = RunFolder(values.run_dir)
    folder.check_usable()
    return folder


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
