"""Which tokens of an example are predicted, and what stands in their place.

* `token`: single tokens, evenly (Devlin et al. 2019, section 3.1)
* `whole_word`: all tokens of a word or none (google-research/bert, "Whole Word Masking")
* `ngram`: runs of 1 to `max_ngram` words, n with a probability proportional to 1 / n (Lan et al.
  2019, section 3.1)
* `span`: runs of words of a clipped geometric length, replaced as one (Joshi et al. 2019, SpanBERT,
  section 3.1)

All of them work on the text tokens of many examples at once, one example after another ("flat"),
and every choice is a function of (seed, visit, chunk, position in the example).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ptft_jax.data.ragged import spread
from ptft_jax.data.randomness import as_below, as_uniform, extended, random_uint64
from ptft_jax.errors import ConfigError

STRATEGIES = ("token", "whole_word", "ngram", "span")
# An example's text is shorter than this, and so many examples are made at once at most.
MOST_PLACES = 1 << 13
_MOST_EXAMPLES = 1 << 20
# Spans that cannot be placed because their anchor is taken are drawn again, but not for ever.
_MOST_SPAN_ATTEMPTS = 1000


@dataclass(frozen=True)
class MaskingSettings:
    """How tokens are chosen and replaced; the defaults are BERT's.

    `masked_lm_prob` of an example's tokens (its special tokens counted, as in the original) are
    predicted, at least one and at most `max_predictions_per_seq`. Of them `mask_replace_prob`
    become [MASK], `random_replace_prob` a random token, the rest stay. `max_ngram` is for `ngram`;
    `span_geometric_p` and `span_max_words` are for `span`, whose mean is 3.8 words by default.
    """

    masking: str = "token"
    masked_lm_prob: float = 0.15
    max_predictions_per_seq: int = 20
    mask_replace_prob: float = 0.8
    random_replace_prob: float = 0.1
    max_ngram: int = 3
    span_geometric_p: float = 0.2
    span_max_words: int = 10

    def check(self) -> None:
        """Raise ConfigError for a value that cannot be used."""
        if self.masking not in STRATEGIES:
            raise ConfigError(f"masking={self.masking!r}: expected one of {', '.join(STRATEGIES)}")
        for name in ("masked_lm_prob", "span_geometric_p"):
            if not 0 < getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)}: expected between 0 and 1")
        for name in ("max_predictions_per_seq", "max_ngram", "span_max_words"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)}: expected at least 1")
        for name in ("mask_replace_prob", "random_replace_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name}={getattr(self, name)}: expected from 0 to 1")
        if self.mask_replace_prob + self.random_replace_prob > 1 + 1e-9:
            raise ConfigError(
                f"mask_replace_prob={self.mask_replace_prob} and random_replace_prob="
                f"{self.random_replace_prob}: expected a sum of at most 1 (the rest stays as it is)"
            )

    def predictions(self, lengths: np.ndarray, text_tokens: np.ndarray) -> np.ndarray:
        """How many tokens of examples of these lengths are predicted, int64 [E]."""
        count = np.rint(lengths * self.masked_lm_prob).astype(np.int64)
        return np.minimum(np.clip(count, 1, self.max_predictions_per_seq), text_tokens)


class FlatText(NamedTuple):
    """The text tokens (no special ones) of E examples, N in all.

    Attributes:
        ids: int32 [N].
        example: the example of each, ascending, int64 [N].
        position: its position in the example, [CLS] being 0, int64 [N].
        begins_stretch: whether it is the first of its stretch, bool [N].
        first: where each example begins, and the end, int64 [E + 1].
    """

    ids: np.ndarray
    example: np.ndarray
    position: np.ndarray
    begins_stretch: np.ndarray
    first: np.ndarray


class Draws:
    """The random numbers of E examples, each a function of (seed, visit, chunk) and of a counter.

    Duplicated by no other example: an example is one visit of one chunk.
    """

    def __init__(self, seed: int, visit: np.ndarray, chunk: np.ndarray) -> None:
        self._seed, self._visit, self._chunk = seed, visit, chunk

    def bits(self, stream: str, example: np.ndarray, counter: np.ndarray) -> np.ndarray:
        """uint64 [K] for counters [K] of examples [K]."""
        state = random_uint64(self._seed, stream, self._visit, self._chunk)
        return extended(state[example], counter)


class Chosen(NamedTuple):
    """The predicted tokens: flat indices, ascending, int64 [K]; and what is replaced as one.

    `unit` int64 [K] is the position of a token or, for spans, of the first token of its span.
    """

    index: np.ndarray
    unit: np.ndarray


def choose(
    settings: MaskingSettings,
    text: FlatText,
    count: np.ndarray,
    draws: Draws,
    continues_word: np.ndarray,
) -> Chosen:
    """Choose `count` [E] tokens of each example (fewer where no further word fits).

    `continues_word` bool [V] says which tokens belong to the word of the token before.
    """
    if settings.masking == "token":
        bits = draws.bits("masked position", text.example, text.position)
        # The `count` tokens of each example with the smallest bits.
        rank = np.arange(len(bits)) - text.first[text.example]
        order = _shuffled_groups(bits, text.example, text.first)
        index = np.sort(order[rank < count[text.example]])
        return Chosen(index, text.position[index])
    words = _Words(text, continues_word)
    if settings.masking == "span":
        return _choose_spans(settings, text, words, count, draws)
    most = settings.max_ngram if settings.masking == "ngram" else 1
    return _choose_words(most, text, words, count, draws)


def replace(
    settings: MaskingSettings,
    text: FlatText,
    chosen: Chosen,
    draws: Draws,
    mask_token_id: int,
    ordinary_ids: np.ndarray,
) -> np.ndarray:
    """What stands in the place of the chosen tokens, int32 [K].

    `ordinary_ids` are the tokens that a random replacement may be: all but the special ones. (The
    original may put [PAD] or [SEP] in the middle of a sentence.)
    """
    example = text.example[chosen.index]
    choice = as_uniform(draws.bits("replacement", example, chosen.unit))
    bits = draws.bits("random token", example, text.position[chosen.index])
    random_ids = ordinary_ids[as_below(len(ordinary_ids), bits)]
    stays = np.where(
        choice < settings.mask_replace_prob + settings.random_replace_prob,
        random_ids,
        text.ids[chosen.index],
    )
    return np.where(choice < settings.mask_replace_prob, mask_token_id, stays).astype(np.int32)


def _shuffled_groups(bits: np.ndarray, group: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Indices sorted by group (ascending already), and by their random bits within one.

    Sorted are numbers of 20 bits of the group, 31 random ones and 13 of the place in the group, so
    that no two are equal and the result is the same with any sorting code.
    """
    if len(first) - 1 > _MOST_EXAMPLES:
        raise ValueError(f"{len(first) - 1} examples at once, at most {_MOST_EXAMPLES}")
    start = first[group]
    key = group.astype(np.uint64) << np.uint64(44)
    key |= (bits >> np.uint64(33)) << np.uint64(13)
    key |= (np.arange(len(bits)) - start).astype(np.uint64)
    key.sort()
    return start + (key & np.uint64(MOST_PLACES - 1)).astype(np.int64)


