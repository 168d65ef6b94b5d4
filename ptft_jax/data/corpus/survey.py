"""The first reading of the inputs: what is there, what is there twice, a vocabulary's sample."""

import struct
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ptft_jax.data.corpus.duplicates import (
    HashSet,
    NearIndex,
    document_hashes,
    minhash_signatures,
    normalized,
)
from ptft_jax.data.corpus.journal import AppendFile, WorkFolder
from ptft_jax.data.corpus.settings import PrepareSettings
from ptft_jax.data.corpus.store import map_numbers
from ptft_jax.data.randomness import random_uint64
from ptft_jax.data.text.signs import Signs
from ptft_jax.data.text.sources import Block
from ptft_jax.errors import DataError

# Why a document is left out.
KEPT, EXACT_DUPLICATE, NEAR_DUPLICATE = range(3)
# Each split needs two documents, or there would be no other document for a random next sentence.
LEAST_DOCUMENTS = 2

SAMPLE = "sample.bin"
_HASHES, _REMOVED, _SIGNATURES = "hashes.bin", "removed.bin", "minhash.bin"
_AT_ONCE = 1 << 20
# Thresholds between one power of two and the next: about 15/16 of what is allowed is used at least.
_STEPS = 16
_LEVELS = 58 * _STEPS
_HEADER = struct.Struct("<HI")


class Digest(NamedTuple):
    """Hashes of documents, uint64 [N], and their MinHash signatures, uint32 [N, permutations].

    `signs` are what is seen in their text.
    """

    hashes: np.ndarray
    signatures: np.ndarray | None
    signs: Signs


def digest_documents(documents: Sequence[Sequence[str]], *, seed: int, permutations: int) -> Digest:
    """What the survey has to know of documents; no signatures if `permutations` is 0."""
    texts = [normalized(lines) for lines in documents]
    return Digest(
        document_hashes(texts, seed),
        minhash_signatures(texts, permutations) if permutations else None,
        Signs.of(documents),
    )


class Survey:
    """Takes in all documents once, in order.

    Memory does not grow with the number of documents, except for duplicates: see `HashSet` and
    `NearIndex`. `sources` counts, for each source, the documents that are kept, exact duplicates
    and near duplicates; `signs` are what was seen in all of them.
    """

    def __init__(
        self,
        work: WorkFolder,
        settings: PrepareSettings,
        sources: list[list[int]],
        signs: list[Signs],
    ) -> None:
        """Go on with what the work folder holds, where `sources` are counted already."""
        self._work = work
        self.sources = sources
        self.signs = signs
        permutations = settings.near_permutations if settings.deduplicate == "near" else 0
        self.digest = partial(digest_documents, seed=settings.seed, permutations=permutations)
        self._hashes, self._removed = work.open(_HASHES), work.open(_REMOVED)
        self._sample = (
            None
            if settings.vocab
            else VocabularySample(
                work.open(SAMPLE), settings.vocab_sample_characters, settings.seed
            )
        )
        self._seen = None if settings.deduplicate == "none" else HashSet()
        if self._seen is not None:
            before, _ = verdicts(work.path)
            for start in range(0, len(before), _AT_ONCE):
                self._seen.add(before[start : start + _AT_ONCE])
        self._near = (
            NearIndex(work.open(_SIGNATURES), settings.near_threshold, permutations)
            if permutations
            else None
        )

    def add(self, block: Block, digest: Digest) -> None:
        """Take in the next documents."""
        first, count = self._removed.size, len(block.documents)
        removed = np.full(count, KEPT, np.uint8)
        if self._seen is not None:
            removed[~self._seen.add(digest.hashes)] = EXACT_DUPLICATE
        if self._near is not None:
            assert digest.signatures is not None
            left = np.flatnonzero(removed == KEPT)
            is_new = self._near.add(digest.signatures[left])
            removed[left[~is_new]] = NEAR_DUPLICATE
        self._hashes.write(digest.hashes.astype("<u8").tobytes())
        self._removed.write(removed.tobytes())
        if self._sample is not None:
            self._sample.add(first, block.documents, removed == KEPT)
        while len(self.sources) <= block.source:
            self.sources.append([0, 0, 0])
            self.signs.append(Signs())
        self.signs[block.source].add(digest.signs)
        counts = self.sources[block.source]
        for verdict, number in enumerate(np.bincount(removed, minlength=3).tolist()):
            counts[verdict] += number

    def finish(self) -> None:
        """There are no more documents."""
        for name in (_HASHES, _REMOVED, *([SAMPLE] if self._sample else [])):
            self._work.finish(name)
        if self._near is not None:
            self._work.drop(_SIGNATURES)


def verdicts(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """What was found out about all documents: their hashes, uint64 [N], and reasons, uint8 [N].

    A reason is KEPT, EXACT_DUPLICATE or NEAR_DUPLICATE. Both are memory-mapped.
    """
    return map_numbers(folder / _HASHES, "<u8"), map_numbers(folder / _REMOVED, "u1")


def dev_threshold(folder: Path, fraction: float, names: Sequence[str]) -> np.uint64:
    """Kept documents with a hash below this are held out: about `fraction` of them.

    Equal documents fall into the same split, and a document stays in its split when others are
    added. At least two different documents are in each split. Raises DataError, naming the inputs,
    when there are fewer than four.
    """
    smallest, largest = np.zeros(0, np.uint64), np.zeros(0, np.uint64)
    hashes, reasons = verdicts(folder)
    for start in range(0, len(hashes), _AT_ONCE):
        at = slice(start, start + _AT_ONCE)
        some = np.unique(hashes[at][reasons[at] == KEPT])
        smallest = np.union1d(smallest, some[: 2 * LEAST_DOCUMENTS])[: 2 * LEAST_DOCUMENTS]
        largest = np.union1d(largest, some[-2 * LEAST_DOCUMENTS :])[-2 * LEAST_DOCUMENTS :]
    different = len(np.union1d(smallest, largest))
    if different < 2 * LEAST_DOCUMENTS:
        inputs = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
        if not different:
            raise DataError(f"the corpus is empty: there is no text in {inputs}")
        raise DataError(
            f"{different} documents (copies not counted) in {inputs}, expected at least "
            f"{2 * LEAST_DOCUMENTS} (two for training, two held out); separate documents by blank "
            "lines (by two of them with join_lines), or give more files"
        )
    wanted = round(fraction * (1 << 64))
    most, least = int(largest[-LEAST_DOCUMENTS]), int(smallest[LEAST_DOCUMENTS - 1]) + 1
    return np.uint64(max(least, min(wanted, most)))


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
