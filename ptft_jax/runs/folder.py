"""The folder of a run: what it was started with, and how to open it again.

config.json     command, config, model, labels (see `RunRecord`)
metrics.jsonl   one object per logged step
tensorboard/    the same for TensorBoard, a folder per split
checkpoints/    see `ptft_jax.training.checkpoints.store`
tokenizer/      tokenizer.json, vocab.txt and what Hugging Face needs beside them
results.json    the metrics of the finished run, by split
report.html     what they are made of, if it was fine-tuned
tracking.json   its ids in tracking services, if it is told to any
changes.jsonl   with which changes it went on, and from which step, if it did
"""

import dataclasses
import json
import os
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from ptft_jax.data.foreign_files import read_json_object
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
from ptft_jax.errors import ConfigError, DataError, not_finite
from ptft_jax.models.build import Params, build_model
from ptft_jax.models.config import EncoderConfig
from ptft_jax.runs.config import Config, check_place, flatten
from ptft_jax.runs.record import RunRecord, read_record
from ptft_jax.training.checkpoints.store import Checkpoints
from ptft_jax.training.cluster.agreement import Gather, alone
from ptft_jax.training.resources.storage import storing, write_atomically

# Keys that decide how a run is computed or shown, but not what: they may change when it goes on.
_EXECUTION = ("attention", "fused", "remat", "unroll")
_FREE = (
    *(f"{section}.{key}" for section in ("model", "config.model") for key in _EXECUTION),
    *("config.mesh.", "config.accumulate", "config.eval_batch_size", "config.workers"),
    *("config.log_every", "config.keep_last", "config.checkpoint_every"),
    # The data itself is compared by its SHA-256.
    "config.data_dir",
    # And the teacher, and what refills texts, by their own.
    "config.teacher",
    "config.augment.masked_lm",
    # What another version of dropout's masks may not do is said where it is refused.
    "randomness",
)
# Keys of the model that decide what its parameters are: another run has to share them for its
# parameters to fit and to mean the same.
SHAPE_KEYS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "type_vocab_size",
    "vocab_size_multiple",
    "pad_token_id",
    "hidden_act",
    "layer_norm_eps",
)
# What can never change within a run: the checkpoints would mean something else.
_FIXED = (
    "command",
    "pairs",
    "config.optimizer.name",
    "labels",
    "model.heads",
    "model.num_labels",
    "model.adapter",
)
# Of what is trained there are moments.
_FIXED += ("config.trainable", "config.optimizer.rules", "config.reinit_layers", "frozen")
_FIXED += ("config.init_layers", "teacher", "masked_lm")
# An average is of all updates.
_FIXED += ("config.ema",)
# Of which a position in the data is a multiple.
_FIXED += tuple(f"config.episode.{key}" for key in ("n_way", "k_shot", "queries", "na_rate"))
_FIXED += tuple(f"model.{key}" for key in SHAPE_KEYS)

# What there may be in a run's folder before its config.json: what a start that was killed has made,
# and the logs of a launcher or scheduler.
_BEFORE = re.compile(
    r"\.|(lock|logs|lost\+found|status|tokenizer|tensorboard|events\.jsonl)$|.*\.(out|err|log)$"
)


# Paths that Orbax and TensorStore read otherwise than they write them: a pattern, an escape, a URL.
_UNREADABLE = re.compile(r"\[.*\]|\\|gs:/")