class _Words:
    """The words of a flat text, W in all: a word is a token and those that continue it."""

    def __init__(self, text: FlatText, continues_word: np.ndarray):
        begins = text.begins_stretch | ~continues_word[text.ids]
        self.first = np.flatnonzero(begins)
        self.end = np.append(self.first[1:], len(text.ids))
        self.of_token = np.cumsum(begins) - 1
        self.example = text.example[self.first]
        # One past the last word of each word's stretch.
        stretch = np.cumsum(text.begins_stretch[self.first]) - 1
        ends = np.append(np.flatnonzero(text.begins_stretch[self.first])[1:], len(self.first))
        self.stretch_end = ends[stretch]
        self.first_of_example = np.searchsorted(self.example, np.arange(len(text.first)))


def _choose_words(
    most: int, text: FlatText, words: _Words, count: np.ndarray, draws: Draws
) -> Chosen:
    """Visit the words of each example in random order; take runs of words while they fit.

    As in the authors' code, a run that would exceed the number of predictions is shortened word by
    word, and one that touches a taken word is left out.
    """
    position = text.position[words.first]
    bits = draws.bits("masked word", words.example, position)
    order = _shuffled_groups(bits, words.example, words.first_of_example)
    longest = 1 + np.arange(most)
    cumulative = np.cumsum(1 / longest) / np.sum(1 / longest)
    drawn = as_uniform(draws.bits("n-gram", words.example, position))
    wanted = 1 + np.minimum(np.searchsorted(cumulative, drawn, side="right"), most - 1)
    wanted = np.minimum(wanted, words.stretch_end - np.arange(len(wanted)))
    room = count.copy()
    taken = np.zeros(len(words.first), bool)

    def attempt(active: np.ndarray, rank: int) -> np.ndarray:
        word = order[words.first_of_example[active] + rank]
        number = wanted[word]
        for _ in range(most):
            too_long = words.end[word + number - 1] - words.first[word] > room[active]
            number = number - (too_long & (number > 0))
        fits = (number > 0) & (words.end[word + number - 1] - words.first[word] <= room[active])
        for ahead in range(most):
            covered = (ahead < number) & taken[np.minimum(word + ahead, len(taken) - 1)]
            fits &= ~covered
        word, number, example = word[fits], number[fits], active[fits]
        taken[spread(word, number)] = True
        room[example] -= words.end[word + number - 1] - words.first[word]
        left = np.diff(words.first_of_example)[active] > rank + 1
        return active[left & (room[active] > 0)]

    _until_none(attempt, np.flatnonzero(room > 0))
    index = spread(words.first[taken], (words.end - words.first)[taken])
    return Chosen(index, text.position[index])


