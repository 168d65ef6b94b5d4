"""Examples of a classification or regression task, as batches of BERT's input.

A text becomes `[CLS] A [SEP]`, a pair `[CLS] A [SEP] B [SEP]` with token type 1 from B on (Devlin
et al. 2019, section 3.2). Truncation is that of Hugging Face's fast tokenizers with
`truncation=True`. All texts are tokenised once, when the examples are made.
"""

from collections.abc import Sequence
from itertools import batched
from typing import Any, NamedTuple, Protocol

import numpy as np

from ptft_jax.data.batches import Batch, InEpochs
from ptft_jax.data.ragged import firsts, spread
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
from ptft_jax.errors import ConfigError

BUCKET_STEP = 32
# Texts tokenised at once: enough for all cores, and few enough lists of Python integers to hold.
BLOCK = 8192


class Formatted(NamedTuple):
    """Texts, or pairs, with [CLS] and [SEP], one behind the other.

    Attributes:
        tokens: int32; text i is tokens[starts[i]:][: lengths[i]].
        starts, lengths: int64 `[N]`.
        first_lengths: where the second text of a pair begins, int64 `[N]`.
        is_cut: whether a text did not fit, bool `[N]`.
    """

    tokens: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    first_lengths: np.ndarray
    is_cut: np.ndarray


def format_texts(
    texts_a: Sequence[str],
    texts_b: Sequence[str] | None,
    tokenizer: TextTokenizer,
    max_seq_length: int,
) -> Formatted:
    """Tokenises texts, or pairs, cuts them and puts the special tokens around them."""
    tokens_a, lengths_a = encode_texts(texts_a, tokenizer)
    special, tokens_b = 2, None
    lengths_b = np.zeros_like(lengths_a)
    if texts_b is not None:
        special = 3
        tokens_b, lengths_b = encode_texts(texts_b, tokenizer)
    kept_a, kept_b = longest_first(lengths_a, lengths_b, max_seq_length - special)
    lengths, first_lengths = kept_a + kept_b + special, kept_a + 2
    starts = firsts(lengths)
    tokens = np.full(int(lengths.sum()), tokenizer.sep_token_id, np.int32)
    tokens[starts] = tokenizer.cls_token_id
    tokens[spread(starts + 1, kept_a)] = tokens_a[spread(firsts(lengths_a), kept_a)]
    if tokens_b is not None:
        begin_b = starts + first_lengths
        tokens[spread(begin_b, kept_b)] = tokens_b[spread(firsts(lengths_b), kept_b)]
    is_cut = (kept_a < lengths_a) | (kept_b < lengths_b)
    return Formatted(tokens, starts, lengths, first_lengths, is_cut)


class Labelled(Protocol):
    """A split of texts, whatever form they have.

    labels: as in `table.Split`.
    """

    @property
    def labels(self) -> np.ndarray | None: ...


