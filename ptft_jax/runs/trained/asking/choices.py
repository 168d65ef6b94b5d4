"""Which of several choices a model takes that was trained on multiple choice."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from ptft_jax.data.tasks.choice import ChoiceExamples, ChoiceSplit
from ptft_jax.errors import ConfigError
from ptft_jax.objectives.choice import ChoiceObjective
from ptft_jax.objectives.scores.metrics import softmax
from ptft_jax.runs.folder import TrainedRun
from ptft_jax.runs.trained.asking.texts import (
    Share,
    checked,
    in_blocks,
    limit_of,
    longer_than,
    outputs_of,
)

# Rows of several choices are long.
_BATCH = 16


def choose(
    run: TrainedRun, asked: Iterable[Any], progress: Callable[[int, int], None]
) -> list[dict[str, Any]]:
    """Takes one of the choices of each question; see `Run.predict`.

    Raises:
        ConfigError: something asked is not a context with at least two choices.
        DataError: the model's outputs are not finite.
    """
    parts = [one.split("\t") if isinstance(one, str) else list(one) for one in asked]
    for number, one in enumerate(checked(parts, words=True)):
        if len(one) < 3:
            raise ConfigError(
                f"texts[{number}]={one!r}: expected a context and at least two choices, as a tuple "
                "or with tabs between them; the context may be empty."
            )
    return in_blocks(parts, partial(_choose, run), progress, longer_than(limit_of(run)))


def _choose(
    run: TrainedRun, parts: list[list[str]], told: Share
) -> tuple[list[dict[str, Any]], int]:
    split = ChoiceSplit([one[0] for one in parts], [one[1:] for one in parts], None, "texts")
    examples = ChoiceExamples(split, run.tokenizer, limit_of(run))
    logits = outputs_of(run, ChoiceObjective(), examples, told, _BATCH)["logits"][:, 0]
    results = []
    for asked, choices, row in zip(parts, split.choices, logits, strict=True):
        scores = softmax(row[: len(choices)])
        best = int(scores.argmax())
        results.append(
            {
                "text": tuple(asked),
                "choice": best,
                "label": choices[best],
                "scores": [float(score) for score in scores],
            }
        )
    return results, examples.num_truncated