def _choose_spans(
    settings: MaskingSettings, text: FlatText, words: _Words, count: np.ndarray, draws: Draws
) -> Chosen:
    """Draw spans until the number of predictions is reached: its last one is cut there.

    A span begins with the word of a random token, and is drawn again if that token is taken; it
    ends at the latest with its stretch, or before a token that another span has.
    """
    lengths = 1 + np.arange(settings.span_max_words)
    weight = settings.span_geometric_p * (1 - settings.span_geometric_p) ** (lengths - 1)
    cumulative = np.cumsum(weight) / weight.sum()
    room = count.copy()
    taken = np.zeros(len(text.ids), bool)
    unit = np.zeros(len(text.ids), np.int64)
    sizes = np.diff(text.first)

    def attempt(active: np.ndarray, number: int) -> np.ndarray:
        if number >= _MOST_SPAN_ATTEMPTS:
            return active[:0]
        counter = np.full(len(active), number)
        anchor = text.first[active] + as_below(
            sizes[active], draws.bits("span anchor", active, counter)
        )
        word = words.of_token[anchor]
        drawn = as_uniform(draws.bits("span length", active, counter))
        wanted = lengths[
            np.minimum(np.searchsorted(cumulative, drawn, side="right"), len(lengths) - 1)
        ]
        last = np.minimum(word + wanted, words.stretch_end[word]) - 1
        start, end = words.first[word], words.end[last]
        end = np.minimum(end, start + room[active])
        # Up to the first taken token.
        ahead = np.arange(max(1, int((end - start).max(initial=1))))
        tokens = np.minimum(start[:, None] + ahead, len(taken) - 1)
        blocked = taken[tokens] | (ahead >= (end - start)[:, None])
        free = np.where(blocked.any(axis=1), blocked.argmax(axis=1), len(ahead))
        placed = ~taken[anchor] & (free > 0)
        start, free, example = start[placed], free[placed], active[placed]
        covered = spread(start, free)
        taken[covered] = True
        unit[covered] = np.repeat(text.position[start], free)
        room[example] -= free
        return active[room[active] > 0]

    _until_none(attempt, np.flatnonzero(room > 0))
    index = np.flatnonzero(taken)
    return Chosen(index, unit[index])


def _until_none(attempt: Callable[[np.ndarray, int], np.ndarray], active: np.ndarray) -> None:
    """Call attempt(active, 0), attempt(…, 1), … with the examples that it says go on."""
    number = 0
    while len(active):
        active = attempt(active, number)
        number += 1
