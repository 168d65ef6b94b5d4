"""A fair sample of documents for learning a vocabulary, drawn while the text is read once."""

import struct
from collections.abc import Iterator, Sequence

import numpy as np

from ptft_jax.data.corpus.journal import AppendFile
from ptft_jax.data.randomness import random_uint64

# Thresholds between one power of two and the next: about 15/16 of what is allowed is used at least.
_STEPS = 16
_LEVELS = 58 * _STEPS
_HEADER = struct.Struct("<HI")


class VocabularySample:
    """At most so many characters of documents drawn at random, kept in a file.

    Every document has a random number, and the sample holds those below a threshold, which sinks
    as documents come in: fair and deterministic, without knowing beforehand how much text there is.
    There is at least one document, however long. In memory there are counters only; what has
    fallen out of the sample stays in the file until it is removed.
    """

    def __init__(self, file: AppendFile, limit: int, seed: int) -> None:
        """Goes on with what `file` holds already."""
        self._file = file
        self._limit = limit
        self._seed = seed
        # Characters of documents below threshold i, but not below i + 1.
        self._characters = np.zeros(_LEVELS, np.int64)
        self._level = 0
        self._size = 0
        for level, text in self._stored():
            self._characters[level] += len(text)
            self._size += len(text)
        self._sink()

    def add(self, first: int, documents: Sequence[Sequence[str]], usable: np.ndarray) -> None:
        """Take up documents `first`, `first` + 1, … of the corpus if they are `usable`, bool."""
        numbers = random_uint64(
            self._seed, "vocabulary sample", np.arange(first, first + len(documents))
        )
        largest = np.uint64(_threshold(self._level) - 1)
        for index in np.flatnonzero(usable & (numbers <= largest)).tolist():
            level = _level_of(int(numbers[index]))
            if level < self._level:  # the threshold has sunk since `largest` was taken
                continue
            text = "\n".join(documents[index])
            content = text.encode("utf-8")
            self._file.write(_HEADER.pack(level, len(content)) + content)
            self._characters[level] += len(text)
            self._size += len(text)
            self._sink()

    def _sink(self) -> None:
        while self._size > self._limit and self._characters[self._level + 1 :].any():
            self._size -= int(self._characters[self._level])
            self._level += 1

    def lines(self) -> Iterator[str]:
        """The lines of the sampled documents, in the order of the corpus."""
        self._file.flush()
        for level, text in self._stored():
            if level >= self._level:
                yield from text.split("\n")

    def _stored(self) -> Iterator[tuple[int, str]]:
        with self._file.path.open("rb") as stored:
            while header := stored.read(_HEADER.size):
                level, size = _HEADER.unpack(header)
                yield level, stored.read(size).decode("utf-8")


def _threshold(level: int) -> int:
    """The bound of the random numbers, which are below 2**64, from 2**64 down."""
    octave, step = divmod(level, _STEPS)
    return (2 * _STEPS - step) << (59 - octave)


def _level_of(number: int) -> int:
    """The highest level whose threshold is above `number`."""
    octave = min(64 - number.bit_length(), _LEVELS // _STEPS - 1)
    return octave * _STEPS + 2 * _STEPS - 1 - max(number >> (59 - octave), _STEPS)
