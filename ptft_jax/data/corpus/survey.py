"""The first reading of the inputs: what is there, what is there twice, a vocabulary's sample."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ptft_jax.data.corpus.dev_split import HashEnds
from ptft_jax.data.corpus.duplicates import (
    HashSet,
    NearIndex,
    document_hashes,
    minhash_signatures,
    normalized,
)
from ptft_jax.data.corpus.journal import AppendFile
from ptft_jax.data.text.sources import Block
from ptft_jax.data.tokenizer.sample import VocabularySample

# Why a document is left out.
KEPT, EXACT_DUPLICATE, NEAR_DUPLICATE = range(3)

_HASHES, _REMOVED, _SAMPLE, _SIGNATURES = "hashes.bin", "removed.bin", "sample.bin", "minhash.bin"


class Digest(NamedTuple):
    """Hashes of documents, uint64 [N], and their MinHash signatures, uint32 [N, permutations]."""

    hashes: np.ndarray
    signatures: np.ndarray | None


def digest_documents(documents: Sequence[Sequence[str]], *, seed: int, permutations: int) -> Digest:
    """What the survey has to know of documents; no signatures if `permutations` is 0."""
    texts = [normalized(lines) for lines in documents]
    return Digest(
        document_hashes(texts, seed),
        minhash_signatures(texts, permutations) if permutations else None,
    )


class Survey:
    """Takes in all documents once, in order.

    `deduplicate` is none, exact or near; `sample_characters` 0 draws no sample. Memory does not
    grow with the number of documents, except for duplicates: see `HashSet` and `NearIndex`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        seed: int,
        deduplicate: str,
        near_threshold: float,
        near_permutations: int,
        sample_characters: int,
        state: dict[str, Any] | None = None,
    ) -> None:
        """`state` goes on from there, with files that have `sizes`; or opens the results again."""
        state = state or {}
        self._folder = folder
        sizes = state.get("sizes", {})
        self.documents: int = state.get("documents", 0)
        self.ends = HashEnds(**state.get("ends", {}))
        self._by_source: list[list[int]] = state.get("sources", [])
        finished = state.get("finished", False)
        permutations = near_permutations if deduplicate == "near" else 0
        self.digest = partial(digest_documents, seed=seed, permutations=permutations)
        self._files = {
            name: AppendFile(folder / name, sizes.get(name, 0))
            for name, wanted in (
                (_HASHES, True),
                (_REMOVED, True),
                (_SAMPLE, sample_characters > 0),
                (_SIGNATURES, permutations > 0 and not finished),
            )
            if wanted
        }
        self._sample = (
            VocabularySample(self._files[_SAMPLE], sample_characters, seed, state.get("sample", ()))
            if sample_characters
            else None
        )
        self._seen = HashSet() if deduplicate != "none" and not finished else None
        if self._seen is not None:
            before = self.verdicts(0)
            while len(hashes := before.take(1 << 20)[0]):
                self._seen.add(hashes)
            before.close()
        self._near = (
            NearIndex(self._files[_SIGNATURES], near_threshold, permutations)
            if permutations and not finished
            else None
        )

    def add(self, block: Block, digest: Digest) -> None:
        """Take in the next documents."""
        count = len(block.documents)
        removed = np.full(count, KEPT, np.uint8)
        if self._seen is not None:
            removed[~self._seen.add(digest.hashes)] = EXACT_DUPLICATE
        if self._near is not None:
            assert digest.signatures is not None
            left = np.flatnonzero(removed == KEPT)
            is_new = self._near.add(digest.signatures[left])
            removed[left[~is_new]] = NEAR_DUPLICATE
        self._files[_HASHES].write(digest.hashes.astype("<u8").tobytes())
        self._files[_REMOVED].write(removed.tobytes())
        kept = removed == KEPT
        self.ends.add(digest.hashes[kept])
        if self._sample is not None:
            self._sample.add(self.documents, block.documents, kept)
        self.documents += count
        while len(self._by_source) <= block.source:
            self._by_source.append([0, 0, 0])
        counts = self._by_source[block.source]
        for verdict, number in enumerate(np.bincount(removed, minlength=3).tolist()):
            counts[verdict] += number

    def sync(self, finished: bool = False) -> dict[str, Any]:
        """Hand everything to the disk; the state to go on from."""
        for file in self._files.values():
            file.sync()
        return {
            "documents": self.documents,
            "ends": {"smallest": self.ends.smallest, "largest": self.ends.largest},
            "sources": self._by_source,
            "sample": self._sample.counts if self._sample else [],
            "sizes": {name: file.size for name, file in self._files.items()},
            "finished": finished,
        }

    def sizes(self) -> dict[Path, int]:
        """The size of each file so far, in bytes."""
        return {file.path: file.size for file in self._files.values()}

    def finish(self) -> dict[str, Any]:
        """There are no more documents: the state that opens the results again.

        Frees the memory that only more documents would need.
        """
        self._seen = self._near = None
        self._let_go(_SIGNATURES)
        return self.sync(finished=True)

    def _let_go(self, name: str) -> None:
        if name in self._files:
            self._files.pop(name).close()

    def sampled_lines(self) -> Iterator[str]:
        """The lines of the vocabulary's sample."""
        assert self._sample is not None
        return self._sample.lines()

    def finish_sample(self) -> None:
        """The vocabulary is there."""
        self._let_go(_SAMPLE)

    def remove_unneeded(self) -> None:
        """Remove the files that were finished with, once no journal speaks of them."""
        for name in (_SAMPLE, _SIGNATURES):
            if name not in self._files:
                (self._folder / name).unlink(missing_ok=True)

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()

    def source_counts(self, source: int) -> tuple[int, int, int]:
        """Documents of a source that were kept, exact duplicates, and near duplicates."""
        kept, exact, near = self._by_source[source] if source < len(self._by_source) else (0, 0, 0)
        return kept, exact, near

    def verdicts(self, start: int) -> "Verdicts":
        """What was found out about the documents, from number `start` on."""
        for file in self._files.values():
            file.flush()
        return Verdicts(self._files[_HASHES].path, self._files[_REMOVED].path, start)


class Verdicts:
    """Reads hashes and reasons to leave out, in the order of the documents."""

    def __init__(self, hashes: Path, removed: Path, start: int) -> None:
        """Open the files that the survey has written."""
        self._hashes, self._removed = hashes.open("rb"), removed.open("rb")
        self._hashes.seek(8 * start)
        self._removed.seek(start)

    def take(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The hashes, uint64, and reasons, uint8, of at most the next `count` documents."""
        hashes = np.frombuffer(self._hashes.read(8 * count), "<u8").astype(np.uint64)
        return hashes, np.frombuffer(self._removed.read(count), np.uint8)

    def close(self) -> None:
        """Close the files."""
        self._hashes.close()
        self._removed.close()
