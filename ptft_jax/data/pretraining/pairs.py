"""Formats with two segments and a label: next sentence prediction and sentence order prediction."""

import threading
from functools import lru_cache

import numpy as np

from ptft_jax.data.corpus.store import Corpus
from ptft_jax.data.pretraining.segments import Segments, SentenceChunks, follow
from ptft_jax.data.ragged import spread
from ptft_jax.data.randomness import (
    as_below,
    as_uniform,
    extended,
    random_below,
    random_uint64,
    uniform,
)
from ptft_jax.errors import DataError

_RANDOM_NEXT_PROBABILITY = 0.5
_SWAP_PROBABILITY = 0.5


class _SentencePairs:
    """Chunks of about a target length, for two segments."""

    def __init__(self, corpus: Corpus, seed: int, max_seq_length: int, short_seq_prob: float):
        self._corpus = corpus
        self._seed = seed
        self._short_seq_prob = short_seq_prob
        self._max_tokens = max_seq_length - 3  # [CLS] A [SEP] B [SEP]

    def _targets(self, is_short: np.ndarray, short_length: np.ndarray) -> np.ndarray:
        """The numbers of tokens that chunks aim at, from random bits for each of two choices."""
        short = 2 + as_below(self._max_tokens - 1, short_length)
        return np.where(as_uniform(is_short) < self._short_seq_prob, short, self._max_tokens)

    def _reaching(self, starts: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """One past the sentence that reaches the target from each start, documents aside."""
        offsets = self._corpus.sentence_offsets
        # The smallest end with offsets[end] - offsets[start] >= target.
        return np.searchsorted(offsets, offsets[starts] + targets)

    def _truncate(
        self, visit: np.ndarray, chunk: np.ndarray, starts: np.ndarray, lengths: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Trim A and B to the maximum as `truncate_seq_pair` does, each token off a random end.

        `visit` and `chunk` are what the coins depend on.
        """
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

    Follows google-research/bert `create_pretraining_data.py`: the sentences that a random B
    displaces begin the next chunk. What a chunk is, though, depends on nothing but (seed, visit,
    first sentence), so that a visit is planned by following all documents at once, and only the
    first sentences are kept: 4 bytes for each chunk and visit, for the visits of two epochs. One
    chunk in ten has a shorter target length, drawn for the chunk and not for its document.

    Visits differ in their number of chunks, but each has the same number of places: as many as
    visit 0 has chunks and, in training, about the square root of that in addition, for visits that
    have more. Places that are left over have chunks again, with other draws; where there are too
    few places, other chunks go without one in each visit.

    Attributes:
        random_shares: the share of random B among the chunks of each source in visit 0, float64
            [sources].
    """

    def __init__(self, corpus: Corpus, seed: int, max_seq_length: int, short_seq_prob: float):
        if corpus.num_documents < 2:
            raise DataError(
                f"the {corpus.split} split has {corpus.num_documents} document, expected at least "
                "2: next sentence prediction takes its random sentences from another document"
            )
        super().__init__(corpus, seed, max_seq_length, short_seq_prob)
        self._lock = threading.Lock()
        # An epoch asks for the same visits all the time. A weight of 2.5 makes three in each.
        visits = np.ceil(np.maximum(corpus.source_weights, 1)).sum()
        self._kept = lru_cache(maxsize=2 * int(visits))(self._cut)
        chunks, shares = [], []
        for source in range(len(corpus.source_weights)):
            plan, random = self._kept(source, 0)
            chunks.append(len(plan))
            shares.append(random / max(len(plan), 1))
        self.random_shares = np.array(shares)
        # Held-out text is read once, in visit 0: it needs no more places.
        spare = np.ceil(np.sqrt(chunks)) if corpus.split == "train" else np.zeros(len(chunks))
        places = np.array(chunks) + spare.astype(np.int64)
        self._first = np.concatenate([[0], np.cumsum(places)])

    def __len__(self) -> int:
        return int(self._first[-1])

    def first_chunks(self) -> np.ndarray:
        return self._first

    def _chunks(
        self, visit: int | np.ndarray, starts: np.ndarray, ends: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The chunks that begin with sentences `starts` of documents that end at `ends`.

        Their targets in tokens, the ends of A and of all, and whether B is random.
        """
        draws = random_uint64(self._seed, "chunk", np.arange(4)[:, None], visit)
        is_short, short_length, split, is_random = extended(draws, starts)
        targets = self._targets(is_short, short_length)
        ends = np.minimum(self._reaching(starts, targets), ends)
        ends_of_a = starts + 1 + as_below(np.maximum(ends - starts - 1, 1), split)
        random = as_uniform(is_random) < _RANDOM_NEXT_PROBABILITY
        return targets, ends_of_a, ends, random | (ends - starts == 1)

    def _cut(self, source: int, visit: int) -> tuple[np.ndarray, int]:
        """The first sentence of each chunk of a source in a visit, and how many have a random B."""
        count = 0

        def following(starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
            nonlocal count
            _, ends_of_a, ends, is_random = self._chunks(visit, starts, ends)
            count += int(is_random.sum())
            return np.where(is_random, ends_of_a, ends)

        first, end = self._corpus.source_documents[source : source + 2].tolist()
        return follow(self._corpus, first, end, following), count

    def _placed(self, visit: np.ndarray, chunk: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The first sentences of the chunks at these places, and the visit that they draw by."""
        source = np.searchsorted(self._first, chunk, side="right") - 1
        starts, own_visit = np.empty_like(chunk), np.empty_like(visit)
        sources = len(self._first) - 1
        groups, group = np.unique(visit * sources + source, return_inverse=True)
        for number, key in enumerate(groups.tolist()):
            here = np.flatnonzero(group == number)
            one_visit, one_source = divmod(key, sources)
            with self._lock:  # threads that want one plan wait for it
                plan, _ = self._kept(one_source, one_visit)
            begin, end = self._first[one_source : one_source + 2].tolist()
            # In each visit other chunks come first, so that others come again or have no place.
            offset = random_below(len(plan), self._seed, "first place", one_visit, one_source)
            again, place = np.divmod(chunk[here] - begin, len(plan))
            starts[here] = plan[(place + offset) % len(plan)]
            # A number of its own, and no visit's, for each time that the chunks come again.
            other = -(one_visit * (end - begin) + again)
            own_visit[here] = np.where(again > 0, other, one_visit)
        return starts, own_visit

    def segments(self, visit: np.ndarray, chunk: np.ndarray) -> Segments:
        seed = self._seed
        offsets, documents = self._corpus.sentence_offsets, self._corpus.document_offsets
        first, visit = self._placed(visit, chunk)
        own = np.searchsorted(documents, first, side="right") - 1
        targets, end_a, end, is_random = self._chunks(visit, first, documents[own + 1])
        other = self._other_documents(own, visit, first)
        in_other = random_below(
            documents[other + 1] - documents[other], seed, "sentence", visit, first
        )
        random_first = documents[other] + in_other
        # Whole sentences until B fills what A left of the target; at least one.
        wanted = np.maximum(targets - (offsets[end_a] - offsets[first]), 1)
        random_end = np.minimum(self._reaching(random_first, wanted), documents[other + 1])
        first_b = np.where(is_random, random_first, end_a)
        end_b = np.where(is_random, random_end, end)
        starts = np.stack([offsets[first], offsets[first_b]])
        ends = np.stack([offsets[end_a], offsets[end_b]])
        starts, lengths = self._truncate(visit, first, starts, ends - starts)
        return self._pairs(starts, lengths, is_random, np.ones(len(chunk)))

    def _other_documents(self, own: np.ndarray, visit: np.ndarray, first: np.ndarray) -> np.ndarray:
        """Another document for each: of the same source, if it has several.

        With documents of other languages or kinds of text the label could be told from the source.
        """
        sources = self._corpus.source_documents
        source = np.searchsorted(sources, own, side="right") - 1
        alone = sources[source + 1] - sources[source] == 1
        begin = np.where(alone, 0, sources[source])
        end = np.where(alone, self._corpus.num_documents, sources[source + 1])
        # One of the others' numbers, with those from the own on moved up by one.
        other = begin + random_below(end - begin - 1, self._seed, "document", visit, first)
        return other + (other >= own)


class SentenceOrder(_SentencePairs, SentenceChunks):
    """Two neighbouring segments of a document, swapped in half of the examples.

    A chunk of one sentence is cut between two of its tokens. (The ALBERT authors' code takes a
    random next sentence there, which makes a topic task of it again.) A chunk of one token has no
    second segment and a label of weight 0.
    """

    def __init__(self, corpus: Corpus, seed: int, max_seq_length: int, short_seq_prob: float):
        _SentencePairs.__init__(self, corpus, seed, max_seq_length, short_seq_prob)
        SentenceChunks.__init__(self, corpus)

    def _following(self, starts: np.ndarray) -> np.ndarray:
        bits = random_uint64(self._seed, "target", np.arange(2)[:, None], starts)
        return self._reaching(starts, self._targets(*bits))

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
