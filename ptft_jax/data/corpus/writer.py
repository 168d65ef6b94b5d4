"""Writing the splits of a corpus, so that a killed run can go on after its last commit."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ptft_jax.data.corpus.encode import Encoded
from ptft_jax.data.corpus.journal import WorkFolder
from ptft_jax.data.corpus.store import SPLITS, SplitCounts, TextCounts, from_json, token_file
from ptft_jax.errors import DataError


class StoreWriter:
    """The files of all splits, and the counts of each source in them.

    Attributes: `splits`, what the splits hold; `sources`, for each source and split the number of
    its documents, sentences and tokens.
    """

    def __init__(
        self,
        work: WorkFolder,
        dtype: str,
        shard_tokens: int,
        unknown_id: int | None,
        state: dict[str, Any] | None = None,
    ) -> None:
        """`state` goes on from there, with the files of the work folder; None begins."""
        self.sources: list[dict[str, list[int]]] = state["sources"] if state else []
        self._writers = {
            split: _SplitWriter(
                work,
                split,
                dtype,
                shard_tokens,
                unknown_id,
                from_json(SplitCounts, state["splits"][split]) if state else SplitCounts(),
            )
            for split in SPLITS
        }

    def append(self, source: int, block: Encoded, is_dev: np.ndarray) -> None:
        """Add documents of a source, bool [documents] says which are held out.

        Documents without a sentence are left out.
        """
        while len(self.sources) <= source:
            self.sources.append({split: [0, 0, 0] for split in SPLITS})
        in_split = {"train": ~is_dev, "dev": is_dev}
        for split, writer in self._writers.items():
            chosen = in_split[split] & (block.document_sentences > 0)
            sentences = np.repeat(chosen, block.document_sentences)
            tokens = np.repeat(sentences, block.sentence_lengths)
            part = Encoded(
                block.tokens[tokens],
                block.sentence_lengths[sentences],
                block.document_sentences[chosen],
            )
            writer.append(part)
            counts = self.sources[source][split]
            counts[0] += len(part.document_sentences)
            counts[1] += len(part.sentence_lengths)
            counts[2] += len(part.tokens)

    def state(self) -> dict[str, Any]:
        """What to go on from, beside the files."""
        splits = {split: asdict(writer.counts) for split, writer in self._writers.items()}
        return {"splits": splits, "sources": self.sources}

    def finish(self) -> dict[str, SplitCounts]:
        """What the splits hold; DataError when it is too little to pair sentences."""
        for split, writer in self._writers.items():
            if writer.counts.documents < 2:
                raise DataError(
                    f"only {writer.counts.documents} documents of the {split} split have any word "
                    "in them, expected at least 2; give more text"
                )
            writer.finish()
        return {split: writer.counts for split, writer in self._writers.items()}

    def source_counts(self, source: int) -> dict[str, TextCounts]:
        """What a source contributes to each split."""
        counts = self.sources[source] if source < len(self.sources) else dict.fromkeys(SPLITS, ())
        return {split: TextCounts(*numbers) for split, numbers in counts.items()}


@dataclass
class _SplitWriter:
    """Appends encoded documents to the files of one split, and counts them."""

    work: WorkFolder
    split: str
    dtype: str
    shard_limit: int
    unknown_id: int | None
    counts: SplitCounts

    def __post_init__(self) -> None:
        self._shard_tokens = list(self.counts.shard_tokens)
        self._names = [f"corpus/{self.split}/{name}.bin" for name in ("sentences", "documents")]
        self._sentences, self._documents = map(self.work.open, self._names)
        for file in (self._sentences, self._documents):
            if not file.size:
                file.write(np.zeros(1, "<i8").tobytes())
        self._shard = self.work.open(self._shard_name()) if self._shard_tokens else None

    def _shard_name(self) -> str:
        return f"corpus/{token_file(self.split, len(self._shard_tokens) - 1)}"

    def append(self, block: Encoded) -> None:
        """Add documents, none of them empty."""
        if not len(block.document_sentences):
            return
        sentence_ends = np.cumsum(block.sentence_lengths)
        document_ends = np.cumsum(block.document_sentences)
        token_ends = sentence_ends[document_ends - 1]
        self._write_tokens(block.tokens, token_ends)
        before = self.counts
        self._sentences.write((before.tokens + sentence_ends).astype("<i8").tobytes())
        self._documents.write((before.sentences + document_ends).astype("<i8").tobytes())
        self.counts = SplitCounts(
            documents=before.documents + len(document_ends),
            sentences=before.sentences + len(sentence_ends),
            tokens=before.tokens + len(block.tokens),
            # No id is -1: a tokenizer that can encode everything has no unknown token.
            unknown_tokens=before.unknown_tokens
            + int(np.sum(block.tokens == (-1 if self.unknown_id is None else self.unknown_id))),
            shard_tokens=tuple(self._shard_tokens),
            document_lengths=_added(before.document_lengths, np.diff(token_ends, prepend=0)),
            sentence_lengths=_added(before.sentence_lengths, block.sentence_lengths),
        )

    def _write_tokens(self, tokens: np.ndarray, token_ends: np.ndarray) -> None:
        """Write documents that end at `token_ends`: a full token file is followed by another."""
        start = first = 0
        while first < len(token_ends):
            if self._shard is None or self._shard_tokens[-1] >= self.shard_limit:
                if self._shard is not None:
                    self.work.finish(self._shard_name())
                self._shard_tokens.append(0)
                self._shard = self.work.open(self._shard_name())
            # The documents up to the one that fills the file.
            room = start + self.shard_limit - self._shard_tokens[-1]
            first = int(np.searchsorted(token_ends, room, side="left")) + 1
            first = min(first, len(token_ends))
            end = int(token_ends[first - 1])
            self._shard.write(tokens[start:end].astype(self.dtype).tobytes())
            self._shard_tokens[-1] += end - start
            start = end

    def finish(self) -> None:
        for name in (*self._names, self._shard_name()):
            self.work.finish(name)


def _added(histogram: tuple[int, ...], lengths: np.ndarray) -> tuple[int, ...]:
    """The histogram by powers of two with more lengths, all of them at least 1."""
    # frexp gives the exponent exactly, where a logarithm may round up.
    more = np.bincount(np.frexp(lengths)[1] - 1, minlength=len(histogram))
    more[: len(histogram)] += np.array(histogram, np.int64)
    return tuple(more.tolist())
