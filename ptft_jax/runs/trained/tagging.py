"""What a tagger says of texts, or of sentences that are split into words already."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ptft_jax.data.tasks.tagging import TaggingExamples, TaggingSplit, TextSplit
from ptft_jax.data.tasks.tags import are_entities
from ptft_jax.errors import ConfigError
from ptft_jax.objectives.entities import entities_of
from ptft_jax.objectives.metrics import check_outputs
from ptft_jax.objectives.tagging import TaggingObjective
from ptft_jax.runs.folder import TrainedRun
from ptft_jax.runs.trained.texts import filled_batches, limit_of, outputs_step

_BATCH = 32


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
    names = run.record.labels or tuple(map(str, range(run.model_config.num_labels)))
    if all(are_sentences):
        split = TaggingSplit([list(words) for words in texts], None, "sentences")
        return [
            {"words": words, "tags": [name for name, _ in tags], "scores": [p for _, p in tags]}
            for words, tags in zip(split.words, _tags(run, split, names, told), strict=True)
        ]
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
    return results


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
    run: TrainedRun,
    split: TaggingSplit | TextSplit,
    names: Sequence[str],
    told: Callable[[int, int], None],
) -> list[list[tuple[str, float]]]:
    """Returns the tag of each word of each text, with its probability."""
    examples = TaggingExamples(split, run.tokenizer, limit_of(run))
    step = outputs_step(run.model_config, TaggingObjective())
    shape = len(examples), examples.buckets[-1]
    outputs = {"tags": np.zeros(shape, np.int32), "scores": np.zeros(shape, np.float32)}
    for numbers, batch in filled_batches(examples, _BATCH):
        for name, values in step(run.params, batch).items():
            rows = np.asarray(values)[: len(numbers)]
            outputs[name][numbers, : rows.shape[1]] = rows
        check_outputs(outputs["scores"][numbers])
        told(len(split.num_words) * (numbers[-1] + 1) // len(examples), len(split.num_words))
    return [[(names[index], score) for index, score in some] for some in examples.decode(outputs)]
