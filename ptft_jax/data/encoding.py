"""Encoding blocks of documents, in several processes, and writing them as a split of a corpus."""

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from ptft_jax.data.corpus import SplitCounts, token_file
from ptft_jax.data.sentences import split_sentences
from ptft_jax.data.tokenizer import TextTokenizer
from ptft_jax.errors import DataError

# The lines of each of some documents.
Block = Sequence[tuple[str, ...]]


class Encoded(NamedTuple):
    """A block of documents: their tokens, tokens per sentence, and sentences per document."""

    tokens: np.ndarray
    sentence_lengths: np.ndarray
    document_sentences: np.ndarray


_worker_tokenizer: TextTokenizer | None = None


def _start_worker(tokenizer_dir: str) -> None:
    global _worker_tokenizer
    # Ctrl-C reaches every process of the terminal; the parent ends the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Each worker process is one thread; the tokenizer's own threads would only compete.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _worker_tokenizer = TextTokenizer.load(tokenizer_dir)


def _encode_in_worker(block: Block) -> Encoded:
    assert _worker_tokenizer is not None
    return _encode(_worker_tokenizer, block)


def _encode(tokenizer: TextTokenizer, block: Block) -> Encoded:
    """Split and encode the documents (lines) of a block; a sentence without a token is left out."""
    sentences: list[str] = []
    document_of: list[int] = []
    for number, lines in enumerate(block):
        for line in lines:
            found = split_sentences(line)
            sentences += found
            document_of += [number] * len(found)
    encoded = tokenizer.encode_batch(sentences, plain=True)
    lengths = np.array([len(ids) for ids in encoded], np.int64)
    tokens = np.fromiter((index for ids in encoded for index in ids), np.uint32, int(lengths.sum()))
    kept = lengths > 0
    counts = np.bincount(np.array(document_of, np.int64)[kept], minlength=len(block))
    return Encoded(tokens, lengths[kept], counts)


def encode_blocks(
    blocks: Iterable[tuple[str, Block]],
    tokenizer: TextTokenizer,
    tokenizer_dir: Path,
    workers: int,
) -> Iterator[tuple[str, Encoded]]:
    """Encode blocks, each with the name of its split, in their order.

    `workers` 1 encodes in this process with `tokenizer`; more start that many processes, which read
    the same tokenizer from `tokenizer_dir`. At most a few blocks per worker are held in memory.
    """
    if workers == 1:
        for split, block in blocks:
            yield split, _encode(tokenizer, block)
        return
    # Not fork: a forked copy of a process with threads may deadlock.
    with ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(str(tokenizer_dir),),
    ) as pool:
        waiting: deque[tuple[str, Future[Encoded]]] = deque()
        try:
            for split, block in blocks:
                waiting.append((split, pool.submit(_encode_in_worker, block)))
                if len(waiting) > 2 * workers:
                    ready_split, ready = waiting.popleft()
                    yield ready_split, ready.result()
            while waiting:
                ready_split, ready = waiting.popleft()
                yield ready_split, ready.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


class SplitWriter:
    """Appends encoded documents to the files of one split."""

    def __init__(self, folder: Path, split: str, dtype: str, shard_tokens: int, stack: ExitStack):
        (folder / split).mkdir()
        self._folder, self._split, self._dtype = folder, split, dtype
        self._shard_limit = shard_tokens
        self._stack = stack
        self._sentences = stack.enter_context((folder / split / "sentences.bin").open("wb"))
        self._documents = stack.enter_context((folder / split / "documents.bin").open("wb"))
        self._shard: BinaryIO | None = None
        self._shard_tokens: list[int] = []
        self._counts = {"documents": 0, "sentences": 0, "tokens": 0}
        for file in (self._sentences, self._documents):
            file.write(np.zeros(1, "<i8").tobytes())

    def append(self, block: Encoded) -> None:
        """Add the documents that have at least one sentence."""
        sentences = tokens = 0
        for count in block.document_sentences[block.document_sentences > 0]:
            lengths = block.sentence_lengths[sentences : sentences + count]
            size = int(lengths.sum())
            self._append_document(block.tokens[tokens : tokens + size], lengths)
            sentences += count
            tokens += size

    def _append_document(self, tokens: np.ndarray, lengths: np.ndarray) -> None:
        if self._shard is None or self._shard_tokens[-1] >= self._shard_limit:
            if self._shard is not None:
                self._shard.close()
            path = self._folder / token_file(self._split, len(self._shard_tokens))
            self._shard = self._stack.enter_context(path.open("wb"))
            self._shard_tokens.append(0)
        self._shard.write(tokens.astype(self._dtype).tobytes())
        self._shard_tokens[-1] += len(tokens)
        ends = self._counts["tokens"] + np.cumsum(lengths)
        self._sentences.write(ends.astype("<i8").tobytes())
        self._counts["tokens"] += len(tokens)
        self._counts["sentences"] += len(lengths)
        self._counts["documents"] += 1
        self._documents.write(np.array([self._counts["sentences"]], "<i8").tobytes())

    def counts(self) -> SplitCounts:
        """What has been written so far; DataError when it is too little to pair sentences."""
        if self._counts["documents"] < 2:
            raise DataError(
                f"only {self._counts['documents']} documents of the {self._split} split have any "
                "word in them, expected at least 2; give more text"
            )
        return SplitCounts(**self._counts, shard_tokens=tuple(self._shard_tokens))
