"""Texts in a sentence with a gap, whose likeliest word says what class they are of.

Pattern and verbalizer of Schick and Schütze 2021 ("Exploiting Cloze Questions for Few Shot Text
Classification and Natural Language Inference").
"""

import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from ptft_jax.data.batches import Batch
from ptft_jax.data.ragged import firsts
from ptft_jax.data.tasks.classification import (
    ClassificationExamples,
    Formatted,
    encode_texts,
    longest_first,
)
from ptft_jax.data.tasks.table import Split
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
from ptft_jax.errors import ConfigError

MASK = "[MASK]"
"""How a template spells the gap, whatever the tokenizer calls it."""
_FIELDS = {"{text}": 0, "{text_a}": 0, "{text_b}": 1}
_PLACE = re.compile(r"(\s*)(\{[^{}]*\}|\[MASK\])")


class Template:
    """A sentence with a gap and a place for each text: "{text} It was [MASK]."."""

    def __init__(self, text: str, pairs: bool):
        """Reads a template; `pairs`: whether it is for two texts.

        Raises ConfigError for one without a single gap, or without a place for each text.
        """
        key = f"few_shot.template={text!r}"
        if text.count(MASK) != 1:
            raise ConfigError(f"{key}: {text.count(MASK)} times {MASK}; expected it once")
        wanted = ["{text_a}", "{text_b}"] if pairs else ["{text}"]
        found = re.findall(r"\{[^{}]*\}", text)
        if sorted(found) != wanted:
            raise ConfigError(
                f"{key} has the places {', '.join(found) or 'none'}; expected "
                f"{' and '.join(wanted)}, once"
            )
        # What stands between, and which text, or the gap, follows it, with the space before that.
        self._pieces: list[str] = []
        self._places: list[tuple[str, int | None]] = []
        end = 0
        for match in _PLACE.finditer(text):
            self._pieces.append(text[end : match.start()])
            self._places.append((match[1], _FIELDS.get(match[2])))
            end = match.end()
        self._pieces.append(text[end:])

    def fill(self, split: Split, tokenizer: TextTokenizer, most: int) -> tuple[Formatted, Any]:
        """Returns a split's texts in the template, and the place of each one's gap, int64 [N].

        Of texts that do not fit into `most` tokens the ends are left out.
        """
        pieces = [np.array(ids, np.int32) for ids in tokenizer.encode_batch(self._pieces)]
        spaces = {text: space for space, text in self._places if text is not None}
        given = [split.texts_a, *([] if split.texts_b is None else [split.texts_b])]
        encoded = [
            encode_texts([spaces[number] + text for text in texts], tokenizer)
            for number, texts in enumerate(given)
        ]
        none = np.zeros(len(split), np.int64)
        lengths = [sizes for _, sizes in encoded]
        room = most - 3 - sum(map(len, pieces))
        if room < len(given):
            raise ConfigError(
                f"max_seq_length={most}: the template alone has {most - room} tokens; expected "
                "more, so that texts fit in"
            )
        kept = longest_first(lengths[0], lengths[1] if len(lengths) == 2 else none, room)
        is_cut = np.any([size > keeps for size, keeps in zip(lengths, kept, strict=False)], axis=0)
        rows, gaps = [], none.copy()
        begins = [firsts(sizes) for sizes in lengths]
        for row in range(len(split)):
            parts = [np.array([tokenizer.cls_token_id], np.int32)]
            for piece, (_, text) in zip(pieces[:-1], self._places, strict=True):
                parts.append(piece)
                if text is None:
                    gaps[row] = sum(map(len, parts))
                    parts.append(np.array([tokenizer.mask_token_id], np.int32))
                else:
                    first = begins[text][row]
                    parts.append(encoded[text][0][first : first + kept[text][row]])
            parts += [pieces[-1], np.array([tokenizer.sep_token_id], np.int32)]
            rows.append(np.concatenate(parts))
        sizes = np.array([len(row) for row in rows], np.int64)
        return Formatted(np.concatenate(rows), firsts(sizes), sizes, sizes, is_cut), gaps


class PromptedExamples(ClassificationExamples):
    """Random access to texts in a template; see `ClassificationExamples`.

    `pooled_positions` are those of the gaps.
    """

    def __init__(
        self, template: Template, split: Split, tokenizer: TextTokenizer, *args: Any, **more: Any
    ):
        """Fills in a split; other arguments as of `ClassificationExamples`."""
        self._template = template
        super().__init__(split, tokenizer, *args, **more)

    def _formatted(self, split: Split, tokenizer: TextTokenizer, max_seq_length: int) -> Formatted:
        found, self._gaps = self._template.fill(split, tokenizer, max_seq_length)
        return found

    def batch(self, indices: np.ndarray) -> Batch:
        """The examples at global `indices` (int64 `[B]`), padded together."""
        places = self._gaps[self.rows(indices)].astype(np.int32)
        return super().batch(indices) | {"pooled_positions": places[:, None]}


def read_words(
    text: str, labels: Sequence[str], tokenizer: TextTokenizer
) -> tuple[tuple[int, ...], ...]:
    """Returns the ids of the words that stand for each class, in the order of the labels.

    Args:
        text: "bad/awful,good/great" in the order of the labels, or a JSON object from labels to
            words or lists of them; "": the labels themselves.
        labels: names of the classes.
        tokenizer: to which each word has to be one token.

    Raises:
        ConfigError: a class without a word, a word that is not one token or stands for two classes.
    """
    key = f"few_shot.words={text!r}"
    if text.lstrip().startswith("{"):
        try:
            given = json.loads(text)
        except ValueError as error:
            raise ConfigError(f"{key}: no JSON ({error})") from error
        if not isinstance(given, dict) or set(given) != set(labels):
            raise ConfigError(f"{key}: expected words for each of {', '.join(labels)}")
        found = [given[label] for label in labels]
        words = [[one] if isinstance(one, str) else one for one in found]
        lists = all(isinstance(some, list) for some in words)
        if not lists or not all(isinstance(word, str) for some in words for word in some):
            raise ConfigError(f"{key}: expected a word, or a list of words, for each label")
    else:
        words = [part.split("/") for part in text.split(",")] if text else [[one] for one in labels]
    if len(words) != len(labels) or not all(words):
        raise ConfigError(
            f"{key}: words for {len(words)} classes; expected some for each of {', '.join(labels)}"
        )
    ids: list[tuple[int, ...]] = []
    for some in words:
        encoded = tokenizer.encode_batch([f" {word.strip()}" for word in some])
        for word, tokens in zip(some, encoded, strict=True):
            if len(tokens) != 1 or tokens[0] in tokenizer.special_ids:
                raise ConfigError(
                    f"{key}: {word!r} is no single token of this model's vocabulary; expected a "
                    "word that is"
                )
        ids.append(tuple(tokens[0] for tokens in encoded))
    every = [one for some in ids for one in some]
    if len(set(every)) < len(every):
        raise ConfigError(f"{key}: a word stands twice; expected different ones")
    return tuple(ids)
