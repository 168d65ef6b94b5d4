"""Texts classified by a few labelled ones that are given with them, their support."""

import warnings
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np

from ptft_jax.data.tasks.episodes.examples import EpisodeExamples
from ptft_jax.data.tasks.episodes.splits import EpisodeSplit, Marked, with_markers
from ptft_jax.errors import ConfigError
from ptft_jax.objectives.embedding import TextVectors
from ptft_jax.objectives.prototypes import prototype_logits
from ptft_jax.objectives.scores.metrics import softmax
from ptft_jax.runs.folder import TrainedRun
from ptft_jax.runs.trained.asking.texts import (
    PACKAGE,
    Share,
    buckets_for,
    checked,
    in_blocks,
    limit_of,
    longer_than,
    outputs_of,
)

# What a text is called that is of none of the classes.
NONE = "(none)"


def classify_by_support(
    run: TrainedRun,
    asked: Iterable[Any],
    support: Mapping[str, Iterable[Any]] | None,
    top: int,
    told: Any,
) -> list[dict[str, Any]]:
    """Gives each text the label of the nearest prototype; see `Run.predict`.

    Raises:
        ConfigError: there is no support, or too little, or something is no text of this run.
        DataError: the model's outputs are not finite.
    """
    given = {label: _checked(run, texts) for label, texts in (support or {}).items()}
    if len(given) < 2 or not all(given.values()):
        raise ConfigError(
            f"{run.folder.path} knows classes by texts that are given with a question: expected "
            "support, at least one text of at least two labels (`ptft predict --support=FILE`); "
            f"there are: {', '.join(given) or 'none'}."
        )
    if NONE in given:
        raise ConfigError(
            f"support: {NONE!r} stands for none of the labels; expected another name."
        )
    vectors, cut = _vectors(run, _split([one for some in given.values() for one in some]), _quiet)
    if cut:
        warnings.warn(
            f"{cut} of the {len(vectors)} {longer_than(limit_of(run))} in the support and were cut",
            stacklevel=2,
            skip_file_prefixes=(PACKAGE,),
        )
    ends = np.cumsum([len(some) for some in given.values()])
    means = np.stack([part.mean(axis=0) for part in np.split(vectors, ends[:-1])])
    ask = partial(_some, run, means, [*given, NONE], top)
    return in_blocks(_checked(run, asked), ask, told, longer_than(limit_of(run)))


def _quiet(done: float) -> None:
    """Support is little: nobody waits for it."""


def _some(
    run: TrainedRun, means: np.ndarray, names: list[str], top: int, asked: list[Any], told: Share
) -> tuple[list[dict[str, Any]], int]:
    split = _split(asked)
    vectors, cut = _vectors(run, split, told)
    has_none = run.config.episode.na_rate > 0
    (logits,) = prototype_logits(means[None, :, None], vectors[None], has_none)
    results = []
    for text, row in zip(split.texts, softmax(logits), strict=True):
        order = np.argsort(-row)[:top]
        scores = {names[i]: float(row[i]) for i in order}
        results.append({"text": text, "label": names[order[0]], "scores": scores})
    return results, cut


def _vectors(run: TrainedRun, split: EpisodeSplit, told: Share) -> tuple[np.ndarray, int]:
    pooling, buckets = run.config.episode.pooling, buckets_for(run, split.texts)
    examples = EpisodeExamples(
        split,
        run.tokenizer,
        limit_of(run),
        at_entities=pooling == "entities",
        length_buckets=buckets,
    )
    outputs = outputs_of(run, TextVectors(pooling, normalize=False), examples, told)
    return outputs["vectors"][:, 0], examples.num_truncated


def _checked(run: TrainedRun, texts: Iterable[Any]) -> list[Any]:
    """Returns texts, or sentences with markers, all of one form."""
    texts = texts if isinstance(texts, str) else list(texts)
    has_entities = [isinstance(text, Marked | Mapping) for text in texts]
    if run.config.episode.pooling == "entities" and not all(has_entities):
        raise ConfigError(
            f"{run.folder.path} looks at two entities of each sentence: expected sentences like "
            '{"tokens": ["Ada", "was", …], "h": ["Ada", "", [[0]]], "t": […]} (.json of FewRel\'s '
            "format)."
        )
    if not any(has_entities):
        return checked(texts)
    try:
        return [text if isinstance(text, Marked) else with_markers(text) for text in texts]
    except ValueError as error:
        raise ConfigError(f"a sentence with entities: {error}") from error


def _split(texts: list[Any]) -> EpisodeSplit:
    if isinstance(texts[0], Marked):
        return EpisodeSplit([" ".join(one.words) for one in texts], None, (), texts, "texts")
    return EpisodeSplit(texts, None, (), None, "texts")