class ClassificationExamples(InEpochs):
    """Random access to the examples of one split: index g is example g % len of epoch g // len.

    Each batch is padded to the smallest bucket that holds its longest example, so a jitted step is
    compiled once per bucket that occurs. `buckets` are the lengths in use, the last is
    `max_seq_length`. `lengths` are the tokens of each example, int64 [N]; `is_cut` says which did
    not fit, bool [N], and `num_truncated` how many.
    """

    token_keys = ()

    def __init__(
        self,
        split: Labelled,
        tokenizer: TextTokenizer,
        max_seq_length: int,
        *,
        seed: int = 0,
        shuffle: bool = False,
        length_buckets: Sequence[int] | None = None,
    ) -> None:
        """Tokenises a split.

        shuffle: each epoch has its own order, which depends on nothing but (seed, epoch); without
        it every epoch has the order of the file. length_buckets: None means the multiples of 32;
        () pads everything to max_seq_length. Raises ConfigError for lengths that cannot be.
        """
        self.buckets = length_buckets_of(max_seq_length, length_buckets)
        self._pad_token_id = tokenizer.pad_token_id
        self._labels = split.labels
        self._seed = seed
        self._shuffle = shuffle
        self._texts = self._formatted(split, tokenizer, max_seq_length)
        self.lengths = self._texts.lengths
        self.is_cut = self._texts.is_cut
        self.num_truncated = int(self._texts.is_cut.sum())

    def _formatted(self, split: Any, tokenizer: TextTokenizer, max_seq_length: int) -> Formatted:
        return format_texts(split.texts_a, split.texts_b, tokenizer, max_seq_length)

    def __len__(self) -> int:
        return len(self._texts.lengths)

    def batch(self, indices: np.ndarray) -> Batch:
        """The examples at global `indices` (int64 `[B]`), padded together.

        input_ids, attention_mask and token_type_ids are int32 `[B, T]`, pooled_positions int32
        `[B, 1]` (zeros: the place of [CLS]), weights float32 `[B, 1]` (ones), labels int32 or
        float32 `[B, 1]` (multi-label `[B, 1, K]`); a split without labels has no labels here.
        """
        return self._batch_of(self.rows(indices))

    def _batch_of(self, rows: np.ndarray) -> Batch:
        texts = self._texts
        lengths = texts.lengths[rows]
        length = next(bucket for bucket in self.buckets if bucket >= lengths.max())
        positions = np.arange(length)
        is_real = positions < lengths[:, None]
        places = np.where(is_real, texts.starts[rows, None] + positions, 0)
        is_second = is_real & (positions >= texts.first_lengths[rows, None])
        batch = {
            "input_ids": np.where(is_real, texts.tokens[places], np.int32(self._pad_token_id)),
            "attention_mask": is_real.astype(np.int32),
            "token_type_ids": is_second.astype(np.int32),
            "pooled_positions": np.zeros((len(rows), 1), np.int32),
            "weights": np.ones((len(rows), 1), np.float32),
        }
        if self._labels is not None:
            batch["labels"] = self._labels[rows][:, None]
        return batch


def length_buckets_of(max_seq_length: int, length_buckets: Sequence[int] | None) -> tuple[int, ...]:
    """The lengths that rows are padded to, the longest last; None means the multiples of 32.

    Raises ConfigError for lengths that cannot be.
    """
    if max_seq_length < 5:  # [CLS], two times [SEP], and a token of each text
        raise ConfigError(f"max_seq_length={max_seq_length}: expected at least 5")
    if length_buckets is None:
        length_buckets = range(BUCKET_STEP, max_seq_length, BUCKET_STEP)
    if any(bucket < 1 for bucket in length_buckets):
        raise ConfigError(f"length_buckets={tuple(length_buckets)}: expected positive lengths")
    return (*sorted({b for b in length_buckets if b < max_seq_length}), max_seq_length)


def encode_texts(texts: Sequence[str], tokenizer: TextTokenizer) -> tuple[np.ndarray, np.ndarray]:
    """The tokens of all texts in one int32 array, and the number of tokens of each text."""
    tokens, lengths = [np.zeros(0, np.int32)], []
    for block in batched(texts, BLOCK):
        encoded = tokenizer.encode_batch(block)
        lengths += [len(ids) for ids in encoded]
        tokens += [np.array([token for ids in encoded for token in ids], np.int32)]
    return np.concatenate(tokens), np.array(lengths, np.int64)


def longest_first(
    lengths_a: np.ndarray, lengths_b: np.ndarray, room: int
) -> tuple[np.ndarray, np.ndarray]:
    """How many tokens of A and of B remain when at most `room` of both fit.

    The longer one is cut until both are equal, then both are; an odd token goes to the longer one,
    or to B. Follows `truncate_encodings` of huggingface/tokenizers (utils/truncation.rs).
    """
    shorter, longer = np.minimum(lengths_a, lengths_b), np.maximum(lengths_a, lengths_b)
    cut_longer = np.maximum(shorter, room - shorter)
    cut_both = shorter + cut_longer > room
    kept_shorter = np.where(cut_both, room // 2, shorter)
    kept_longer = np.where(cut_both, room // 2 + room % 2, np.minimum(longer, cut_longer))
    fits = lengths_a + lengths_b <= room
    a_is_longer = lengths_a > lengths_b
    kept_a = np.where(a_is_longer, kept_longer, kept_shorter)
    kept_b = np.where(a_is_longer, kept_shorter, kept_longer)
    return np.where(fits, lengths_a, kept_a), np.where(fits, lengths_b, kept_b)
