"""Stretches of text that examples are made of, and the formats that have one segment.

A format cuts a corpus into chunks, once for a whole run or (`nsp`) anew for every visit, and turns
a chunk into the stretches of an example, every time anew where something is random. A stretch is a
run of tokens of one document; in the example each one is followed by [SEP]. Formats with two
segments: `pairs`.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple, Protocol

import numpy as np

from ptft_jax.data.corpus.store import Corpus
from ptft_jax.data.ragged import spread

# Documents or sentences looked at together while chunks are cut: it bounds the memory of that.
_BLOCK = 1 << 18


class Segments(NamedTuple):
    """The stretches of E examples, S in all, example after example.

    Attributes:
        starts, lengths: first token (of the split) and number of tokens of each, int64 [S].
        example: which example each belongs to, ascending, int64 [S].
        token_types: 0 or 1 for each, int64 [S].
        labels: NSP: 1 if B is random; SOP: 1 if swapped; else 0; int64 [E].
        weights: 1 where the label means something, else 0; float32 [E].
    """

    starts: np.ndarray
    lengths: np.ndarray
    example: np.ndarray
    token_types: np.ndarray
    labels: np.ndarray
    weights: np.ndarray

    def example_lengths(self) -> np.ndarray:
        """Tokens of each example with [CLS] and a [SEP] after each stretch, int64 [E]."""
        text = np.bincount(self.example, self.lengths + 1, minlength=len(self.labels))
        return text.astype(np.int64) + 1


class Format(Protocol):
    """A way to make examples of a corpus; `len` counts its chunks."""

    def __len__(self) -> int: ...

    def segments(self, visit: np.ndarray, chunk: np.ndarray) -> Segments:
        """The stretches of the examples of chunks [E] at their visits [E]."""
        ...

    def first_chunks(self) -> np.ndarray:
        """Where the chunks of each source begin, and the end: int64 [sources + 1]."""
        ...


def _smallest(values: np.ndarray, bound: int) -> np.ndarray:
    """The same values in four bytes each if `bound`, the largest, fits."""
    return values.astype(np.uint32 if bound < 1 << 32 else np.int64)


def follow(
    corpus: Corpus,
    first: int,
    end: int,
    following: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> np.ndarray:
    """The first sentences of the chunks of documents `first` up to `end`, ascending.

    The first chunk of a document begins with it, and the one after that of a start at
    `following(starts, ends)`, if that is before the end of the document. Many documents are
    followed in step, so that the work is a few array operations for each chunk of the longest.
    """
    documents, sentences = corpus.document_offsets, corpus.num_sentences
    cut = [_smallest(np.zeros(0), sentences)]
    for start in range(first, end, _BLOCK):
        block = slice(start, min(start + _BLOCK, end))
        starts, ends = documents[:-1][block], documents[1:][block]
        found = []
        while len(starts):
            found.append(_smallest(starts, sentences))
            starts = following(starts, ends)
            goes_on = starts < ends
            starts, ends = starts[goes_on], ends[goes_on]
        cut.append(np.sort(np.concatenate(found)))
    return np.concatenate(cut)


class SentenceChunks:
    """Chunks of consecutive sentences: chunk i is those from chunks[i] up to chunks[i + 1]."""

    def __init__(self, corpus: Corpus):
        self._corpus = corpus
        self.chunks = self._cut_into_chunks()

    def __len__(self) -> int:
        return len(self.chunks) - 1

    def first_chunks(self) -> np.ndarray:
        # Of one type: NumPy would make a copy of all chunks in the larger one.
        sentences = self._corpus.document_offsets[self._corpus.source_documents]
        sentences = sentences.astype(self.chunks.dtype)
        return np.searchsorted(self.chunks[:-1], sentences)

    def _bounds(self, chunk: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The first sentence of each chunk, and the one after its last."""
        return self.chunks[chunk].astype(np.int64), self.chunks[chunk + 1].astype(np.int64)

    def _following(self, starts: np.ndarray) -> np.ndarray:
        """Where the chunks that begin at these sentences end, if their documents go on so long."""
        raise NotImplementedError

    def _cut_into_chunks(self) -> np.ndarray:
        """The first sentence of each chunk, and the end: [chunks + 1], ascending."""
        documents, sentences = self._corpus.num_documents, self._corpus.num_sentences
        chunks = follow(self._corpus, 0, documents, lambda starts, _: self._following(starts))
        return np.concatenate([chunks, _smallest(np.array([sentences]), sentences)])


