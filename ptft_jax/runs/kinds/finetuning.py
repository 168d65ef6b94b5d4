"""Fine-tuning, whatever the kind of task: its splits, its starting point, its evaluation."""

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jax.sharding import Mesh

from ptft_jax.data.batches import Examples, by_length, evaluation_batches
from ptft_jax.data.tasks.catalogue import load_task
from ptft_jax.data.tasks.files.reading import Needed
from ptft_jax.data.tasks.training.features import Numbered
from ptft_jax.data.tasks.training.packed import PackedExamples
from ptft_jax.data.tasks.training.shares import WithShares
from ptft_jax.data.tasks.training.subset import first_rows
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
from ptft_jax.errors import ConfigError, DataError
from ptft_jax.models.build import Model, Params
from ptft_jax.models.config import LINEAR_HEADS, AdapterConfig, EncoderConfig
from ptft_jax.objectives.added.regularized import regularized, regularizer_settings
from ptft_jax.objectives.classification import ClassificationObjective
from ptft_jax.objectives.totals import Objective, TaskObjective
from ptft_jax.runs.config import Config
from ptft_jax.runs.folder import RunFolder
from ptft_jax.runs.kinds.kind import Evaluate, Kind, check_loss, naming
from ptft_jax.runs.phases import PhaseConfig
from ptft_jax.runs.report.parts import Analysis
from ptft_jax.runs.start.starting_point import StartingPoint, load_starting_point
from ptft_jax.training.cluster.job import Job
from ptft_jax.training.evaluation import evaluate_with_outputs
from ptft_jax.training.loop import until_stopped
from ptft_jax.training.mesh import process_rows, put_batch, rows_unit
from ptft_jax.training.step import make_scoring_step

# From parameters and examples to a mean loss and the outputs of all rows.
Ask = Callable[[Params, Any], tuple[float, dict[str, np.ndarray]]]
# From so many examples on, one class or no answer for all of them is no chance.
SOME = 20


