"""Which of several choices a model takes that was trained on multiple choice."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ptft_jax.data.tasks.choice import ChoiceExamples, ChoiceSplit
from ptft_jax.errors import ConfigError
from ptft_jax.objectives.choice import ChoiceObjective
from ptft_jax.objectives.metrics import check_outputs
from ptft_jax.runs.folder import TrainedRun
from ptft_jax.runs.trained.texts import checked, filled_batches, limit_of, outputs_step, warn_of_cut

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
    if not parts:
        return []
    split = ChoiceSplit([one[0] for one in parts], [one[1:] for one in parts], None, "texts")
    examples = ChoiceExamples(split, run.tokenizer, limit_of(run))
    warn_of_cut(examples, limit_of(run))
    step, results = outputs_step(run.model_config, ChoiceObjective()), []
    for numbers, batch in filled_batches(examples, _BATCH):
        logits = np.asarray(step(run.params, batch)["logits"])[: len(numbers), 0]
        check_outputs(logits)
        for number, row in zip(numbers, logits, strict=True):
            choices = split.choices[number]
            scores = np.exp(row[: len(choices)] - row.max())
            best = int(scores.argmax())
            results.append(
                {
                    "text": tuple(parts[number]),
                    "choice": best,
                    "label": choices[best],
                    "scores": [float(score) for score in scores / scores.sum()],
                }
            )
        progress(len(results), len(parts))
    return results
