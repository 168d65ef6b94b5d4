"""Writing the splits of a corpus, so that a killed run can go on after its last commit."""

import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ptft_jax.data.corpus.encode import Encoded
from ptft_jax.data.corpus.journal import AppendFile, sync_folder
from ptft_jax.data.corpus.store import (
    SPLITS,
    SplitCounts,
    TextCounts,
    split_counts_from_json,
    token_file,
)
from ptft_jax.errors import DataError


class StoreWriter:
    """The files of all splits, and the counts of each source in them."""

    def __init__(
        self,
        folder: Path,
        dtype: str,
        shard_tokens: int,
        unknown_id: int | None,
        state: dict[str, Any] | None = None,
    ) -> None:
        """`folder` is the corpus's; `state` goes on from there, with files that have `sizes`."""
        state = state or {"splits": {}, "sources": []}
        self._folder = folder
        self._sources: list[dict[str, list[int]]] = state["sources"]
        self._splits = {
            split: _SplitWriter(
                folder, split, dtype, shard_tokens, unknown_id, state["splits"].get(split)
            )
            for split in SPLITS
        }

    def append(self, source: int, block: Encoded, is_dev: np.ndarray) -> None:
        """Add documents of a source, bool [documents] says which are held out.

        Documents without a sentence are left out.
        """
        while len(self._sources) <= source:
            self._sources.append({split: [0, 0, 0] for split in SPLITS})
        in_split = {"train": ~is_dev, "dev": is_dev}
        for split, writer in self._splits.items():
            chosen = in_split[split] & (block.document_sentences > 0)
            sentences = np.repeat(chosen, block.document_sentences)
            tokens = np.repeat(sentences, block.sentence_lengths)
            part = Encoded(
                block.tokens[tokens],
                block.sentence_lengths[sentences],
                block.document_sentences[chosen],
            )
            writer.append(part)
            counts = self._sources[source][split]
            for index, array in enumerate(
                (part.document_sentences, part.sentence_lengths, part.tokens)
            ):
                counts[index] += len(array)

    def sync(self) -> dict[str, Any]:
        """Hand everything to the disk; the state to go on from."""
        splits = {split: writer.sync() for split, writer in self._splits.items()}
        sync_folder(self._folder)
        return {"splits": splits, "sources": self._sources}

    def sizes(self) -> dict[Path, int]:
        """The size of each file so far, in bytes."""
        return {
            path: size for writer in self._splits.values() for path, size in writer.sizes().items()
        }

    def close(self) -> None:
        """Close the files."""
        for writer in self._splits.values():
            writer.close()

    def split_counts(self) -> dict[str, SplitCounts]:
        """What the splits hold; DataError when it is too little to pair sentences."""
        return {split: writer.counts() for split, writer in self._splits.items()}

    def source_counts(self, sources: int) -> list[dict[str, TextCounts]]:
        """What each of the sources contributes to each split."""
        nothing = {split: [0, 0, 0] for split in SPLITS}
        found = self._sources + [nothing] * (sources - len(self._sources))
        return [
            {split: TextCounts(*numbers) for split, numbers in counts.items()} for counts in found
        ]


