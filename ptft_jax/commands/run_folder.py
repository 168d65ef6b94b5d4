"""The folder of a run: what it was started with, and how to open it again.

config.json     command, config, model, labels (see `RunRecord`)
metrics.jsonl   one object per logged step
tensorboard/    the same for TensorBoard
checkpoints/    see `ptft_jax.training.checkpoints`
tokenizer/      tokenizer.json, vocab.txt and what Hugging Face needs beside them
results.json    the metrics of the finished run, by split
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from ptft_jax.commands.settings import Config, check_place, flatten
from ptft_jax.data.tokenizer import TextTokenizer
from ptft_jax.errors import ConfigError, DataError
from ptft_jax.models.build import Params, build_model
from ptft_jax.models.config import EncoderConfig
from ptft_jax.training.checkpoints import Checkpoints
from ptft_jax.training.writers import json_ready, write_atomically

FORMAT = "ptft_jax run"
FORMAT_VERSION = 1

# What marks a folder as something else, or as a run that has lost its config.json.
_FOREIGN = ("checkpoints", "metrics.jsonl", "results.json", "manifest.json", "model.safetensors")


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
        data: SHA-256 of what the run is trained and scored on, by name; {} for an imported run.
    """

    command: str
    config: dict[str, Any]
    model: dict[str, Any]
    init_from: str | None = None
    labels: tuple[str, ...] | None = None
    best: tuple[str, str] | None = None
    pairs: bool | None = None
    data: dict[str, str] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Returns the record as JSON values."""
        content = {"format": FORMAT, "format_version": FORMAT_VERSION}
        return json_ready(content | dataclasses.asdict(self))

    @property
    def encoder_config(self) -> EncoderConfig:
        """The model's config."""
        return EncoderConfig(**{**self.model, "heads": tuple(self.model["heads"])})


