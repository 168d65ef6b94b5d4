"""Fine-tuning, whatever the kind of task: its splits, its starting point, its evaluation."""

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import numpy as np
from jax.sharding import Mesh

from ptft_jax.data.batches import Examples, by_length, evaluation_batches
from ptft_jax.data.tasks.catalogue import load_task
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
from ptft_jax.errors import ConfigError, DataError
from ptft_jax.models.build import Model, Params
from ptft_jax.models.config import LINEAR_HEADS, EncoderConfig
from ptft_jax.objectives.totals import ScoringObjective
from ptft_jax.runs.config import Config
from ptft_jax.runs.folder import RunFolder
from ptft_jax.runs.kinds.kind import Evaluate, Kind, check_loss, naming
from ptft_jax.runs.phases import PhaseConfig
from ptft_jax.runs.starting_point import StartingPoint, load_starting_point
from ptft_jax.training.cluster.job import Job
from ptft_jax.training.evaluation import evaluate_with_outputs
from ptft_jax.training.loop import until_stopped
from ptft_jax.training.mesh import process_rows, put_batch
from ptft_jax.training.step import make_scoring_step


class FineTuning(Kind):
    """A run on a task; see `Kind`. A kind of task is a class below this one.

    Attributes:
        head: the head of `models.config.LINEAR_HEADS` that it trains.
        task: the loaded task: `name`, `splits`, `label_names`, `metrics` (the first decides which
            checkpoint is best), `eval_splits` (scored in training, the first decides).
    """

    head: ClassVar[str]

    def __init__(self, config: Config):
        self.config = config
        self._found: dict[str, str | None] = {}
        self.task = load_task(config.task, config.data_dir, self.settings(config))
        for name in ("train", *self.task.eval_splits):
            split = self.task.splits[name]
            if not split.labelled:
                use = "learn from" if name == "train" else "score against"
                raise DataError(f"{split.source} has no labels to {use}; expected one for each row")
        self.labels = self.task.label_names
        self.best = (f"{self.task.eval_splits[0]}_{self.task.metrics[0]}", "max")
        self.fingerprints = {
            name: self.task.splits[name].fingerprint() for name in ("train", *self.task.eval_splits)
        }
        self._train: Any = None
        self._count(len(self.task.splits["train"]))

    def _count(self, rows: int) -> None:
        """Sets how long the run is, from the rows of an epoch."""
        config = self.config
        per_epoch = math.ceil(rows / config.batch_size)
        steps = config.steps or math.ceil(config.epochs * rows / config.batch_size)
        self.phases = [PhaseConfig(0, steps, config)]
        every = config.eval_every, config.checkpoint_every
        self.eval_every, self.checkpoint_every = (per_epoch if n is None else n for n in every)

    # What a kind of task has of its own.

    @abstractmethod
    def settings(self, config: Config) -> Any:
        """Returns what the task's `load` takes of the config."""

    @abstractmethod
    def make_examples(self, split: Any, tokenizer: TextTokenizer, **more: Any) -> Any:
        """Returns the examples of a split of the task.

        `more` are `seed` and `shuffle` for training. They have `buckets`, the lengths of their
        rows, and `num_truncated`, how many of the split did not fit into the longest.
        """

    @abstractmethod
    def objective(self, model: EncoderConfig) -> ScoringObjective:
        """Returns what a model is trained for."""

    @abstractmethod
    def score(
        self, split: Any, examples: Any, outputs: Mapping[str, np.ndarray]
    ) -> dict[str, float]:
        """Returns the task's metrics, from the objective's outputs for all rows in order.

        Raises DataError for outputs that are not finite.
        """

    def finding(self, split: Any, outputs: Mapping[str, np.ndarray]) -> str | None:
        """Returns what to know about outputs that can be scored but say little; None: nothing."""
        return None

    @property
    def num_labels(self) -> int:
        """The width of a head that depends on the task."""
        return len(self.labels or ("score",))

    @property
    def heads(self) -> tuple[str, ...]:
        """All heads of the model."""
        return ("pooler", self.head) if LINEAR_HEADS[self.head].pooled else (self.head,)

    # What is the same for all.

    def starting_point(self, init_from: str | None, run: RunFolder | None) -> StartingPoint:
        """Takes sizes and tokenizer from the source; the config changes no shape.

        With the tokenizer it is known into how many rows the examples are cut.
        """
        if init_from is None:
            raise ConfigError("--init_from is missing: name a run or a Hugging Face folder.")
        if run is not None:
            config = run.record().encoder_config.replace(num_labels=self.num_labels)
            found = StartingPoint({}, config, run.tokenizer())
        else:
            found = load_starting_point(
                init_from, self.heads, labels=self.labels, num_labels=self.num_labels
            )
        changes = {name: value for name, value in self.config.model.items() if value is not None}
        train, seed = self.task.splits["train"], self.config.seed
        self._train = self.make_examples(train, found.tokenizer, seed=seed, shuffle=True)
        self._count(len(self._train))
        return dataclasses.replace(found, config=found.config.replace(**changes))

    def examples(self, phase: PhaseConfig, tokenizer: TextTokenizer) -> Any:
        return self._train

    def scored(
        self, phase: PhaseConfig, tokenizer: TextTokenizer, split: str | None = None
    ) -> dict[str, Examples]:
        splits = self.task.splits
        if split is not None and (split not in splits or not splits[split].labelled):
            labelled = [name for name in splits if splits[name].labelled]
            raise ConfigError(
                f"split={split!r} has no labels to score against here: expected one of "
                f"{', '.join(labelled)}; `ptft predict` labels a file."
            )
        names = self.task.eval_splits if split is None else (split,)
        return {name: self.make_examples(splits[name], tokenizer) for name in names}

    def evaluate(
        self,
        model: Model,
        phase: PhaseConfig,
        splits: Mapping[str, Any],
        mesh: Mesh,
        job: Job,
    ) -> Evaluate:
        """Returns the function from parameters to {split: {loss, the task's metrics}}."""
        config = phase.config
        batch_size = config.eval_batch_size or config.batch_size // config.accumulate
        step = make_scoring_step(model, self.objective(model.config))
        rows = process_rows(mesh, batch_size)
        put: Any = partial(put_batch, mesh=mesh)

        def score(params: Params, name: str) -> dict[str, float]:
            split, order = self.task.splits[name], by_length(splits[name])
            batches = evaluation_batches(splits[name], batch_size, rows, order=order)
            means, found = evaluate_with_outputs(step, params, until_stopped(batches, job), put)
            outputs = {key: values[np.argsort(order)] for key, values in found.items()}
            scores = self.score(split, splits[name], outputs)
            check_loss(means["loss"])
            self._found[name] = self.finding(split, outputs)
            return {"loss": means["loss"], **scores}

        def run(params: Params) -> dict[str, dict[str, float]]:
            results = {}
            for name in splits:
                with naming(name):
                    results[name] = score(params, name)
            return results

        return run

    def findings(self) -> list[str]:
        return [f"warning: {split}: {text}" for split, text in self._found.items() if text]

    def rows(self, examples: list[Any]) -> list[tuple[int, bool]]:
        return [(tokens, False) for rows in examples for tokens in rows.buckets]

    def facts(self, examples: list[Any]) -> dict[str, str]:
        (rows,), (phase,) = examples, self.phases
        train, names = self.task.splits["train"], ""
        if self.labels is not None:
            names = f", labels {', '.join(self.labels[:8])}"
            names += ", …" if len(self.labels) > 8 else ""
        cut = f" in {len(rows):,} rows" if len(rows) != len(train) else ""
        epochs = phase.until * phase.config.batch_size / len(rows)
        return {
            "task": f"{self.task.name}: {len(train):,} training examples{cut}{names}",
            "run": f"{phase.until:,} updates of {phase.config.batch_size} examples = "
            f"{epochs:.2g} epochs",
        }

    def remarks(self, examples: list[Any]) -> list[str]:
        tests = [
            f"{name}: {len(split):,} examples that are not used here; `ptft evaluate "
            f"--split={name}` scores them"
            for name, split in self.task.splits.items()
            if name.startswith("test") and split.labelled
        ]
        length = self.config.max_seq_length
        cut = [self.said_of_cut(rows, length) for rows in examples if rows.num_truncated]
        return [*tests, *cut]

    def said_of_cut(self, examples: Any, length: int) -> str:
        """Returns the line on examples that are longer than a row."""
        return (
            f"{examples.num_truncated:,} training examples are longer than "
            f"max_seq_length={length} tokens and were cut"
        )