class DocSentences(SentenceChunks):
    """As many whole sentences of one document as fit; a longer sentence is cut off at the end."""

    def __init__(self, corpus: Corpus, seed: int, max_seq_length: int, short_seq_prob: float):
        del seed, short_seq_prob  # nothing is random
        self._room = max_seq_length - 2  # [CLS] … [SEP]
        super().__init__(corpus)

    def _following(self, starts: np.ndarray) -> np.ndarray:
        # The largest next start with offsets[next] - offsets[start] <= room.
        offsets = self._corpus.sentence_offsets
        ends = np.searchsorted(offsets, offsets[starts] + self._room, side="right") - 1
        return np.maximum(ends, starts + 1)

    def segments(self, visit: np.ndarray, chunk: np.ndarray) -> Segments:
        starts, ends = (self._corpus.sentence_offsets[bound] for bound in self._bounds(chunk))
        return _without_labels(starts, np.minimum(ends - starts, self._room))


class FullSentences(DocSentences):
    """As many whole sentences as fit, on across documents, with [SEP] where a document ends.

    Documents follow one another in the order of the corpus. A sentence that is too long is cut off
    at the end.
    """

    def _cut_into_chunks(self) -> np.ndarray:
        """Follow the chunks from one to the next, a source at a time and a block at a time."""
        sentences = self._corpus.num_sentences
        sources = self._corpus.document_offsets[self._corpus.source_documents]
        found = [
            _smallest(np.array(chunks, np.int64), sentences)
            for first, end in pairwise(sources)
            for chunks in self._chunks_of(int(first), int(end))
        ]
        return np.concatenate([*found, _smallest(np.array([sentences]), sentences)])

    def _chunks_of(self, first: int, end: int) -> Iterator[list[int]]:
        """The first sentences of the chunks from sentence `first` to `end`, block by block."""
        offsets, documents = self._corpus.sentence_offsets, self._corpus.document_offsets
        start = first
        while start < end:
            # Enough sentences after the block to see where its last chunk ends.
            last = min(start + _BLOCK + self._room + 2, end)
            numbers = np.arange(start, last)
            document = np.searchsorted(documents, numbers, side="right") - 1
            # Where each sentence ends, with one [SEP] for every document that has ended before it.
            ends = offsets[numbers + 1] + document
            begins = offsets[numbers] + document
            following = start + np.searchsorted(ends, begins + self._room, side="right")
            following = np.maximum(following, numbers + 1).tolist()
            stop = end if last == end else start + _BLOCK
            found = []
            sentence = start
            while sentence < stop:
                found.append(sentence)
                sentence = following[sentence - start]
            yield found
            start = sentence

    def segments(self, visit: np.ndarray, chunk: np.ndarray) -> Segments:
        """A stretch for each document that an example touches."""
        offsets, documents = self._corpus.sentence_offsets, self._corpus.document_offsets
        first, end = self._bounds(chunk)
        first_document = np.searchsorted(documents, first, side="right") - 1
        last_document = np.searchsorted(documents, end - 1, side="right") - 1
        count = last_document - first_document + 1
        example = np.repeat(np.arange(len(chunk)), count)
        document = spread(first_document, count)
        starts = offsets[np.maximum(documents[document], first[example])]
        ends = offsets[np.minimum(documents[document + 1], end[example])]
        # Only a chunk of one sentence can be too long.
        lengths = np.minimum(ends - starts, self._room)
        return _without_labels(starts, lengths, example)


class SingleSegment:
    """A document cut every `max_seq_length - 2` tokens, wherever a sentence ends."""

    def __init__(self, corpus: Corpus, seed: int, max_seq_length: int, short_seq_prob: float):
        del seed, short_seq_prob  # nothing is random
        self._room = max_seq_length - 2  # [CLS] … [SEP]
        # In tokens; a copy of 8 bytes per document, or mapped pages would be read all over.
        self._documents = corpus.sentence_offsets[corpus.document_offsets]
        chunks = -(-np.diff(self._documents) // self._room)
        self._first = np.concatenate([[0], np.cumsum(chunks)])
        self._sources = corpus.source_documents

    def __len__(self) -> int:
        return int(self._first[-1])

    def first_chunks(self) -> np.ndarray:
        return self._first[self._sources]

    def segments(self, visit: np.ndarray, chunk: np.ndarray) -> Segments:
        document = np.searchsorted(self._first, chunk, side="right") - 1
        starts = self._documents[document] + (chunk - self._first[document]) * self._room
        lengths = np.minimum(self._documents[document + 1] - starts, self._room)
        return _without_labels(starts, lengths)


def _without_labels(
    starts: np.ndarray, lengths: np.ndarray, example: np.ndarray | None = None
) -> Segments:
    """Segments of examples of one segment; `example` None: each of one stretch."""
    example = np.arange(len(starts)) if example is None else example
    labels = np.zeros(int(example.max(initial=-1)) + 1, np.int64)
    types = np.zeros(len(starts), np.int64)
    return Segments(starts, lengths, example, types, labels, labels.astype(np.float32))
