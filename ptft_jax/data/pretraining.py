"""Sentence pairs with masked tokens (MLM + NSP), made afresh for every epoch, by index.

Follows google-research/bert `create_pretraining_data.py`, with random access in place of one pass.
Where it differs:

* Chunks (consecutive sentences of a document, up to a target length) are fixed for a run, and an
  epoch has every chunk once. In the original, the sentences that a random next sentence displaced
  begin the next chunk; here they are missing in that epoch only, since each epoch draws anew.
* One chunk in ten has a shorter target length, drawn for the chunk and not for its document.
* A random replacement is drawn from the vocabulary without the special tokens; the original may
  put [PAD] or [SEP] in the middle of a sentence.

Every choice is a function of (seed, epoch, chunk), so it depends on neither batches nor processes.
"""

from dataclasses import dataclass

import numpy as np

from ptft_jax.data.corpus import Corpus
from ptft_jax.data.randomness import random_below, random_uint64, shuffled_index, uniform
from ptft_jax.data.tokenizer import TextTokenizer
from ptft_jax.errors import ConfigError, DataError

# [CLS] A [SEP] B [SEP]
_SPECIAL_TOKENS_PER_PAIR = 3
_RANDOM_NEXT_PROBABILITY = 0.5
_MASK_PROBABILITY = 0.8
_KEEP_PROBABILITY = 0.1


@dataclass(frozen=True)
class PretrainingSettings:
    """How examples are made; the defaults are those of the original for sequences of 128.

    `max_seq_length` counts the special tokens. `masked_lm_prob` of a sequence's tokens are
    predicted, at least one and at most `max_predictions_per_seq`. `short_seq_prob` of the chunks
    aim at a shorter length, uniform from 2.
    """

    seed: int = 0
    max_seq_length: int = 128
    max_predictions_per_seq: int = 20
    masked_lm_prob: float = 0.15
    short_seq_prob: float = 0.1

    def check(self) -> None:
        """Raise ConfigError for a value that cannot be used."""
        if self.max_seq_length < 8:
            raise ConfigError(f"max_seq_length={self.max_seq_length}: expected at least 8")
        if not 1 <= self.max_predictions_per_seq <= self.max_seq_length - _SPECIAL_TOKENS_PER_PAIR:
            raise ConfigError(
                f"max_predictions_per_seq={self.max_predictions_per_seq}: expected from 1 to "
                f"max_seq_length - 3 = {self.max_seq_length - _SPECIAL_TOKENS_PER_PAIR}"
            )
        if not 0 < self.masked_lm_prob < 1:
            raise ConfigError(f"masked_lm_prob={self.masked_lm_prob}: expected between 0 and 1")
        if not 0 <= self.short_seq_prob <= 1:
            raise ConfigError(f"short_seq_prob={self.short_seq_prob}: expected from 0 to 1")


