"""Tagging of words: named entities, slots, parts of speech.

Words are tokenised one by one, as by transformers with `is_split_into_words=True`, and a sentence
becomes `[CLS] A [SEP]`. A word's tag is read at its first token (Devlin et al. 2019, section 5.3),
so a word of which the tokenizer leaves nothing stands there as the unknown token. A sentence longer
than a row is spread over windows that overlap: each word is labelled, and its tag is taken, in the
window in which it has most context.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import batched

import numpy as np

from ptft_jax.data.batches import Batch, InEpochs
from ptft_jax.data.ragged import firsts, spread
from ptft_jax.data.tasks.classification import length_buckets_of
from ptft_jax.data.tasks.tagging.splits import TaggingSplit
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer

# Sentences tokenised at once: enough for all cores, few enough lists of integers to hold.
_BLOCK = 8192


@dataclass(frozen=True)
class TextSplit:
    """Texts to tag, with the words that a tokenizer finds in them.

    spans: where each word of each text stands, [start, end) in characters; empty where it is white
    space. encoded: of each text the ids of its tokens, and the number of each token's word.
    """

    texts: list[str]
    spans: list[list[tuple[int, int]]]
    encoded: list[tuple[list[int], list[int]]]
    tags: None = None

    @classmethod
    def of(cls, texts: Sequence[str], tokenizer: TextTokenizer) -> "TextSplit":
        """Splits texts into words."""
        found = tokenizer.encode_text_words(texts)
        return cls(
            list(texts), [spans for *_, spans in found], [(ids, words) for ids, words, _ in found]
        )

    @property
    def num_words(self) -> list[int]:
        """The number of words of each text."""
        return [len(spans) for spans in self.spans]


class TaggingExamples(InEpochs):
    """Random access to the windows of one split: index g is window g % len of epoch g // len.

    A sentence that fits into a row is one window. Each batch is padded to the smallest bucket that
    holds its longest window; `buckets` are the lengths in use, the last is `max_seq_length`.
    `num_truncated` counts the sentences that did not fit into one window, `num_unknown` the words
    that the tokenizer leaves nothing of. `lengths` are the tokens of each window, int64 [N].
    """

    token_keys = ("labels", "label_weights")

    def __init__(
        self,
        split: TaggingSplit | TextSplit,
        tokenizer: TextTokenizer,
        max_seq_length: int,
        *,
        label_all_subwords: bool = False,
        inside: Mapping[int, int] | None = None,
        seed: int = 0,
        shuffle: bool = False,
        length_buckets: Sequence[int] | None = None,
    ) -> None:
        """Tokenises a split.

        label_all_subwords: every token of a word has its label, not the first one alone; `inside`
            maps the tag of a word to that of its further tokens where they differ (B-X to I-X).
        shuffle: each epoch has its own order, which depends on nothing but (seed, epoch).
        length_buckets: None means the multiples of 32; () pads everything to max_seq_length.
        Raises ConfigError for lengths that cannot be.
        """
        self.buckets = length_buckets_of(max_seq_length, length_buckets)
        self._tokenizer = tokenizer
        self._seed, self._shuffle = seed, shuffle
        self._label_all = label_all_subwords
        self._read(split, inside or {})
        self._cut(max_seq_length - 2)

    def _read(self, split: TaggingSplit | TextSplit, inside: Mapping[int, int]) -> None:
        """Token t of the split, all sentences one behind the other, is self._tokens[t]."""
        unknown = self._tokenizer.unk_token_id
        stand_in = self._tokenizer.mask_token_id if unknown is None else unknown
        encoded = _encoded(split, self._tokenizer)
        self._num_words = np.array(split.num_words, np.int64)
        ids, words, self.num_unknown = [], [], 0
        for number, (tokens, numbers) in enumerate(encoded):
            found = set(numbers)
            if len(found) < self._num_words[number]:
                missing = [w for w in range(self._num_words[number]) if w not in found]
                self.num_unknown += len(missing)
                numbers = np.array([*numbers, *missing])
                order = np.argsort(numbers, kind="stable")
                tokens = np.array([*tokens, *[stand_in] * len(missing)])[order]
                numbers = numbers[order]
            ids.append(np.array(tokens, np.int32))
            words.append(np.array(numbers, np.int64))
        self._sizes = np.array([len(tokens) for tokens in ids], np.int64)
        self._tokens = np.concatenate([np.zeros(0, np.int32), *ids])
        word_of = np.concatenate([np.zeros(0, np.int64), *words])
        word_of += np.repeat(firsts(self._num_words), self._sizes)
        self._is_first = np.diff(word_of, prepend=-1) > 0
        # The place of the first token of each token's word.
        self._heads = np.flatnonzero(self._is_first)
        self._head_of = self._heads[word_of]
        self._labels = None
        if split.tags is not None:
            tags = np.concatenate([np.zeros(0, np.int32), *split.tags])
            further = np.array([inside.get(int(tag), int(tag)) for tag in tags], np.int32)
            self._labels = np.where(self._is_first, tags[word_of], further[word_of])

    def _cut(self, room: int) -> None:
        """Window i is tokens [_starts[i], _ends[i]); it labels words that begin in [_from, _to).

        Neighbouring windows share half of their tokens.
        """
        step = room - room // 2
        beyond = np.maximum(self._sizes - room, 0)
        counts = 1 + -(-beyond // step)
        self.num_truncated = int(np.sum(counts > 1))
        number = spread(np.zeros_like(counts), counts)
        starts = np.minimum(number * step, np.repeat(beyond, counts))
        bases, sizes = np.repeat(firsts(self._sizes), counts), np.repeat(self._sizes, counts)
        ends = np.minimum(starts + room, sizes)
        # Half-way between the middles of two windows of equal length, their contexts are equal.
        borders = (starts[:-1] + ends[1:] + 1) // 2
        is_first, is_last = number == 0, number == np.repeat(counts, counts) - 1
        self._from = bases + np.where(is_first, 0, np.concatenate([[0], borders]))
        self._to = bases + np.where(is_last, sizes, np.concatenate([borders, [0]]))
        self._starts, self._ends = bases + starts, bases + ends
        self.lengths = self._ends - self._starts + 2
        self._window_of = np.searchsorted(self._to, self._heads, side="right")

    def __len__(self) -> int:
        return len(self._starts)

    def batch(self, indices: np.ndarray) -> Batch:
        """The windows at global `indices` (int64 `[B]`), padded together.

        input_ids, attention_mask and token_type_ids are int32 `[B, T]`, weights float32
        `[B, 1]` (ones), labels int32 and label_weights float32 `[B, T]` (1 where a label is
        read); a split without tags has no labels and no label_weights.
        """
        rows = self.rows(indices)
        lengths = self.lengths[rows] - 2
        length = next(bucket for bucket in self.buckets if bucket >= lengths.max() + 2)
        positions = np.arange(length)
        is_text = (positions > 0) & (positions <= lengths[:, None])
        places = np.where(is_text, self._starts[rows, None] + positions - 1, 0)
        input_ids = np.full(is_text.shape, self._tokenizer.pad_token_id, np.int32)
        input_ids[is_text] = self._tokens[places[is_text]]
        input_ids[:, 0] = self._tokenizer.cls_token_id
        input_ids[np.arange(len(rows)), lengths + 1] = self._tokenizer.sep_token_id
        batch = {
            "input_ids": input_ids,
            "attention_mask": (positions < lengths[:, None] + 2).astype(np.int32),
            "token_type_ids": np.zeros(is_text.shape, np.int32),
            "weights": np.ones((len(rows), 1), np.float32),
        }
        if self._labels is not None:
            heads = np.zeros(is_text.shape, np.int64)
            heads[is_text] = self._head_of[places[is_text]]
            is_read = is_text & (self._from[rows, None] <= heads) & (heads < self._to[rows, None])
            if not self._label_all:
                is_read[is_read] = self._is_first[places[is_read]]
            batch["labels"] = np.zeros(is_text.shape, np.int32)
            batch["labels"][is_read] = self._labels[places[is_read]]
            batch["label_weights"] = is_read.astype(np.float32)
        return batch

    def decode(self, outputs: Mapping[str, np.ndarray]) -> list[list[tuple[int, float]]]:
        """The tag id of each word of each sentence, and its probability.

        outputs: of all windows in their order, "tags" int `[N, T]` and "scores" float `[N, T]`.
        """
        columns = self._heads - self._starts[self._window_of] + 1
        tags = outputs["tags"][self._window_of, columns].tolist()
        scores = outputs["scores"][self._window_of, columns].tolist()
        pairs = list(zip(tags, scores, strict=True))
        starts = firsts(self._num_words)
        return [pairs[a : a + n] for a, n in zip(starts, self._num_words, strict=True)]


def _encoded(
    split: TaggingSplit | TextSplit, tokenizer: TextTokenizer
) -> list[tuple[list[int], list[int]]]:
    """The ids of each sentence's tokens, and the number of each token's word."""
    if isinstance(split, TextSplit):
        return split.encoded
    blocks = batched(split.words, _BLOCK)
    return [encoded for block in blocks for encoded in tokenizer.encode_words(block)]