class FineTuning(Kind):
    """A run on a task; see `Kind`. A kind of task is a class below this one.

    Attributes:
        head: the head of `models.config.LINEAR_HEADS` that it trains; "" for none.
        words_may_move: whether labels are of whole texts, and not of places in them.
        has_segments: whether several texts of an example share a row, packed or not.
        task: the loaded task: `name`, `splits`, `label_names`, `metrics` (the first decides which
            checkpoint is best), `eval_splits` (scored in training, the first decides).
    """

    head: ClassVar[str] = ""
    words_may_move: ClassVar[bool] = True
    has_segments: ClassVar[bool] = False

    def __init__(self, config: Config, needed: Needed | None = None):
        """Loads the task: all of it, or what is `needed` of it by a finished run."""
        self.config = config
        self.needed = needed
        given = config.regularizer.to_dict()
        self._regularizer = regularizer_settings(given.pop("name"), given)
        # Of each split the examples of the last evaluation, and what was decoded.
        self._last: dict[str, tuple[Any, Any]] = {}
        self.task = load_task(config.task, config.data_dir, self.settings(config), needed)
        splits = self.task.splits
        for name in ("train", *self.task.eval_splits) if needed is None else ():
            split = splits[name]
            if not split.labelled:
                use = "learn from" if name == "train" else "score against"
                raise DataError(f"{split.source} has no labels to {use}; expected one for each row")
        self.labels = self.task.label_names
        if "train" not in splits:
            # Where no training examples are needed, there are none, of the form of the others.
            splits["train"] = next(iter(splits.values())).take(np.zeros(0, np.int64))
        train = splits["train"]
        self._of = len(train)
        if len(train) and len(rows := self.training_rows(train)) < len(train):
            splits["train"] = train.take(rows)
        self.best = (f"{self.task.eval_splits[0]}_{self.task.metrics[0]}", "max")
        self.fingerprints = {
            name: splits[name].fingerprint()
            for name in ("train", *self.task.eval_splits)
            if name in splits
        }
        self._train: Any = None
        # What changes training texts.
        self._augmenting: Any = None
        self._count(len(self.task.splits["train"]))

    def _count(self, rows: int) -> None:
        """Sets how long the run is, from the rows of an epoch."""
        config = self.config
        per_epoch = math.ceil(rows / config.batch_size)
        steps = config.steps or math.ceil(config.epochs * rows / config.batch_size)
        self.phases = [PhaseConfig(0, steps, config)]
        every = config.eval_every, config.checkpoint_every
        self.eval_every, self.checkpoint_every = (per_epoch if n is None else n for n in every)
        if config.patience and not self.eval_every:
            raise ConfigError(
                f"--config.patience={config.patience}: with eval_every=0 there is one evaluation, "
                "at the end; expected some on the way."
            )

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
    def plain_objective(self) -> TaskObjective:
        """Returns what a model is scored by, whatever options bend the loss that it is trained on.

        So losses on dev are those of the task, and can be compared between runs.
        """

    @abstractmethod
    def decode(self, split: Any, examples: Any, outputs: Mapping[str, np.ndarray]) -> Any:
        """Returns what the objective's outputs, for all rows in order, say of each example.

        Raises DataError for outputs that are not finite.
        """

    @abstractmethod
    def score(self, split: Any, predictions: Any) -> dict[str, float]:
        """Returns the task's metrics of what `decode` returned; raises DataError as it does."""

    @abstractmethod
    def analysis(self, split: Any, examples: Any, predictions: Any) -> Analysis:
        """Returns what a report shows of a split and of what `decode` returned."""

    def task_objective(self) -> TaskObjective:
        """Returns what a model is trained on, but for a regularizer."""
        return self.plain_objective()

    def objective(self, model: EncoderConfig) -> Objective:
        name = self.config.regularizer.name
        rates = model.hidden_dropout_prob, model.attention_probs_dropout_prob
        if name == "r_drop" and not any((*rates, model.classifier_dropout)):
            raise ConfigError(
                "--config.regularizer.name=r_drop: the model has no dropout, so that both passes "
                "would be the same; expected a rate above 0, as of model.hidden_dropout_prob."
            )
        if name == "mixup":
            self._check_mixup()
        if name in ("fgm", "smart") and self.config.cache_features:
            raise ConfigError(
                f"--config.regularizer.name={name}: it moves word embeddings, which an encoder "
                "that runs once does not read again; expected cache_features=False."
            )
        if not self.config.teacher:
            return regularized(self.task_objective(), name, self._regularizer)
        if name or self.config.cache_features:
            other = f"regularizer.name={name}" if name else "cache_features=True"
            raise ConfigError(f"--config.teacher with {other}: expected one of the two.")
        from ptft_jax.runs.start.teacher import distilled

        return distilled(self.task_objective(), self.config)

    def _check_mixup(self) -> None:
        task = self.task_objective()
        if not isinstance(task, ClassificationObjective) or task.class_weights:
            raise ConfigError(
                "--config.regularizer.name=mixup: it mixes what a classifier reads, whose examples "
                "count alike; expected a task of labelled texts, without class_weights."
            )
        if not self.config.packing:
            raise ConfigError(
                "--config.regularizer.name=mixup with packing=False: an example is mixed with the "
                "next one of its row; expected packing=True."
            )

    def training_rows(self, train: Any) -> np.ndarray:
        """Returns the rows of the train split that are used, ascending.

        Raises ConfigError for a choice that cannot be made.
        """
        return first_rows(len(train), self.config.seed, self.config.max_train_examples)

    def finding(self, split: Any, predictions: Any) -> str | None:
        """Returns what to know of predictions that can be scored but say little; None: nothing."""
        return None

    @property
    def num_labels(self) -> int:
        """The width of a head that depends on the task."""
        return len(self.labels or ("score",))

    @property
    def heads(self) -> tuple[str, ...]:
        """All heads of the model."""
        if not self.head:
            return ()
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
        found = found.chosen(self.config.init_layers, self.config.reinit_layers)
        changes = {name: value for name, value in self.config.model.items() if value is not None}
        if self.config.adapter.name:
            changes["adapter"] = AdapterConfig(**self.config.adapter)
        train, seed = self.task.splits["train"], self.config.seed
        examples = self.make_examples(train, found.tokenizer, seed=seed, shuffle=True)
        self._count(len(examples))
        self._train = examples
        if any(self.config.augment.values()):
            from ptft_jax.runs.augmenting import Augmenting

            epochs = math.ceil(self.phases[-1].until * self.config.batch_size / len(examples))
            self._augmenting = Augmenting(
                self.config, found.tokenizer, self.words_may_move, self.pairs
            )
            self._train = self._augmenting.changed(examples, epochs)
            self.masked_lm = self._augmenting.masked_lm
        model, params = found.config.replace(**changes), found.params
        if run is None and model.adapter is not None:
            from ptft_jax.models.adapters.folding import with_initial

            params = with_initial(params, model)
        return dataclasses.replace(found, config=model, params=params)

    def prepare(
        self,
        model: Model,
        start: StartingPoint,
        *,
        folder: Path,
        mesh: Mesh,
        job: Job,
        say: Callable[[str], None],
    ) -> dict[str, Params]:
        """Refills training texts where the config asks for it."""
        if self._augmenting is not None:
            self._augmenting.prepare(mesh=mesh, job=job, say=say)
        return {}

    def examples(self, phase: PhaseConfig, tokenizer: TextTokenizer, mesh: Mesh) -> Any:
        config = phase.config
        train: Any = Numbered(self._train) if config.cache_features else self._train
        if config.regularizer.name == "mixup":
            train = WithShares(train, self._regularizer["alpha"], config.seed)
        if not config.packing:
            return train
        unit = rows_unit(config.accumulate, mesh)
        virtual = AdapterConfig(**config.adapter).prompt_tokens if config.adapter.name else 0
        return PackedExamples(train, tokenizer.pad_token_id, config.batch_size, unit, virtual)

    def scored(
        self, phase: PhaseConfig, tokenizer: TextTokenizer, split: str | None = None
    ) -> dict[str, Examples]:
        splits = self.task.splits
        labelled = ", ".join(name for name in splits if len(splits[name]) and splits[name].labelled)
        names = self.task.eval_splits if split is None else (split,)
        for name in names:
            if name not in splits:
                raise ConfigError(
                    f"split={name!r}: {self.config.data_dir or 'the data'} of "
                    f"{self.config.task!r} has no such split; with labels there are {labelled}."
                )
            if not splits[name].labelled:
                others = f": expected one of {labelled}" if labelled else ""
                raise ConfigError(
                    f"split={name!r} has no labels to score against here{others}; `ptft predict` "
                    "labels a file."
                )
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
        ask = self.asking(model, phase, mesh, job)

        def score(params: Params, name: str) -> dict[str, float]:
            split = self.task.splits[name]
            loss, outputs = ask(params, splits[name])
            predictions = self.decode(split, splits[name], outputs)
            scores = self.score(split, predictions)
            check_loss(loss)
            self._last[name] = splits[name], predictions
            return {"loss": loss, **scores}

        def run(params: Params) -> dict[str, dict[str, float]]:
            results = {}
            for name in splits:
                with naming(name):
                    results[name] = score(params, name)
            return results

        return run

    def asking(self, model: Model, phase: PhaseConfig, mesh: Mesh, job: Job) -> Ask:
        """Returns the function from parameters and examples to the plain objective's mean loss, and
        to its outputs for all rows in their own order.
        """
        config = phase.config
        batch_size = config.eval_batch_size or config.batch_size // config.accumulate
        step = make_scoring_step(model, self.plain_objective())
        rows = partial(process_rows, mesh)
        put: Any = partial(put_batch, mesh=mesh)

        def ask(params: Params, examples: Any) -> tuple[float, dict[str, np.ndarray]]:
            order = by_length(examples)
            batches = evaluation_batches(examples, batch_size, rows, order=order)
            means, found = evaluate_with_outputs(step, params, until_stopped(batches, job), put)
            own = np.argsort(order)
            return means["loss"], {key: values[own] for key, values in found.items()}

        return ask

    def findings(self) -> list[str]:
        found = {
            name: self.finding(self.task.splits[name], predictions)
            for name, (_, predictions) in self._last.items()
        }
        return [f"warning: {name}: {text}" for name, text in found.items() if text]

    def write_report(
        self,
        folder: RunFolder,
        path: Path,
        step: int,
        results: Mapping[str, Mapping[str, Any]],
    ) -> str | None:
        from ptft_jax.runs.report.page import write_report

        try:
            analyses = {
                name: self.analysis(self.task.splits[name], examples, predictions)
                for name, (examples, predictions) in self._last.items()
            }
            write_report(path, folder, step, results, analyses, len(self.task.splits["train"]))
        except Exception as error:  # whatever it is, the run is finished and its results are there
            return f"{path} was not written: {type(error).__name__}: {error}"
        return None

    def rows(self, examples: list[Any]) -> list[tuple[int, bool]]:
        packed = self.config.packing or self.has_segments
        return [(tokens, packed) for rows in examples for tokens in rows.buckets]

    def facts(self, examples: list[Any]) -> dict[str, str]:
        (rows,), (phase,) = examples, self.phases
        train, names = self.task.splits["train"], ""
        if self.labels is not None:
            names = f", labels {', '.join(self.labels[:8])}"
            names += ", …" if len(self.labels) > 8 else ""
        of = f" of {self._of:,} (drawn by seed {self.config.seed})" if self._of > len(train) else ""
        cut = f" in {len(rows):,} rows" if len(rows) != len(train) else ""
        epochs = phase.until * phase.config.batch_size / len(rows)
        settings = "".join(f", {key} {value:g}" for key, value in self._regularizer.items())
        name = self.config.regularizer.name
        return {
            "task": f"{self.task.name}: {len(train):,} training examples{of}{cut}{names}",
            "run": f"{phase.until:,} updates of {phase.config.batch_size} examples = "
            f"{epochs:.2g} epochs",
            **({"regularizer": f"{name}{settings}"} if name else {}),
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
        rate, adapter = self.config.optimizer.learning_rate, self.config.adapter.name
        slow = (
            f"optimizer.learning_rate={rate:g} is one for a whole model: of {adapter} 1e-4 to 1e-2 "
            "are usual"
        )
        return [*tests, *cut, *([slow] if adapter and rate < 1e-4 else [])]

    def said_of_cut(self, examples: Any, length: int) -> str:
        """Returns the line on examples that are longer than a row."""
        return (
            f"{examples.num_truncated:,} training examples are longer than "
            f"max_seq_length={length} tokens and were cut"
        )
