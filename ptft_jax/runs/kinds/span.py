"""Fine-tuning on questions whose answers are stretches of a context: SQuAD and its like."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ptft_jax.data.tasks.span.examples import SpanExamples
from ptft_jax.data.tasks.span.splits import SpanSettings, SpanSplit
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
from ptft_jax.objectives.scores.metrics import check_outputs
from ptft_jax.objectives.scores.squad import (
    Scores,
    Threshold,
    best_threshold,
    score_answers,
    with_threshold,
)
from ptft_jax.objectives.span import SpanObjective
from ptft_jax.runs.config import Config
from ptft_jax.runs.kinds.finetuning import SOME, FineTuning
from ptft_jax.runs.report.kinds import span
from ptft_jax.runs.report.parts import Analysis

_LISTED = 3


class Answered(NamedTuple):
    """The text given to each question, "" for none, and what it scores.

    Attributes:
        texts: of N questions.
        sure: the probabilities, float [N], of the best answers that are not empty.
        scores: with the threshold in use.
        best: the best threshold; None where all questions have answers.
    """

    texts: list[str]
    sure: np.ndarray
    scores: Scores
    best: Threshold | None = None


class Span(FineTuning):
    """Answers to questions about contexts; see `FineTuning`."""

    head = "span"
    words_may_move = False
    pairs = True

    def settings(self, config: Config) -> SpanSettings:
        return SpanSettings(config.version, config.misplaced_answers_allowed)

    def plain_objective(self) -> SpanObjective:
        return SpanObjective()

    def make_examples(
        self, split: SpanSplit, tokenizer: TextTokenizer, **more: Any
    ) -> SpanExamples:
        return examples_of(split, tokenizer, self.config, self.task.unanswerable, **more)

    def decode(
        self, split: SpanSplit, examples: SpanExamples, outputs: Mapping[str, np.ndarray]
    ) -> Answered:
        """Returns the answers and their scores.

        In 2.0 with the threshold of the config, or, without one, with that which gives the best F1
        on these very questions.
        """
        assert split.answers is not None  # `scored` names labelled splits only
        for name in ("start", "end"):
            check_outputs(outputs[name])
        # Without a threshold each question is given its best answer that is not empty.
        found = examples.decode(outputs, null_score_threshold=np.inf)
        texts = [answer["text"] for answer in found]
        sure = np.array([answer["score"] for answer in found])
        scores = score_answers(
            texts,
            [[answer.text for answer in answers] for answers in split.answers],
            unanswerable=self.task.unanswerable,
            by_character=self.task.by_character,
        )
        if not self.task.unanswerable:
            return Answered(texts, sure, scores)
        diffs = np.array([answer["null_score_diff"] for answer in found])
        best = best_threshold(scores.f1, scores.has_answer, diffs)
        threshold = self.config.null_score_threshold
        threshold = best.threshold if threshold is None else threshold
        texts = ["" if diff > threshold else text for text, diff in zip(texts, diffs, strict=True)]
        return Answered(texts, sure, with_threshold(scores, diffs, threshold), best)

    def score(self, split: SpanSplit, predictions: Answered) -> dict[str, float]:
        """Returns F1 and exact match, and in 2.0 those of questions with and without an answer.

        There `best_f1` is the highest F1 over thresholds, `best_f1_thresh` the one that gives it.
        """
        scores, best, more = predictions.scores, predictions.best, {}
        if best is not None:
            for name, rows in (("HasAns", scores.has_answer), ("NoAns", ~scores.has_answer)):
                if rows.any():
                    more[f"{name}_f1"] = float(scores.f1[rows].mean())
                    more[f"{name}_exact"] = float(scores.exact_match[rows].mean())
            more |= {"best_f1": best.score, "best_f1_thresh": best.threshold}
        return {
            "f1": float(scores.f1.mean()),
            "exact_match": float(scores.exact_match.mean()),
        } | more

    def analysis(self, split: SpanSplit, examples: SpanExamples, predictions: Answered) -> Analysis:
        return span.analysis(split, examples, *predictions[:3], by_character=self.task.by_character)

    def finding(self, split: SpanSplit, predictions: Answered) -> str | None:
        """Says where nothing is answered, and of other data that answers are misplaced."""
        # Of its own data training has said so.
        said = [_misplaced(split)] if self.needed is not None and split.misplaced else []
        have = int(predictions.scores.has_answer.sum())
        if len(split) >= SOME and have and not any(predictions.texts):
            said.append(
                f"all {len(split):,} questions were given no answer, and {have:,} have one: more "
                f"updates (now {self.phases[-1].until:,}) or another optimizer.learning_rate"
            )
        return ". ".join(said) or None

    def remarks(self, examples: list[SpanExamples]) -> list[str]:
        windows = [
            f"{rows.num_windowed:,} training questions have several windows of their context"
            for rows in examples
            if rows.num_windowed
        ]
        splits = self.task.splits.items()
        misplaced = [f"{name}: {_misplaced(split)}" for name, split in splits if split.misplaced]
        return [*super().remarks(examples), *windows, *misplaced]

    def said_of_cut(self, examples: SpanExamples, length: int) -> str:
        return (
            f"{examples.num_truncated:,} training questions are longer than "
            f"max_query_length={self.config.max_query_length} tokens and were cut"
        )


def examples_of(
    split: SpanSplit, tokenizer: TextTokenizer, config: Config, unanswerable: bool, **more: Any
) -> SpanExamples:
    """Returns the windows of a split as a config wants them."""
    names = ("doc_stride", "max_query_length", "n_best", "max_answer_length", "length_buckets")
    settings = {name: config[name] for name in names}
    return SpanExamples(
        split, tokenizer, config.max_seq_length, unanswerable=unanswerable, **settings, **more
    )


def _misplaced(split: SpanSplit) -> str:
    """Says how many answers of a split do not stand where its file says, and shows the first."""
    lost = sum(answer.start is None for answer in split.misplaced)
    words = f"{len(split.misplaced):,} answers do not stand at their answer_start"
    words += f"; {len(split.misplaced) - lost:,} were found elsewhere"
    if split.unplaced:
        words += f", and {split.unplaced:,} questions are left out, all of whose answers are lost"
    shown = "; ".join(map(str, split.misplaced[:_LISTED]))
    return f"{words}. {shown}{'; …' if len(split.misplaced) > _LISTED else ''}"
