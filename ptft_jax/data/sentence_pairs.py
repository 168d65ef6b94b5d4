"""Formats with two segments and a label: next sentence prediction and sentence order prediction."""

import numpy as np

from ptft_jax.data.corpus import Corpus
from ptft_jax.data.ragged import spread
from ptft_jax.data.randomness import extended, random_below, random_uint64, uniform
from ptft_jax.data.segments import Segments, SentenceChunks
from ptft_jax.errors import DataError

_RANDOM_NEXT_PROBABILITY = 0.5
_SWAP_PROBABILITY = 0.5


class _SentencePairs(SentenceChunks):
    """Chunks of about a target length, for two segments."""

    def __init__(self, corpus: Corpus, seed: int, max_seq_length: int, short_seq_prob: float):
        self._seed = seed
        self._short_seq_prob = short_seq_prob
        self._max_tokens = max_seq_length - 3  # [CLS] A [SEP] B [SEP]
        super().__init__(corpus)

    def _targets(self, first_sentence: np.ndarray) -> np.ndarray:
        """The number of tokens that the chunk beginning at each sentence aims at."""
        is_short = uniform(self._seed, "short", first_sentence) < self._short_seq_prob
        short = 2 + random_below(self._max_tokens - 1, self._seed, "short length", first_sentence)
        return np.where(is_short, short, self._max_tokens)

    def _following(self, starts: np.ndarray) -> np.ndarray:
        # The smallest next start with offsets[next] - offsets[start] >= target: the sentence that
        # reaches the target is the last.
        offsets = self._corpus.sentence_offsets
        return np.searchsorted(offsets, offsets[starts] + self._targets(starts))

    def _truncate(
        self, visit: np.ndarray, chunk: np.ndarray, starts: np.ndarray, lengths: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Trim A and B to the maximum as `truncate_seq_pair` does, each token off a random end."""
        trimmed = np.stack(truncated_lengths(lengths[0], lengths[1], self._max_tokens))
        cut = (lengths - trimmed).ravel()
        # One fair coin for each token cut: the number of set bits among as many random bits. A list
        # of words and not a table: one sentence without an end would make every row of that long.
        words = -(-cut // 64)
        side = np.repeat(np.arange(len(cut)), words)
        word = spread(np.zeros_like(words), words)
        state = random_uint64(
            self._seed, "truncation", visit, chunk, np.array([0, 1])[:, None]
        ).ravel()
        unused = 64 - np.minimum(cut[side] - 64 * word, 64)
        coins = extended(state[side], word) << unused.astype(np.uint64)
        from_front = np.bincount(side, np.bitwise_count(coins), minlength=len(cut))
        from_front = from_front.astype(np.int64).reshape(starts.shape)
        return starts + from_front, trimmed

    def _pairs(
        self, starts: np.ndarray, lengths: np.ndarray, labels: np.ndarray, weights: np.ndarray
    ) -> Segments:
        """Segments of pairs, from arrays [2, E]; a B without tokens is left out."""
        count = starts.shape[1]
        # Example after example: A, B, A, B, …
        kept = (lengths > 0).T.ravel()
        return Segments(
            starts.T.ravel()[kept],
            lengths.T.ravel()[kept],
            np.repeat(np.arange(count), 2)[kept],
            np.tile([0, 1], count)[kept],
            labels.astype(np.int64),
            weights.astype(np.float32),
        )


class NextSentence(_SentencePairs):
    """Sentence pairs of which half have a random second part.

    Follows google-research/bert `create_pretraining_data.py`, with random access in place of one
    pass. Where it differs: chunks are fixed for a run, and an epoch has every chunk once. (There,
    the sentences that a random next sentence displaced begin the next chunk; here they are missing
    in that epoch only, since each epoch draws anew.) And one chunk in ten has a shorter target
    length, drawn for the chunk and not for its document.
    """

    def __init__(self, corpus: Corpus, seed: int, max_seq_length: int, short_seq_prob: float):
        if corpus.num_documents < 2:
            raise DataError(
                f"the {corpus.split} split has {corpus.num_documents} document, expected at least "
                "2: next sentence prediction takes its random sentences from another document"
            )
        super().__init__(corpus, seed, max_seq_length, short_seq_prob)

    def segments(self, visit: np.ndarray, chunk: np.ndarray) -> Segments:
        seed = self._seed
        offsets, documents = self._corpus.sentence_offsets, self._corpus.document_offsets
        first, end = self._bounds(chunk)
        sentences = end - first
        split = random_below(np.maximum(sentences - 1, 1), seed, "end of A", visit, chunk)
        end_a = first + 1 + split
        is_random = uniform(seed, "is random", visit, chunk) < _RANDOM_NEXT_PROBABILITY
        is_random |= sentences == 1
        own = np.searchsorted(documents, first, side="right") - 1
        other = self._other_documents(own, visit, chunk)
        in_other = random_below(
            documents[other + 1] - documents[other], seed, "sentence", visit, chunk
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
        starts, lengths = self._truncate(visit, chunk, starts, ends - starts)
        return self._pairs(starts, lengths, is_random, np.ones(len(chunk)))

    def _other_documents(self, own: np.ndarray, visit: np.ndarray, chunk: np.ndarray) -> np.ndarray:
        """Another document for each: of the same source, if it has several.

        With documents of other languages or kinds of text the label could be told from the source.
        """
        sources = self._corpus.source_documents
        source = np.searchsorted(sources, own, side="right") - 1
        alone = sources[source + 1] - sources[source] == 1
        begin = np.where(alone, 0, sources[source])
        end = np.where(alone, self._corpus.num_documents, sources[source + 1])
        # One of the others' numbers, with those from the own on moved up by one.
        other = begin + random_below(end - begin - 1, self._seed, "document", visit, chunk)
        return other + (other >= own)


class SentenceOrder(_SentencePairs):
    """Two neighbouring segments of a document, swapped in half of the examples.

    A chunk of one sentence is cut between two of its tokens. (The ALBERT authors' code takes a
    random next sentence there, which makes a topic task of it again.) A chunk of one token has no
    second segment and a label of weight 0.
    """

    def segments(self, visit: np.ndarray, chunk: np.ndarray) -> Segments:
        seed = self._seed
        offsets = self._corpus.sentence_offsets
        first, end = self._bounds(chunk)
        sentences = end - first
        tokens = offsets[end] - offsets[first]
        split = random_below(np.maximum(sentences - 1, 1), seed, "end of A", visit, chunk)
        inside = 1 + random_below(np.maximum(tokens - 1, 1), seed, "end of A", visit, chunk)
        middle = np.where(
            sentences > 1,
            offsets[np.minimum(first + 1 + split, end)],
            np.minimum(offsets[first] + inside, offsets[end]),
        )
        starts = np.stack([offsets[first], middle])
        lengths = np.stack([middle - offsets[first], offsets[end] - middle])
        starts, lengths = self._truncate(visit, chunk, starts, lengths)
        weights = lengths[1] > 0
        swapped = (uniform(seed, "swap", visit, chunk) < _SWAP_PROBABILITY) & weights
        starts, lengths = (np.where(swapped, x[::-1], x) for x in (starts, lengths))
        return self._pairs(starts, lengths, swapped, weights)


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
