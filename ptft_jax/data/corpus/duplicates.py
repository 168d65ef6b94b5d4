"""Finding documents that were there before: equal ones by their hash, similar ones by MinHash.

Similarity is the Jaccard index of the sets of five-word shingles (Broder 1997), estimated by the
share of equal places of two MinHash signatures. Candidates come from locality-sensitive hashing:
two documents are compared when they agree in all rows of at least one band of their signatures
(Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets", chapter 3).
"""

import hashlib
import unicodedata
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from ptft_jax.data.corpus.journal import AppendFile
from ptft_jax.data.randomness import extended, random_uint64
from ptft_jax.errors import ConfigError

SHINGLE_WORDS = 5
# A pair at the threshold is found with at least this probability; a closer one more surely.
_LEAST_RECALL = 0.98
_MINHASH_SEED = 1


def normalized(lines: Sequence[str]) -> str:
    """The text by which documents are compared: NFC, case folded, white space as single spaces."""
    text = " ".join(" ".join(lines).split()).casefold()
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def document_hashes(texts: Sequence[str], seed: int) -> np.ndarray:
    """A number for each normalized text, uint64 [N], equal for equal texts."""
    key = str(seed).encode()[:64]
    digests = (
        hashlib.blake2b(text.encode("utf-8"), digest_size=8, key=key).digest() for text in texts
    )
    return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)


def import_rensa() -> Any:
    """The MinHash library; ConfigError when it is not installed."""
    try:
        import rensa
    except ImportError as error:
        raise ConfigError(
            'deduplicate="near" needs the package `rensa`, which is not installed; run '
            "PTFT_EXTRAS=dedup bash launch/setup.sh, or use deduplicate=exact"
        ) from error
    return rensa


def minhash_signatures(texts: Sequence[str], permutations: int) -> np.ndarray:
    """The MinHash signatures of the shingles of normalized texts: uint32 [N, permutations].

    A text of fewer than five words is one shingle; one without words has a signature of no meaning.
    """
    if not texts:
        return np.zeros((0, permutations), np.uint32)
    minhash = import_rensa().RMinHash
    words = [text.split() or [""] for text in texts]
    lengths = np.fromiter(map(len, words), np.int64, len(words))
    hashed = chain.from_iterable(minhash.hash_token_sets(words))
    flat = np.fromiter(hashed, np.uint64, lengths.sum())
    ends = np.cumsum(lengths)
    # Shingle i of a document is made of its words i … i + 4; beyond its end there are zeros.
    shingles = random_uint64(0, "shingle", flat)
    end_of_word = np.repeat(ends, lengths)
    for offset in range(1, SHINGLE_WORDS):
        at = np.arange(len(flat)) + offset
        inside = at < end_of_word
        shingles = extended(shingles, np.where(inside, flat[np.where(inside, at, 0)], np.uint64(0)))
    counts = np.maximum(lengths - (SHINGLE_WORDS - 1), 1)
    place_in_document = np.arange(len(flat)) - np.repeat(ends - lengths, lengths)
    shingles = shingles[place_in_document < np.repeat(counts, lengths)]
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.uint64)
    matrix = minhash.digest_matrix_from_flat_token_hashes(
        shingles, offsets, permutations, _MINHASH_SEED
    )
    return np.array(matrix.to_rows(), np.uint32)


class HashSet:
    """A set of uint64 numbers: 8 bytes for each, and as many again while parts are merged.

    They lie in sorted arrays, each at least twice as long as the next, so that adding N numbers
    in blocks moves each of them about log N times.
    """

    def __init__(self) -> None:
        self._runs: list[np.ndarray] = []

    def add(self, numbers: np.ndarray) -> np.ndarray:
        """Add numbers [N]; which of them were new, bool [N]: of equal ones the first."""
        unique, first = np.unique(numbers, return_index=True)
        absent = np.ones(len(unique), bool)
        for run in self._runs:
            at = np.minimum(np.searchsorted(run, unique), len(run) - 1)
            absent &= run[at] != unique
        if absent.any():
            _push(self._runs, unique[absent])
        new = np.zeros(len(numbers), bool)
        new[first[absent]] = True
        return new


def bands_for(threshold: float, permutations: int) -> tuple[int, int]:
    """How many bands of how many rows: the longest rows that still find pairs at the threshold."""
    for rows in range(permutations, 1, -1):
        bands = permutations // rows
        if 1 - (1 - threshold**rows) ** bands >= _LEAST_RECALL:
            return bands, rows
    return permutations, 1