class RunFolder:
    """A run's folder; making the object touches nothing on disk."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.config_file = self.path / "config.json"
        self.tokenizer_dir = self.path / "tokenizer"
        self.results_file = self.path / "results.json"

    def exists(self) -> bool:
        """Says whether a run was started here."""
        return self.config_file.is_file()

    def has_checkpoint(self) -> bool:
        """Says whether the run has anything to go on from."""
        return self.exists() and self.checkpoints().latest_step() is not None

    def tokenizer(self) -> TextTokenizer:
        """Reads the run's tokenizer."""
        return TextTokenizer.load(self.tokenizer_dir)

    def check_usable(self) -> None:
        """Refuses a place where no run can be made.

        Raises:
            ConfigError: there is a file in the way, or a folder of another kind.
        """
        check_place("run_dir", self.path)
        foreign = [name for name in _FOREIGN if (self.path / name).exists()]
        if foreign and not self.exists():
            raise ConfigError(
                f"--run_dir={self.path} holds {foreign[0]} but no config.json of a run: expected "
                "a new folder or a run's folder; choose another, or remove this one."
            )

    def checkpoints(self, keep_last: int = 1, best: tuple[str, str] | None = None) -> Checkpoints:
        """Returns the run's checkpoints; the arguments matter for saving only."""
        return Checkpoints(self.path / "checkpoints", keep_last, best)

    def record(self) -> RunRecord:
        """Reads config.json.

        Raises:
            ConfigError: there is no run, or it is of another format version.
            DataError: the file is damaged.
        """
        if not self.exists():
            raise ConfigError(
                f"--run_dir={self.path}: there is no run here (no config.json). Make one with "
                "`ptft pretrain`, `ptft finetune` or `ptft import`."
            )
        try:
            content = json.loads(self.config_file.read_text(encoding="utf-8"))
            if content.pop("format", None) != FORMAT:
                raise ConfigError(
                    f"{self.config_file} is not the config of a ptft_jax run; a Hugging Face "
                    "folder becomes one through `ptft import --hf_dir=… --run_dir=…`."
                )
            version = content.pop("format_version", None)
            if version != FORMAT_VERSION:
                raise ConfigError(
                    f"{self.config_file}: run format {version!r}, expected {FORMAT_VERSION}."
                )
            for name in ("labels", "best"):
                content[name] = None if content[name] is None else tuple(content[name])
            record = RunRecord(**content)
            _ = record.encoder_config
            return record
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(f"{self.config_file} is damaged: {error!r}") from error

    def check_unchanged(self, record: RunRecord, *, allow: bool) -> None:
        """Refuses to go on with a run under another config.

        Raises:
            ConfigError: the record differs from the one that the run was started with, and
                `allow` is false.
        """
        if not self.exists() or allow:
            return
        there, now = (flatten(r.to_json()) for r in (self.record(), record))
        changes = [
            f"  {name}: {there.get(name)!r} in the run, {now.get(name)!r} now"
            for name in sorted(there.keys() | now.keys())
            if there.get(name) != now.get(name)
        ]
        if changes:
            raise ConfigError(
                f"--run_dir={self.path} holds a run that was started otherwise:\n"
                + "\n".join(changes)
                + "\nStart in another --run_dir, undo the changes, or go on with them by "
                "--config_change=allow."
            )

    def start(self, record: RunRecord, tokenizer: TextTokenizer) -> None:
        """Writes config.json and the tokenizer; the last thing to be called before training."""
        self.path.mkdir(parents=True, exist_ok=True)
        length = record.encoder_config.max_position_embeddings
        # Left alone in a run that goes on: a kill would leave half a tokenizer in a good run.
        if not self.exists() or self.tokenizer().sha256 != tokenizer.sha256:
            tokenizer.save(self.tokenizer_dir, model_max_length=length)
        # Last, so that whatever has a config.json is a whole run.
        write_atomically(self.config_file, json.dumps(record.to_json(), indent=2) + "\n")

    def results(self) -> dict[str, Any]:
        """Returns the content of results.json, {} before the run has finished.

        Raises:
            DataError: the file is damaged.
        """
        if not self.results_file.is_file():
            return {}
        try:
            return dict(json.loads(self.results_file.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise DataError(
                f"{self.results_file} is damaged ({error}): remove it, and `ptft evaluate` writes "
                "it again."
            ) from error


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """A run opened for reading: everything that evaluation, prediction and export need."""

    folder: RunFolder
    record: RunRecord
    config: Config
    model_config: EncoderConfig
    tokenizer: TextTokenizer
    step: int
    params: Params


def open_run(run_dir: str | Path, which: str = "last") -> TrainedRun:
    """Opens a run at one of its checkpoints, with its parameters on one device.

    Args:
        run_dir: the run's folder.
        which: "last", "best" or the number of a step.

    Raises:
        ConfigError: there is no such run or checkpoint.
        DataError: something in the folder is damaged.
    """
    folder = RunFolder(run_dir)
    record = folder.record()
    config = record.encoder_config
    with folder.checkpoints(best=record.best) as checkpoints:
        step = _choose(checkpoints, which)
        params = checkpoints.restore_params(step, build_model(config).abstract())
    return TrainedRun(
        folder=folder,
        record=record,
        config=ConfigDict(record.config),
        model_config=config,
        tokenizer=folder.tokenizer(),
        step=step,
        params=params,
    )


def _choose(checkpoints: Checkpoints, which: str) -> int:
    steps = checkpoints.all_steps()
    if not steps:
        raise ConfigError(f"{checkpoints.folder} holds no checkpoint yet: let the run save one.")
    if which == "last":
        return steps[-1]
    if which == "best":
        best = checkpoints.best_step()
        if best is None:
            raise ConfigError("--checkpoint=best: no checkpoint was evaluated; use 'last'.")
        return best
    if which.isdecimal() and int(which) in steps:
        return int(which)
    raise ConfigError(
        f"--checkpoint={which}: expected 'last', 'best' or one of {', '.join(map(str, steps))}."
    )


def host_params(params: Params) -> Params:
    """Copies parameters to NumPy arrays."""
    return jax.device_get(params)