class PretrainingExamples:
    """The examples of a corpus: len(self) in an epoch, in another order and masked anew in each.

    Global index g is entry g % len of epoch g // len; every epoch has each chunk of the corpus
    once.
    """

    fixed_shape = True

    def __init__(
        self, corpus: Corpus, tokenizer: TextTokenizer, settings: PretrainingSettings
    ) -> None:
        """Cut the corpus into chunks: about 8 bytes of memory for each.

        Raises ConfigError for the settings, DataError when the tokenizer is not the corpus's or
        the corpus has one document, which leaves no other for a random next sentence.
        """
        settings.check()
        if tokenizer.sha256 != corpus.manifest.tokenizer_sha256:
            raise DataError(
                f"the tokenizer ({tokenizer.vocab_size} tokens) is not the one the corpus was "
                f"encoded with ({corpus.vocab_size} tokens): use the one in {corpus.tokenizer_dir}"
            )
        if corpus.num_documents < 2:
            raise DataError(
                f"the {corpus.split} split has {corpus.num_documents} document, expected at least "
                "2: next sentence prediction takes its random sentences from another document"
            )
        self._corpus = corpus
        self._tokenizer = tokenizer
        self._settings = settings
        self._max_tokens = settings.max_seq_length - _SPECIAL_TOKENS_PER_PAIR
        is_special = np.isin(np.arange(tokenizer.vocab_size), tokenizer.special_ids)
        self._ordinary_ids = np.flatnonzero(~is_special).astype(np.int32)
        # Chunk i is the sentences from _chunks[i] up to _chunks[i + 1].
        self._chunks = self._cut_into_chunks()

    def __len__(self) -> int:
        return len(self._chunks) - 1

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """The example at global `index`, its arrays without the batch axis."""
        return {name: array[0] for name, array in self.batch(np.array([index])).items()}

    def _targets(self, first_sentence: np.ndarray) -> np.ndarray:
        """The number of tokens that the chunk beginning at each sentence aims at."""
        seed = self._settings.seed
        is_short = uniform(seed, "short", first_sentence) < self._settings.short_seq_prob
        short = 2 + random_below(self._max_tokens - 1, seed, "short length", first_sentence)
        return np.where(is_short, short, self._max_tokens)

    def _cut_into_chunks(self) -> np.ndarray:
        """The first sentence of each chunk, and the end: int64 [chunks + 1], ascending.

        A chunk ends with the sentence that reaches the target, or with its document. All documents
        are cut in step, so that the work is a few array operations for each chunk of the longest.
        """
        offsets = self._corpus.sentence_offsets
        starts = self._corpus.document_offsets[:-1]
        ends = self._corpus.document_offsets[1:]
        found = []
        while len(starts):
            found.append(starts)
            # The smallest next start with offsets[next] - offsets[start] >= target.
            following = np.searchsorted(offsets, offsets[starts] + self._targets(starts))
            goes_on = following < ends
            starts, ends = following[goes_on], ends[goes_on]
        found.append(np.array([self._corpus.num_sentences]))
        return np.sort(np.concatenate(found))

    def batch(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """The examples at global `indices` (int64 [B]), stacked.

        int32: input_ids, attention_mask (1 real, 0 padding), token_type_ids [B, T];
        masked_lm_positions (ascending), masked_lm_ids [B, M]; pooled_positions (of [CLS]),
        next_sentence_labels (0: B follows A, 1: random) [B, 1].
        float32: masked_lm_weights [B, M] (0: unused), next_sentence_weights [B, 1].
        """
        epoch, entry = np.divmod(np.asarray(indices, np.int64), len(self))
        chunk = shuffled_index(entry, len(self), self._settings.seed, epoch)
        is_random, starts, lengths = self._pair(epoch, chunk)
        starts, lengths = self._truncate(epoch, chunk, starts, lengths)
        arrays, is_maskable = self._lay_out(starts, lengths)
        self._mask(epoch, chunk, arrays, is_maskable, lengths.sum(axis=0))
        count = len(chunk)
        return {
            **arrays,
            "pooled_positions": np.zeros((count, 1), np.int32),
            "next_sentence_labels": is_random[:, None].astype(np.int32),
            "next_sentence_weights": np.ones((count, 1), np.float32),
        }

    def _pair(
        self, epoch: np.ndarray, chunk: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Whether B is random; the first token and the length of A and of B, int64 [2, B]."""
        seed = self._settings.seed
        offsets, documents = self._corpus.sentence_offsets, self._corpus.document_offsets
        first, end = self._chunks[chunk], self._chunks[chunk + 1]
        sentences = end - first
        split = random_below(np.maximum(sentences - 1, 1), seed, "end of A", epoch, chunk)
        end_a = first + 1 + split
        is_random = uniform(seed, "is random", epoch, chunk) < _RANDOM_NEXT_PROBABILITY
        is_random |= sentences == 1
        # Another document: one of the others' numbers, with those from the own on moved up by one.
        own = np.searchsorted(documents, first, side="right") - 1
        other = random_below(self._corpus.num_documents - 1, seed, "document", epoch, chunk)
        other += other >= own
        in_other = random_below(
            documents[other + 1] - documents[other], seed, "sentence", epoch, chunk
        )
        random_first = documents[other] + in_other
        # Whole sentences until B fills what A left of the target; at least one.
        wanted = np.maximum(self._targets(first) - (offsets[end_a] - offsets[first]), 1)
        random_end = np.searchsorted(offsets, offsets[random_first] + wanted)
        random_end = np.minimum(random_end, documents[other + 1])
        first_b = np.where(is_random, random_first, end_a)
        end_b = np.where(is_random, random_end, end)
        starts = np.stack([offsets[first], offsets[first_b]])
        ends = np.stack([offsets[end_a], offsets[end_b]])
        return is_random, starts, ends - starts

    def _truncate(
        self, epoch: np.ndarray, chunk: np.ndarray, starts: np.ndarray, lengths: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Trim A and B to the maximum as `truncate_seq_pair` does, each token off a random end."""
        trimmed = np.stack(truncated_lengths(lengths[0], lengths[1], self._max_tokens))
        cut = lengths - trimmed
        which = np.array([[0], [1]])
        # One fair coin for each token cut: the number of set bits among as many random bits.
        words = np.arange(max(1, -(-int(cut.max(initial=0)) // 64)))
        bits = np.clip(cut[..., None] - 64 * words, 0, 64).astype(np.uint64)
        mask = np.where(
            bits > 0, np.uint64(0xFFFFFFFFFFFFFFFF) >> ((np.uint64(64) - bits) % np.uint64(64)), 0
        ).astype(np.uint64)
        coins = random_uint64(
            self._settings.seed,
            "truncation",
            epoch[None, :, None],
            chunk[None, :, None],
            which[..., None],
            words,
        )
        from_front = np.bitwise_count(coins & mask).sum(axis=-1, dtype=np.int64)
        return starts + from_front, trimmed

    def _lay_out(
        self, starts: np.ndarray, lengths: np.ndarray
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """[CLS] A [SEP] B [SEP] and padding; and which positions hold text, bool [B, T]."""
        length_a, length_b = lengths[0][:, None], lengths[1][:, None]
        column = np.arange(self._settings.max_seq_length)
        is_a = (column >= 1) & (column < 1 + length_a)
        is_b = (column >= 2 + length_a) & (column < 2 + length_a + length_b)
        is_real = column < _SPECIAL_TOKENS_PER_PAIR + length_a + length_b
        input_ids = np.where(is_real, self._tokenizer.sep_token_id, self._tokenizer.pad_token_id)
        input_ids = input_ids.astype(np.int32)
        input_ids[:, 0] = self._tokenizer.cls_token_id
        # Row after row, as the mask visits them.
        input_ids[is_a] = self._corpus.gather(starts[0], lengths[0])
        input_ids[is_b] = self._corpus.gather(starts[1], lengths[1])
        arrays = {
            "input_ids": input_ids,
            "attention_mask": is_real.astype(np.int32),
            "token_type_ids": (is_real & (column >= 2 + length_a)).astype(np.int32),
        }
        return arrays, is_a | is_b

    def _mask(
        self,
        epoch: np.ndarray,
        chunk: np.ndarray,
        arrays: dict[str, np.ndarray],
        is_maskable: np.ndarray,
        text_tokens: np.ndarray,
    ) -> None:
        """Choose the predicted positions, and put [MASK], a random token or nothing there.

        Changes input_ids and adds the masked_lm arrays. `text_tokens` int64 [B] counts A and B.
        """
        seed, most = self._settings.seed, self._settings.max_predictions_per_seq
        rows = np.arange(len(chunk))[:, None]
        column = np.arange(is_maskable.shape[1])
        epoch, chunk = epoch[:, None], chunk[:, None]
        # As in the original, the special tokens count for how many, and are never chosen.
        tokens = text_tokens + _SPECIAL_TOKENS_PER_PAIR
        count = np.rint(tokens * self._settings.masked_lm_prob).astype(np.int64)
        count = np.minimum(np.clip(count, 1, most), text_tokens)
        order = random_uint64(seed, "masked position", epoch, chunk, column)
        order = np.where(is_maskable, order, np.uint64(0xFFFFFFFFFFFFFFFF))
        smallest = np.argpartition(order, most - 1, axis=1)[:, :most]
        smallest = smallest[rows, np.argsort(order[rows, smallest], axis=1)]
        is_used = np.arange(most) < count[:, None]
        # Unused places sort behind all positions, then become position 0 with weight 0.
        positions = np.sort(np.where(is_used, smallest, is_maskable.shape[1]), axis=1)
        positions = np.where(is_used, positions, 0)
        input_ids = arrays["input_ids"]
        labels = np.where(is_used, input_ids[rows, positions], 0)
        choice = uniform(seed, "replacement", epoch, chunk, positions)
        random_index = random_below(
            len(self._ordinary_ids), seed, "random token", epoch, chunk, positions
        )
        replacement = np.where(
            choice < _MASK_PROBABILITY,
            self._tokenizer.mask_token_id,
            np.where(
                choice < _MASK_PROBABILITY + _KEEP_PROBABILITY,
                labels,
                self._ordinary_ids[random_index],
            ),
        )
        used_rows = np.broadcast_to(rows, positions.shape)[is_used]
        input_ids[used_rows, positions[is_used]] = replacement[is_used]
        arrays["masked_lm_positions"] = positions.astype(np.int32)
        arrays["masked_lm_ids"] = labels.astype(np.int32)
        arrays["masked_lm_weights"] = is_used.astype(np.float32)


def truncated_lengths(
    length_a: np.ndarray, length_b: np.ndarray, most: int
) -> tuple[np.ndarray, np.ndarray]:
    """The lengths left when the longer of A and B (B when equal) loses tokens until both fit.

    The closed form of the loop in `truncate_seq_pair`: a side no longer than half is left alone.
    """
    half_a, half_b = most - most // 2, most // 2
    fits = length_a + length_b <= most
    new_a = np.where(
        length_b <= half_b, most - length_b, np.where(length_a <= half_a, length_a, half_a)
    )
    new_a = np.where(fits, length_a, new_a)
    new_b = np.where(fits, length_b, most - new_a)
    return new_a, new_b