class RunFolder:
    """A run's folder; making the object touches nothing on disk. A leading ~ is the home folder."""

    def __init__(self, path: str | Path):
        self.path = Path(os.path.expanduser(path))
        self.config_file = self.path / "config.json"
        self.tokenizer_dir = self.path / "tokenizer"
        self.results_file = self.path / "results.json"
        self.report_file = self.path / "report.html"

    def exists(self) -> bool:
        """Says whether a run was started here."""
        return self.config_file.is_file()

    def has_checkpoint(self) -> bool:
        """Says whether the run has anything to go on from."""
        return self.last_step() is not None

    def last_step(self) -> int | None:
        """Returns the step of the last checkpoint; None where there is none."""
        return self.checkpoints().latest_step() if self.exists() else None

    def tokenizer(self) -> TextTokenizer:
        """Reads the run's tokenizer."""
        return TextTokenizer.load(self.tokenizer_dir)

    def check_usable(self) -> None:
        """Refuses a place where no run can be made.

        Raises:
            ConfigError: there is a file in the way, or a folder of another kind.
        """
        check_place("run_dir", self.path)
        self.check_name()
        if self.exists() or not self.path.exists():
            return
        foreign = sorted(name for name in os.listdir(self.path) if not _BEFORE.match(name))
        if foreign:
            raise ConfigError(
                f"--run_dir={self.path} holds {foreign[0]} but no config.json of a run: expected "
                "a new folder or a run's folder; choose another, or remove this one."
            )

    def check_name(self) -> None:
        """Raises ConfigError for a path from which checkpoints could not be read again."""
        path = str(self.path.absolute())
        try:
            path.encode()
            found = _UNREADABLE.search(path)
        except UnicodeEncodeError:
            raise ConfigError(
                f"--run_dir={path!r} is not UTF-8: expected a path that is; rename the folder."
            ) from None
        if found:
            raise ConfigError(
                f"--run_dir={path}: checkpoints cannot be read again from a path with "
                f"{found.group()!r} in it; expected one without [...], backslash and gs:/; rename "
                "the folder."
            )

    def checkpoints(
        self,
        record: RunRecord | None = None,
        tokenizer: TextTokenizer | None = None,
        keep_last: int = 1,
        gather: Gather = alone,
    ) -> Checkpoints:
        """Returns the run's checkpoints: with its record to find the best, with all to save."""
        return Checkpoints(
            self.path / "checkpoints",
            keep_last,
            record and record.best,
            gather,
            record and record.to_json(),
            tokenizer and json.loads(tokenizer.json),
        )

    def record(self) -> RunRecord:
        """Reads config.json; see `read_record`."""
        return read_record(self.path)

    def check_unchanged(
        self, record: RunRecord, tokenizer: TextTokenizer, *, allow: bool
    ) -> list[str]:
        """Refuses to go on with a run under another config.

        Args:
            record: what the run is to be from now on.
            tokenizer: of the data.
            allow: whether anything that a run can take over may differ.

        Returns:
            The changes that are taken over, each in words.

        Raises:
            ConfigError: the record differs from the one that the run was started with in more than
                it may, or the run's dropout was of another version.
            DataError: the run's tokenizer is missing or damaged.
        """
        if not self.exists():
            return []
        before = self.record()
        if self.has_checkpoint():
            self._check_randomness(before, record)
        changes = _differences(before, record)
        if not self.tokenizer_dir.is_dir():
            raise DataError(
                f"{self.tokenizer_dir} is missing: expected the tokenizer that the run was started "
                "with; copy it back from another copy of the run."
            )
        fixed = [change for name, change in changes.items() if name.startswith(_FIXED)]
        own = self.tokenizer().sha256
        if own != tokenizer.sha256:
            fixed.append(
                f"tokenizer: SHA-256 {own[:12]} in the run, {tokenizer.sha256[:12]} in the data "
                "now, so token ids would mean other words"
            )
        free = (*_FREE, *_FIXED)
        asked = [change for name, change in changes.items() if not name.startswith(free)]
        if fixed or (asked and not allow):
            listed = "\n".join(f"  {change}" for change in (*fixed, *asked))
            mend = (
                "These can never change within a run: start in another --run_dir (its --init_from "
                "may name this run), or undo the changes."
                if fixed
                else "Start in another --run_dir, undo the changes, or go on with them by "
                "--config_change=allow."
            )
            raise ConfigError(
                f"--run_dir={self.path} holds a run that was started otherwise:\n{listed}\n{mend}"
            )
        return list(changes.values())

    def _check_randomness(self, before: RunRecord, now: RunRecord) -> None:
        drops = before.has_dropout and now.has_dropout
        if drops and before.randomness != now.randomness:
            raise ConfigError(
                f"--run_dir={self.path} was trained with dropout of version "
                f"{before.randomness or '(none recorded)'}, and this version of ptft_jax has "
                f"{now.randomness}: from its checkpoint on it would drop other activations, and no "
                "longer be the run that it was. Continue it with the version of ptft_jax that made "
                "it, or start a new run from its weights: another --run_dir with "
                f"--init_from={self.path}."
            )

    def start(self, record: RunRecord, tokenizer: TextTokenizer) -> None:
        """Writes config.json and the tokenizer; the last thing to be called before training.

        Where a run goes on with other settings, the change is added to changes.jsonl first.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        self._note_changes(record)
        length = record.encoder_config.max_position_embeddings
        # Left alone in a run that goes on: a kill would leave half a tokenizer in a good run.
        if not self.exists() or self.tokenizer().sha256 != tokenizer.sha256:
            tokenizer.save(self.tokenizer_dir, model_max_length=length)
        # Last, so that whatever has a config.json is a whole run.
        write_atomically(self.config_file, json.dumps(record.to_json(), indent=2) + "\n")

    def _note_changes(self, record: RunRecord) -> None:
        step = self.last_step()
        if step is None:
            return
        # Paths say something about a machine, and what is free nothing about the model.
        left_out = (*_FREE, "init_from")
        changes = _differences(self.record(), record)
        kept = [change for name, change in changes.items() if not name.startswith(left_out)]
        if kept:
            path = self.path / "changes.jsonl"
            with storing(path), path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, "changes": kept}) + "\n")

    def changes(self) -> list[dict[str, Any]]:
        """Returns what has changed within the run, {"step": …, "changes": […]} for each time."""
        path = self.path / "changes.jsonl"
        if not path.is_file():
            return []
        try:
            return [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        except ValueError as error:
            raise DataError(f"{path} is damaged ({error}): remove it") from error

    def results(self) -> dict[str, Any]:
        """Returns the content of results.json, {} before the run has finished.

        Raises:
            DataError: the file is damaged.
        """
        if not self.results_file.is_file():
            return {}
        mend = "remove it, and `ptft evaluate` writes it again"
        return read_json_object(self.results_file, mend)

    def finished(
        self, record: RunRecord, steps: int, latest: int | None, scored: int | None
    ) -> dict[str, Any] | None:
        """Returns the results of a run that this very command has brought to its end, else None.

        Args:
            record: what the run is to be.
            steps: how long it is to be.
            latest: the step of its last checkpoint.
            scored: the step whose metrics are its results.

        Raises:
            ConfigError: the run has made more updates than it is asked for.
        """
        if not self.exists():
            return None
        if latest is not None and latest > steps:
            raise ConfigError(
                f"--run_dir={self.path} has made {latest} updates already: expected steps of at "
                f"least {latest} (now {steps}), or another --run_dir."
            )
        results = self.results()
        same = self.record().to_json() == record.to_json()
        if not same or latest != steps or results.pop("step", None) != scored:
            return None
        return results


def _differences(before: RunRecord, now: RunRecord) -> dict[str, str]:
    """Returns the settings in which two records differ, by name, each in words."""
    there, here = (flatten(record.to_json()) for record in (before, now))
    names = sorted(n for n in there.keys() | here.keys() if there.get(n) != here.get(n))
    return {n: f"{n}: {there.get(n)!r} in the run, {here.get(n)!r} now" for n in names}


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


def open_run(run_dir: str | Path, which: str | None = None) -> TrainedRun:
    """Opens a run at one of its checkpoints, with its parameters on one device.

    Args:
        run_dir: the run's folder.
        which: "last", "best" or the number of a step; None: the one that stands for the run, see
            `RunRecord.checkpoint`.

    Raises:
        ConfigError: there is no such run or checkpoint.
        DataError: something in the folder is damaged, or a parameter is not finite.
    """
    folder = RunFolder(run_dir)
    record = folder.record()
    folder.check_name()
    # What computes the model is decided where it is read: a run made on a GPU goes on anywhere.
    config = record.encoder_config.replace(attention="auto", fused="auto")
    with folder.checkpoints(record) as checkpoints:
        step = checkpoints.choose(which or record.checkpoint)
        params = _all_params(checkpoints, step, record, str(run_dir))
    for path, value in jax.tree_util.tree_leaves_with_path(host_params(params)):
        if not np.isfinite(value).all():
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            raise not_finite(f"{run_dir}, step {step}: parameter {name} is")
    return TrainedRun(
        folder=folder,
        record=record,
        config=ConfigDict(record.config),
        model_config=config,
        tokenizer=folder.tokenizer(),
        step=step,
        params=params,
    )


def _all_params(checkpoints: Checkpoints, step: int, record: RunRecord, where: str) -> Params:
    """Returns the parameters of a checkpoint, with those of its base where some are frozen."""
    model = build_model(record.encoder_config)
    if record.frozen is None:
        return checkpoints.restore_params(step, model.abstract())
    from ptft_jax.runs.start.partly_trained import PartlyTrained, base_of

    base = base_of(record, where)
    config = ConfigDict(record.config)
    trainable = PartlyTrained(config, model, base.params, record.init_from, record)
    return trainable.whole(checkpoints.restore_params(step, trainable.of(model.abstract())))


def host_params(params: Params) -> Params:
    """Copies parameters to NumPy arrays."""
    return jax.device_get(params)
