"""Fine-tuning on labelled texts or pairs of texts: GLUE, or a table of one's own."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ptft_jax.data.tasks.classification import ClassificationExamples
from ptft_jax.data.tasks.table import Split, TableSettings
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
from ptft_jax.models.config import EncoderConfig
from ptft_jax.objectives.classification import ClassificationObjective
from ptft_jax.objectives.metrics import compute_metrics
from ptft_jax.runs.config import Config
from ptft_jax.runs.kinds.finetuning import FineTuning

# From so many examples on, one class for all of them is no chance.
SOME = 20


class Classification(FineTuning):
    """Classes, several classes at once, or scores (a regression), of texts; see `FineTuning`."""

    head = "classification"

    def __init__(self, config: Config):
        super().__init__(config)
        self.pairs = self.task.splits["train"].texts_b is not None
        self.problem_type = self.task.problem_type

    def settings(self, config: Config) -> TableSettings:
        return TableSettings(**config.table)

    def objective(self, model: EncoderConfig) -> ClassificationObjective:
        return ClassificationObjective(self.task.problem_type)

    def make_examples(
        self, split: Split, tokenizer: TextTokenizer, **more: Any
    ) -> ClassificationExamples:
        length, buckets = self.config.max_seq_length, self.config.length_buckets
        return ClassificationExamples(split, tokenizer, length, length_buckets=buckets, **more)

    def score(
        self, split: Split, examples: ClassificationExamples, outputs: Mapping[str, np.ndarray]
    ) -> dict[str, float]:
        assert split.labels is not None  # `scored` names labelled splits only
        logits = outputs["logits"][:, 0]
        metrics = split.metrics or self.task.metrics
        return compute_metrics(metrics, logits, split.labels, split.groups)

    def finding(self, split: Split, outputs: Mapping[str, np.ndarray]) -> str | None:
        """Says so where a split of several classes is predicted to be of one."""
        labels, train = split.labels, self.task.splits["train"].labels
        if self.problem_type != "single_label_classification" or len(split) < SOME:
            return None
        assert labels is not None
        assert train is not None
        assert self.labels is not None
        predictions = outputs["logits"][:, 0].argmax(axis=1)
        if np.ptp(predictions) or not np.ptp(labels):
            return None
        counts = np.bincount(train, minlength=len(self.labels))
        most = int(counts.argmax())
        return (
            f"all {len(labels):,} predictions are {self.labels[predictions[0]]!r}, and the labels "
            f"are of {len(np.unique(labels))} classes: nothing was learned that tells them apart. "
            f"Try a lower optimizer.learning_rate (now {self.config.optimizer.learning_rate:g}; "
            f"1e-5 to 5e-5 are usual), more updates (now {self.phases[-1].until:,}), another seed, "
            f"and training examples of all classes ({self.labels[most]!r} has "
            f"{counts[most] / counts.sum():.0%} of {counts.sum():,})"
        )