class NearIndex:
    """The signatures of the documents kept so far, and which of them a new one may be similar to.

    Signatures are in a file, 4 bytes for each permutation. In memory there are 8 bytes for each
    document and band (18 bands for a threshold of 0.8), and up to one and a half times as many
    again while parts are merged.
    """

    def __init__(self, file: AppendFile, threshold: float, permutations: int) -> None:
        """Take up the signatures that are in `file` already."""
        self._file = file
        self._threshold = threshold
        self._permutations = permutations
        self._bands, self._rows = bands_for(threshold, permutations)
        self._count = 0
        # Sorted numbers: 32 bits of a band's key, and the document in the lower 32 bits. Keys that
        # are equal by chance cost a comparison of signatures, no more.
        self._runs: list[np.ndarray] = []
        at_once = 4 * permutations << 12
        with file.path.open("rb") as stored:
            for start in range(0, file.size, at_once):
                content = stored.read(min(at_once, file.size - start))
                self._insert(self._keys(np.frombuffer(content, "<u4").reshape(-1, permutations)))

    def add(self, signatures: np.ndarray) -> np.ndarray:
        """Add documents in order; which were not similar to one before, bool [N].

        Those that were are not added.
        """
        keys = self._keys(signatures)
        before = self._candidates(keys)
        # Keys that several documents of the block have, with those kept so far.
        values, counts = np.unique(keys, return_counts=True)
        here: dict[int, list[int]] = {value: [] for value in values[counts > 1].tolist()}
        shares = np.isin(keys, values[counts > 1])
        kept = np.zeros(len(signatures), bool)
        for index, signature in enumerate(signatures):
            own = keys[index, shares[index]].tolist()
            near = sorted({other for key in own for other in here[key]})
            if near and self._matches(signature, signatures[near]):
                continue
            if index in before and self._matches(signature, self._read(before[index])):
                continue
            kept[index] = True
            for key in own:
                here[key].append(index)
        self._file.write(signatures[kept].astype("<u4").tobytes())
        self._file.flush()
        self._insert(keys[kept])
        return kept

    def _matches(self, signature: np.ndarray, others: np.ndarray) -> bool:
        return bool(((others == signature).mean(axis=1) >= self._threshold).any())

    def _keys(self, signatures: np.ndarray) -> np.ndarray:
        """A number for each band of each signature: uint64 [N, bands], below 2**32."""
        used = signatures[:, : self._bands * self._rows].reshape(-1, self._bands, self._rows)
        rows = (used[:, :, row] for row in range(self._rows))
        return random_uint64(0, "band", np.arange(self._bands), *rows) >> np.uint64(32)

    def _candidates(self, keys: np.ndarray) -> dict[int, np.ndarray]:
        """The earlier documents that share a key with a new one, if there are any."""
        found: dict[int, list[np.ndarray]] = {}
        lowest = keys.ravel() << np.uint64(32)
        highest = lowest | np.uint64(0xFFFFFFFF)
        for run in self._runs:
            first, last = np.searchsorted(run, lowest), np.searchsorted(run, highest, side="right")
            for hit in np.flatnonzero(last > first).tolist():
                documents = run[first[hit] : last[hit]] & np.uint64(0xFFFFFFFF)
                found.setdefault(hit // self._bands, []).append(documents.astype(np.int64))
        return {index: np.unique(np.concatenate(parts)) for index, parts in found.items()}

    def _read(self, documents: np.ndarray) -> np.ndarray:
        shape = (self._count, self._permutations)
        return np.memmap(self._file.path, "<u4", "r", shape=shape)[documents]

    def _insert(self, keys: np.ndarray) -> None:
        if not len(keys):
            return
        documents = np.arange(self._count, self._count + len(keys), dtype=np.uint64)
        self._count += len(keys)
        _push(self._runs, np.sort(((keys << np.uint64(32)) | documents[:, None]).ravel()))


def _push(runs: list[np.ndarray], run: np.ndarray) -> None:
    """Append a sorted array, and merge while one is not twice as long as the next."""
    runs.append(run)
    while len(runs) > 1 and len(runs[-2]) < 2 * len(runs[-1]):
        merged = np.concatenate(runs[-2:])
        del runs[-2:]
        merged.sort(kind="stable")  # merges what is sorted already, in linear time
        runs.append(merged)
