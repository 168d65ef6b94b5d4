"""Fine-tuning on multiple choice: COPA, SWAG, C3, or a table of one's own."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ptft_jax.data.tasks.choice import ChoiceExamples, ChoiceSettings, ChoiceSplit
from ptft_jax.data.tasks.files.reading import Needed
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
from ptft_jax.objectives.choice import ChoiceObjective
from ptft_jax.objectives.scores.metrics import check_outputs, distinct_choices, softmax
from ptft_jax.objectives.scores.squad import score_answers
from ptft_jax.runs.config import Config
from ptft_jax.runs.kinds.finetuning import FineTuning
from ptft_jax.runs.report.kinds import choice
from ptft_jax.runs.report.parts import Analysis


class Choice(FineTuning):
    """One of several choices; see `FineTuning`."""

    head = "choice"
    has_segments = True

    def __init__(self, config: Config, needed: Needed | None = None):
        super().__init__(config, needed)
        self.pairs = any(any(split.contexts) for split in self.task.splits.values())

    def settings(self, config: Config) -> ChoiceSettings:
        return ChoiceSettings(**config.table)

    def plain_objective(self) -> ChoiceObjective:
        return ChoiceObjective()

    def task_objective(self) -> ChoiceObjective:
        return ChoiceObjective(self.config.label_smoothing)

    def make_examples(
        self, split: ChoiceSplit, tokenizer: TextTokenizer, **more: Any
    ) -> ChoiceExamples:
        length, buckets = self.config.max_seq_length, self.config.length_buckets
        return ChoiceExamples(split, tokenizer, length, length_buckets=buckets, **more)

    def decode(
        self, split: ChoiceSplit, examples: ChoiceExamples, outputs: Mapping[str, np.ndarray]
    ) -> np.ndarray:
        """Returns the logits of the choices, [N, P], the lowest float32 where there is none."""
        check_outputs(outputs["logits"])
        return outputs["logits"][:, 0]

    def score(self, split: ChoiceSplit, predictions: np.ndarray) -> dict[str, float]:
        """Returns the share of examples of which the choice is right.

        Where answers are texts, F1 and exact match with the best of those that are right.
        """
        chosen = _chosen(split, predictions)
        if split.answers is not None and split.names is not None:
            texts = [names[number] for names, number in zip(split.names, chosen, strict=True)]
            scores = score_answers(texts, split.answers)
            return {"f1": float(scores.f1.mean()), "exact_match": float(scores.exact_match.mean())}
        if split.is_right is not None:
            right = split.is_right[np.arange(len(split)), chosen]
        else:
            right = chosen == split.labels
        return {"accuracy": float(np.mean(right))}

    def analysis(
        self, split: ChoiceSplit, examples: ChoiceExamples, predictions: np.ndarray
    ) -> Analysis:
        return choice.analysis(split, examples, predictions, _chosen(split, predictions))


def _chosen(split: ChoiceSplit, logits: np.ndarray) -> np.ndarray:
    if split.groups is None:
        return logits.argmax(axis=1)
    return distinct_choices(softmax(logits), split.groups)
