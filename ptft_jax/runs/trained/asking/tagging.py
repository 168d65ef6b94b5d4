"""What a tagger says of texts, or of sentences that are split into words already."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from ptft_jax.data.tasks.tagging.examples import TaggingExamples, TaggingSplit, TextSplit
from ptft_jax.data.tasks.tagging.splits import are_entities
from ptft_jax.errors import ConfigError
from ptft_jax.objectives.scores.entities import entities_of
from ptft_jax.objectives.tagging import TaggingObjective
from ptft_jax.runs.folder import TrainedRun
from ptft_jax.runs.trained.asking.texts import Share, buckets_for, in_blocks, limit_of, outputs_of


def tag(
    run: TrainedRun, texts: Sequence[Any], told: Callable[[int, int], None]
) -> list[dict[str, Any]]:
    """Tags texts (str), or sentences (lists of words); see `Run.predict`.

    Raises ConfigError where texts and sentences are mixed, DataError for outputs not finite.
    """
    are_sentences = [not isinstance(text, str) for text in texts]
    if any(are_sentences) and not all(are_sentences):
        raise ConfigError(
            f"texts[{are_sentences.index(True)}] is a list of words and "
            f"texts[{are_sentences.index(False)}] a text: expected one or the other."
        )
    ask = _sentences if all(are_sentences) else _texts
    return in_blocks(texts, partial(ask, run, _names(run)), told, "")


def _names(run: TrainedRun) -> tuple[str, ...]:
    return run.record.labels or tuple(map(str, range(run.model_config.num_labels)))


def _sentences(
    run: TrainedRun, names: Sequence[str], sentences: list[list[str]], told: Share
) -> tuple[list[dict[str, Any]], int]:
    split = TaggingSplit([list(words) for words in sentences], None, "sentences")
    return [
        {"words": words, "tags": [name for name, _ in tags], "scores": [p for _, p in tags]}
        for words, tags in zip(split.words, _tags(run, split, names, told), strict=True)
    ], 0


def _texts(
    run: TrainedRun, names: Sequence[str], texts: list[str], told: Share
) -> tuple[list[dict[str, Any]], int]:
    split = TextSplit.of(texts, run.tokenizer)
    make = _entities if are_entities(names) else _words
    results = []
    tagged = _tags(run, split, names, told)
    for text, spans, tags in zip(texts, split.spans, tagged, strict=True):
        # White space that a model has tokens for is no word to tag.
        words = [
            (start, end, name, score)
            for (start, end), (name, score) in zip(spans, tags, strict=True)
            if start < end
        ]
        results.append({"text": text} | make(text, words))
    # What does not fit into a row is read in several.
    return results, 0


# Where a word begins and ends, its tag and the tag's probability.
_Word = tuple[int, int, str, float]


def _words(text: str, words: list[_Word]) -> dict[str, Any]:
    return {
        "tags": [
            {"tag": name, "text": text[start:end], "start": start, "end": end, "score": score}
            for start, end, name, score in words
        ]
    }


def _entities(text: str, words: list[_Word]) -> dict[str, Any]:
    found = []
    for kind, first, after in entities_of([name for *_, name, _ in words]):
        start, end = words[first][0], words[after - 1][1]
        score = float(np.mean([score for *_, score in words[first:after]]))
        found.append(
            {"type": kind, "text": text[start:end], "start": start, "end": end, "score": score}
        )
    return {"entities": found}


def _tags(
    run: TrainedRun, split: TaggingSplit | TextSplit, names: Sequence[str], told: Share
) -> list[list[tuple[str, float]]]:
    """Returns the tag of each word of each text, with its probability."""
    buckets = buckets_for(run, split.num_words)
    examples = TaggingExamples(split, run.tokenizer, limit_of(run), length_buckets=buckets)
    outputs = outputs_of(run, TaggingObjective(), examples, told)
    return [[(names[index], score) for index, score in some] for some in examples.decode(outputs)]