class _SplitWriter:
    """Appends encoded documents to the files of one split."""

    def __init__(
        self,
        folder: Path,
        split: str,
        dtype: str,
        shard_tokens: int,
        unknown_id: int | None,
        state: dict[str, Any] | None,
    ) -> None:
        self._folder, self._split, self._dtype = folder, split, dtype
        self._shard_limit = shard_tokens
        self._unknown_id = unknown_id
        self._counts = split_counts_from_json(state) if state else SplitCounts()
        self._shard_tokens = list(self._counts.shard_tokens)
        (folder / split).mkdir(parents=True, exist_ok=True)
        self._cut_shards_back()
        self._sentences, self._documents = (
            AppendFile(folder / split / f"{name}.bin", 8 * (count + 1) if state else 0)
            for name, count in (
                ("sentences", self._counts.sentences),
                ("documents", self._counts.documents),
            )
        )
        if not state:
            for file in (self._sentences, self._documents):
                file.write(np.zeros(1, "<i8").tobytes())
        self._shard: AppendFile | None = None
        if self._shard_tokens:
            self._open_shard(self._shard_tokens[-1] * np.dtype(dtype).itemsize)

    def _cut_shards_back(self) -> None:
        """Leave of the token files what the state knows, and remove those begun after it."""
        known = {self._path(n): tokens for n, tokens in enumerate(self._shard_tokens)}
        for path in (self._folder / self._split).glob("tokens-*.bin"):
            if path in known:
                os.truncate(path, known[path] * np.dtype(self._dtype).itemsize)
            else:
                path.unlink()

    def _path(self, shard: int) -> Path:
        return self._folder / token_file(self._split, shard)

    def _open_shard(self, size: int) -> None:
        self._shard = AppendFile(self._path(len(self._shard_tokens) - 1), size)

    def append(self, block: Encoded) -> None:
        """Add documents, none of them empty."""
        if not len(block.document_sentences):
            return
        sentence_ends = np.cumsum(block.sentence_lengths)
        document_ends = np.cumsum(block.document_sentences)
        token_ends = sentence_ends[document_ends - 1]
        self._write_tokens(block.tokens, token_ends)
        before = self._counts
        self._sentences.write((before.tokens + sentence_ends).astype("<i8").tobytes())
        self._documents.write((before.sentences + document_ends).astype("<i8").tobytes())
        self._counts = SplitCounts(
            documents=before.documents + len(document_ends),
            sentences=before.sentences + len(sentence_ends),
            tokens=before.tokens + len(block.tokens),
            # No id is -1: a tokenizer that can encode everything has no unknown token.
            unknown_tokens=before.unknown_tokens
            + int(np.sum(block.tokens == (-1 if self._unknown_id is None else self._unknown_id))),
            shard_tokens=tuple(self._shard_tokens),
            document_lengths=_added(before.document_lengths, np.diff(token_ends, prepend=0)),
            sentence_lengths=_added(before.sentence_lengths, block.sentence_lengths),
        )

    def _write_tokens(self, tokens: np.ndarray, token_ends: np.ndarray) -> None:
        """Write documents that end at `token_ends`: a full token file is followed by another."""
        start = first = 0
        while first < len(token_ends):
            if self._shard is None or self._shard_tokens[-1] >= self._shard_limit:
                self._next_shard()
            assert self._shard is not None
            # The documents up to the one that fills the file.
            room = start + self._shard_limit - self._shard_tokens[-1]
            first = int(np.searchsorted(token_ends, room, side="left")) + 1
            first = min(first, len(token_ends))
            end = int(token_ends[first - 1])
            self._shard.write(tokens[start:end].astype(self._dtype).tobytes())
            self._shard_tokens[-1] += end - start
            start = end

    def _next_shard(self) -> None:
        if self._shard is not None:
            # Nothing looks at it again before the end, and the journal counts it as whole.
            self._shard.sync()
            self._shard.close()
        self._shard_tokens.append(0)
        self._open_shard(0)

    def sync(self) -> dict[str, Any]:
        for file in self._files():
            file.sync()
        sync_folder(self._folder / self._split)
        return asdict(self._counts)

    def close(self) -> None:
        for file in self._files():
            file.close()

    def sizes(self) -> dict[Path, int]:
        item = np.dtype(self._dtype).itemsize
        return {file.path: file.size for file in self._files()} | {
            self._path(number): tokens * item for number, tokens in enumerate(self._shard_tokens)
        }

    def _files(self) -> Iterable[AppendFile]:
        return (self._sentences, self._documents, *([self._shard] if self._shard else []))

    def counts(self) -> SplitCounts:
        if self._counts.documents < 2:
            raise DataError(
                f"only {self._counts.documents} documents of the {self._split} split have any "
                "word in them, expected at least 2; give more text"
            )
        return self._counts


def _added(histogram: tuple[int, ...], lengths: np.ndarray) -> tuple[int, ...]:
    """The histogram by powers of two with more lengths, all of them at least 1."""
    # frexp gives the exponent exactly, where a logarithm may round up.
    more = np.bincount(np.frexp(lengths)[1] - 1, minlength=len(histogram))
    more[: len(histogram)] += np.array(histogram, np.int64)
    return tuple(more.tolist())
