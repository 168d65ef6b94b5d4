"""config.json of a run: what it was started with. Reading it needs no JAX."""

import dataclasses
from pathlib import Path
from typing import Any

from ptft_jax.data.foreign_files import read_json_object, refuse_ways_out
from ptft_jax.data.hub import ADAPTER_CONFIG
from ptft_jax.errors import ConfigError, DataError
from ptft_jax.models.config import EncoderConfig
from ptft_jax.training.resources.storage import json_ready

FORMAT = "ptft_jax run"
FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """The content of a run's config.json.

    Attributes:
        command: "pretrain", "finetune" or "import".
        config: the command's whole config, overrides applied, as JSON values.
        model: the resolved `EncoderConfig`, as JSON values.
        init_from: what the run started from, None for fresh parameters.
        labels: names of the classes in the order of their ids; None without classes.
        best: the metric that decides which checkpoint is best, by split ("dev_loss"), and whether
            "min" or "max" is good; None for a run that is not evaluated.
        pairs: whether the texts of the task are pairs; None where that is not known.
        problem_type: what a classification predicts (`objectives.classification`); None without.
        data: SHA-256 of what the run is trained and scored on, by name; {} for an imported run.
        frozen: SHA-256 of the parameters of `init_from` that the run leaves as they are; None where
            all are trained.
        origin: SHA-256 of the values of `init_from` that mixout mixes in, or that the encoder is
            pulled back to; None without.
        teacher: SHA-256 of the parameters of `config.teacher`; None without one.
        masked_lm: SHA-256 of the parameters of `config.augment.masked_lm`; None without one.
        randomness: the version of dropout's masks (`ptft_jax.models.dropout`); None for an imported
            run, and for one that was made before there were versions.
    """

    command: str
    config: dict[str, Any]
    model: dict[str, Any]
    init_from: str | None = None
    labels: tuple[str, ...] | None = None
    best: tuple[str, str] | None = None
    pairs: bool | None = None
    problem_type: str | None = None
    data: dict[str, str] = dataclasses.field(default_factory=dict)
    frozen: str | None = None
    origin: str | None = None
    teacher: str | None = None
    masked_lm: str | None = None
    randomness: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns the record as JSON values."""
        content = {"format": FORMAT, "format_version": FORMAT_VERSION}
        return json_ready(content | dataclasses.asdict(self))

    @property
    def checkpoint(self) -> str:
        """Which checkpoint stands for the run: the best one where patience ends it, else the last.

        Where a run ends early, the last one is by its own measure past the best.
        """
        return "best" if self.config.get("patience") else "last"

    @property
    def tasks(self) -> list[str]:
        """The tasks of several that the run has learned, the last one its own; [] of any other."""
        if self.config.get("task") != "several":
            return []
        from ptft_jax.data.tasks.several import SeveralSettings  # few runs are

        way, stage = (self.config["continual"][key] for key in ("way", "stage"))
        settings = SeveralSettings(tuple(self.config["tasks"]), way, stage)
        return [settings.tasks[number].partition("@")[0] for number in settings.stages]

    @property
    def encoder_config(self) -> EncoderConfig:
        """The model's config."""
        return EncoderConfig(**{**self.model, "heads": tuple(self.model["heads"])})

    @property
    def has_dropout(self) -> bool:
        """Whether the run's training depends on masks, of dropout or mixout."""
        config = self.encoder_config
        rates = config.hidden_dropout_prob, config.attention_probs_dropout_prob
        return any((*rates, config.classifier_dropout, self.config.get("mixout")))


def is_run(folder: Path, named: str) -> bool:
    """Says whether a folder holds a run; any other one with a config.json is Hugging Face's, as is
    one of an adapter.

    `named` is how it was given, for the ConfigError of a folder that is neither.
    """
    file = folder / "config.json"
    if (folder / ADAPTER_CONFIG).is_file():
        return False
    if not file.is_file():
        found = "the folder has no config.json" if folder.is_dir() else "there is no such folder"
        raise ConfigError(f"{named}: {found}; expected a run folder or a Hugging Face folder.")
    try:
        return read_json_object(file).get("format") == FORMAT
    except DataError:  # said where the folder is read
        return False


def read_record(run_dir: Path) -> RunRecord:
    """Reads RUN/config.json.

    Raises:
        ConfigError: there is no run, or it is of another format version.
        DataError: the file is damaged.
    """
    file = run_dir / "config.json"
    if not file.is_file():
        raise ConfigError(
            f"--run_dir={run_dir}: there is no run here (no config.json). Make one with "
            "`ptft pretrain`, `ptft finetune` or `ptft import`."
        )
    refuse_ways_out(run_dir)
    try:
        content = read_json_object(file, "bring it back from a copy of the run")
        if content.pop("format", None) != FORMAT:
            raise ConfigError(
                f"{file} is not the config of a ptft_jax run; a Hugging Face folder becomes one "
                "through `ptft import --hf_dir=… --run_dir=…`."
            )
        version = content.pop("format_version", None)
        if version != FORMAT_VERSION:
            raise ConfigError(f"{file}: run format {version!r}, expected {FORMAT_VERSION}.")
        for name in ("labels", "best"):
            content[name] = None if content[name] is None else tuple(content[name])
        record = RunRecord(**content)
        _ = record.encoder_config
        return record
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{file} is damaged: {error!r}") from error
