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
        return compute_metrics(self.task.metrics, logits, split.labels, split.groups)
