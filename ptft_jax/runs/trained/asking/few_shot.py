"""What a run with few examples says of texts: words in a gap, or a classifier on vectors."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ptft_jax.data.tasks.classification import ClassificationExamples
from ptft_jax.data.tasks.prompted import PromptedExamples, Template, read_words
from ptft_jax.data.tasks.table import Split
from ptft_jax.objectives.embedding import TextVectors
from ptft_jax.objectives.prompted import PromptedObjective
from ptft_jax.runs.folder import TrainedRun
from ptft_jax.runs.kinds.prompted import nothing, prior_of
from ptft_jax.runs.kinds.setfit import Classifier
from ptft_jax.runs.trained.asking.texts import Share, limit_of, outputs_of


def logits_of(
    run: TrainedRun, split: Split, buckets: Sequence[int] | None, told: Share
) -> tuple[Any, np.ndarray]:
    """Returns the examples of texts, and the logits of their classes, [N, K]."""
    settings, limit = run.config.few_shot, limit_of(run)
    if settings.way == "setfit":
        examples = ClassificationExamples(split, run.tokenizer, limit, length_buckets=buckets)
        vectors = outputs_of(run, TextVectors(), examples, told)["vectors"][:, 0]
        return examples, Classifier.read(run.folder.path, run.step).logits(vectors)
    template = Template(settings.template, split.texts_b is not None)
    words = read_words(settings.words, run.record.labels or (), run.tokenizer)
    objective = PromptedObjective(words=words)
    examples = PromptedExamples(template, split, run.tokenizer, limit, length_buckets=buckets)
    logits = outputs_of(run, objective, examples, told)["logits"][:, 0]
    if settings.calibrate:
        empty = nothing(split.texts_b is not None, run.tokenizer)
        blank = PromptedExamples(template, empty, run.tokenizer, limit)
        logits = logits - prior_of(outputs_of(run, objective, blank, told)["logits"][:, 0])
    return examples, logits
