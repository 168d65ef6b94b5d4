"""Fine-tuning on sentences with a tag for each word: entities, slots, parts of speech."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ptft_jax.data.tasks.files.reading import Needed
from ptft_jax.data.tasks.tagging.examples import TaggingExamples
from ptft_jax.data.tasks.tagging.splits import (
    TaggingSettings,
    TaggingSplit,
    are_entities,
    inside_ids,
)
from ptft_jax.data.tasks.training.class_weights import read_class_weights, said_of_class_weights
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
from ptft_jax.objectives.scores.entities import entity_scores, scheme_of, tag_accuracy
from ptft_jax.objectives.scores.metrics import check_outputs
from ptft_jax.objectives.tagging import TaggingObjective
from ptft_jax.runs.config import Config
from ptft_jax.runs.kinds.finetuning import FineTuning
from ptft_jax.runs.report.kinds import tagging
from ptft_jax.runs.report.parts import Analysis

Predictions = list[list[tuple[int, float]]]


class Tagging(FineTuning):
    """Tags of words; see `FineTuning`."""

    head = "tagging"
    words_may_move = False
    pairs = False

    def __init__(self, config: Config, needed: Needed | None = None):
        super().__init__(config, needed)
        names, tags = self.task.label_names, self.task.splits["train"].tags
        self._class_weights = None
        if needed is None:
            counts = np.bincount(np.concatenate(tags), minlength=len(names))
            self._class_weights = read_class_weights(config.class_weights, names, counts)

    def settings(self, config: Config) -> TaggingSettings:
        return TaggingSettings(config.word_column, config.tag_column)

    def plain_objective(self) -> TaggingObjective:
        return TaggingObjective()

    def task_objective(self) -> TaggingObjective:
        return TaggingObjective(self._class_weights, self.config.label_smoothing)

    def make_examples(
        self, split: TaggingSplit, tokenizer: TextTokenizer, **more: Any
    ) -> TaggingExamples:
        return TaggingExamples(
            split,
            tokenizer,
            self.config.max_seq_length,
            label_all_subwords=self.config.label_all_subwords,
            inside=inside_ids(self.task.label_names),
            length_buckets=self.config.length_buckets,
            **more,
        )

    def decode(
        self, split: TaggingSplit, examples: TaggingExamples, outputs: Mapping[str, np.ndarray]
    ) -> Predictions:
        """Returns the tag's id and its probability of each word of each sentence."""
        check_outputs(outputs["scores"])
        return examples.decode(outputs)

    def score(self, split: TaggingSplit, predictions: Predictions) -> dict[str, float]:
        """Returns the accuracy, and of entities F1, precision and recall, also of each type.

        As seqeval computes them; `f1_strict` counts only what is well-formed in the scheme of the
        split's own tags.
        """
        names = self.task.label_names
        assert split.tags is not None  # `scored` names labelled splits only
        gold = [[names[index] for index in tags] for tags in split.tags]
        found = [[names[index] for index, _ in tags] for tags in predictions]
        accuracy = {"accuracy": tag_accuracy(gold, found)}
        if not are_entities(names):
            return accuracy
        overall, by_type = entity_scores(gold, found)
        strict, _ = entity_scores(gold, found, scheme_of(gold))
        scores = {"f1": overall.f1, "precision": overall.precision, "recall": overall.recall}
        scores |= accuracy | {"f1_strict": strict.f1}
        for name, score in by_type.items():
            scores |= {
                f"f1/{name}": score.f1,
                f"precision/{name}": score.precision,
                f"recall/{name}": score.recall,
            }
        return scores

    def analysis(
        self, split: TaggingSplit, examples: TaggingExamples, predictions: Predictions
    ) -> Analysis:
        return tagging.analysis(
            split, examples, predictions, self.task.label_names, self.task.splits["train"]
        )

    def remarks(self, examples: list[TaggingExamples]) -> list[str]:
        unknown = [
            f"{rows.num_unknown:,} words of which the tokenizer leaves nothing stand as the "
            "unknown token"
            for rows in examples
            if rows.num_unknown
        ]
        weights = said_of_class_weights(self.task.label_names, self._class_weights)
        return [*super().remarks(examples), *unknown, *weights]

    def said_of_cut(self, examples: TaggingExamples, length: int) -> str:
        return (
            f"{examples.num_truncated:,} training sentences are longer than max_seq_length="
            f"{length} tokens and are spread over several rows"
        )
