"""Fine-tuning on labelled texts or pairs of texts: GLUE, or a table of one's own."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ptft_jax.data.tasks.classification import ClassificationExamples
from ptft_jax.data.tasks.files.reading import Needed
from ptft_jax.data.tasks.table import Split, TableSettings
from ptft_jax.data.tasks.training.class_weights import read_class_weights, said_of_class_weights
from ptft_jax.data.tasks.training.subset import rows_of_each_class
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
from ptft_jax.errors import ConfigError
from ptft_jax.objectives.classification import ClassificationObjective
from ptft_jax.objectives.scores.metrics import compute_metrics
from ptft_jax.runs.config import Config
from ptft_jax.runs.defaults import KINDS
from ptft_jax.runs.kinds.finetuning import SOME, FineTuning
from ptft_jax.runs.report.kinds import classes, labels, scores
from ptft_jax.runs.report.parts import Analysis
from ptft_jax.runs.start.starting_point import freezes

# Settings of `few_shot` that one way alone has.
_WAYS = {"template": "prompt", "words": "prompt", "calibrate": "prompt", "pairs": "setfit"}


class Classification(FineTuning):
    """Classes, several classes at once, or scores (a regression), of texts; see `FineTuning`."""

    head = "classification"

    def __init__(self, config: Config, needed: Needed | None = None):
        super().__init__(config, needed)
        self.pairs = self.task.splits["train"].texts_b is not None
        self.problem_type = self.task.problem_type
        self._class_weights = self._read_class_weights()
        usual = KINDS["classification"]["few_shot"]
        given = config.get("few_shot", usual)
        for name, way in _WAYS.items():
            if given[name] != usual[name] and given["way"] != way:
                raise ConfigError(
                    f"--config.few_shot.{name}={given[name]!r} is for few_shot.way={way!r}, "
                    f"not {given['way']!r}: leave it out."
                )

    def training_rows(self, train: Split) -> np.ndarray:
        config, each = self.config, self.config.examples_per_class
        if not each:
            return super().training_rows(train)
        if config.max_train_examples:
            raise ConfigError(
                f"examples_per_class={each} and max_train_examples={config.max_train_examples} are "
                "both set: expected one of them."
            )
        self._check_single_label("examples_per_class", each)
        assert train.labels is not None
        assert self.labels is not None
        return rows_of_each_class(train.labels, self.labels, config.seed, each)

    def _check_single_label(self, key: str, value: object) -> None:
        if self.task.problem_type != "single_label_classification":
            raise ConfigError(
                f"{key}={value!r}: this is for tasks with one label for each text, and "
                f"{self.task.name} is a {self.task.problem_type.replace('_', ' ')}: leave it out."
            )

    def _read_class_weights(self) -> tuple[float, ...] | None:
        text, labels = self.config.class_weights, self.task.splits["train"].labels
        if self.config.label_smoothing:
            self._check_single_label("label_smoothing", self.config.label_smoothing)
        if not text or self.needed is not None:
            return None
        if self.problem_type == "multi_label_classification":
            yes = labels.sum(axis=0)
            return read_class_weights(text, self.labels or (), yes, len(labels) - yes)
        self._check_single_label("class_weights", text)
        counts = np.bincount(labels, minlength=self.num_labels)
        return read_class_weights(text, self.labels or (), counts)

    def settings(self, config: Config) -> TableSettings:
        return TableSettings(**config.table)

    def plain_objective(self) -> ClassificationObjective:
        return ClassificationObjective(self.task.problem_type)

    def task_objective(self) -> ClassificationObjective:
        return ClassificationObjective(
            self.task.problem_type, self._class_weights, self.config.label_smoothing
        )

    def remarks(self, examples: list[ClassificationExamples]) -> list[str]:
        weights = said_of_class_weights(self.labels, self._class_weights)
        return [*super().remarks(examples), *weights]

    def make_examples(
        self, split: Split, tokenizer: TextTokenizer, **more: Any
    ) -> ClassificationExamples:
        length, buckets = self.config.max_seq_length, self.config.length_buckets
        return ClassificationExamples(split, tokenizer, length, length_buckets=buckets, **more)

    def decode(
        self, split: Split, examples: ClassificationExamples, outputs: Mapping[str, np.ndarray]
    ) -> np.ndarray:
        """Returns the logits, [N, K]."""
        return outputs["logits"][:, 0]

    def score(self, split: Split, predictions: np.ndarray) -> dict[str, float]:
        assert split.labels is not None  # `scored` names labelled splits only
        metrics = split.metrics or self.task.metrics
        return compute_metrics(metrics, predictions, split.labels, split.groups)

    def analysis(
        self, split: Split, examples: ClassificationExamples, predictions: np.ndarray
    ) -> Analysis:
        metrics, train = split.metrics or self.task.metrics, self.task.splits["train"].labels
        if self.labels is None:
            return scores.analysis(split, examples, predictions[:, 0], metrics)
        if self.problem_type == "multi_label_classification":
            return labels.analysis(split, examples, predictions, self.labels, train)
        return classes.analysis(split, examples, predictions, self.labels, train, metrics)

    def finding(self, split: Split, predictions: np.ndarray) -> str | None:
        """Says so where a split of several classes is predicted to be of one."""
        labels, train = split.labels, self.task.splits["train"].labels
        if self.problem_type != "single_label_classification" or len(split) < SOME:
            return None
        assert labels is not None
        assert train is not None
        assert self.labels is not None
        found = predictions.argmax(axis=1)
        if np.ptp(found) or not np.ptp(labels):
            return None
        counts = np.bincount(train, minlength=len(self.labels))
        most, examples = int(counts.argmax()), ""
        if len(train):
            examples = (
                f", and training examples of all classes ({self.labels[most]!r} has "
                f"{counts[most] / counts.sum():.0%} of {counts.sum():,})"
            )
        # Of the whole model; adapters and heads alone want more.
        usual = "" if freezes(self.config) else "; 1e-5 to 5e-5 are usual"
        return (
            f"all {len(labels):,} predictions are {self.labels[found[0]]!r}, and the labels "
            f"are of {len(np.unique(labels))} classes: nothing was learned that tells them apart. "
            f"Try a lower optimizer.learning_rate (now {self.config.optimizer.learning_rate:g}"
            f"{usual}), more updates (now {self.phases[-1].until:,}), another seed{examples}"
        )
