"""From text files to a tokenizer and a token store, in one deterministic pass over the text."""

import heapq
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from ptft_jax.data.corpus import (
    MANIFEST,
    SPLITS,
    FileRecord,
    Manifest,
    check_file,
)
from ptft_jax.data.documents import Document, expand_inputs, read_documents
from ptft_jax.data.encoding import SplitWriter, encode_blocks
from ptft_jax.data.randomness import random_uint64
from ptft_jax.data.tokenizer import TextTokenizer, train_wordpiece
from ptft_jax.errors import ConfigError, DataError

# Each split needs two documents, or there would be no other document for a random next sentence.
_LEAST_DOCUMENTS = 2 * len(SPLITS)
# Documents travel to the workers in blocks of about this many characters: large enough to hide the
# cost of sending, small enough to keep all workers busy. The result does not depend on it.
_BLOCK_CHARACTERS = 1 << 19


class Progress(Protocol):
    """How far a long task is: `done` of `total` bytes (or items) of what `description` names."""

    def __call__(self, description: str, done: int, total: int) -> None: ...


def no_progress(description: str, done: int, total: int) -> None:
    """Say nothing."""


@dataclass(frozen=True)
class PrepareSettings:
    """What to make a corpus of, and how.

    `inputs`: file names or glob patterns. `vocab`: a tokenizer folder or vocab.txt to use; ""
    learns a WordPiece vocabulary of `vocab_size` tokens from at most `vocab_sample_characters`
    characters of documents drawn at random. `lowercase` concerns a learned vocabulary and a bare
    vocab.txt. `dev_fraction` of the documents, and at least two, are held out. `shard_tokens`: a
    token file is closed once it has this many. `workers` processes, which do not change the
    result.
    """

    inputs: tuple[str, ...]
    vocab: str = ""
    vocab_size: int = 30522
    lowercase: bool = True
    dev_fraction: float = 0.01
    seed: int = 0
    workers: int = 1
    shard_tokens: int = 1 << 26
    vocab_sample_characters: int = 1 << 26

    def check(self) -> None:
        """Raise ConfigError for a value that cannot be used."""
        if not 0 < self.dev_fraction < 1:
            raise ConfigError(f"dev_fraction={self.dev_fraction}: expected between 0 and 1")
        for name in ("workers", "shard_tokens", "vocab_sample_characters"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)}: expected at least 1")

    def content_settings(self) -> dict[str, str | int | float | bool]:
        """The settings that decide the content; paths do not, the manifest has the files' sums."""
        settings = asdict(self)
        for name in ("inputs", "vocab", "workers"):
            del settings[name]
        if self.vocab:
            for name in ("vocab_size", "vocab_sample_characters"):
                del settings[name]
        return {**settings, "vocab": "given" if self.vocab else "learned"}


def prepare_corpus(
    settings: PrepareSettings, out_dir: str | Path, progress: Progress = no_progress
) -> Manifest:
    """Write the corpus made from `settings.inputs` to `out_dir` and return its manifest.

    Nothing appears at `out_dir` until all is done. A corpus already there is kept, and its
    manifest returned with `reused` true, when it was made from the same files with the same
    settings. Memory is bounded by the blocks in flight and the vocabulary's sample, not by the
    inputs. Raises ConfigError for settings and paths, or a folder in the way; DataError for text
    that cannot be read or is too little.
    """
    settings.check()
    out_dir = Path(out_dir)
    paths = expand_inputs(settings.inputs)
    given = (
        TextTokenizer.load(settings.vocab, lowercase=_lowercase_of_given(settings))
        if settings.vocab
        else None
    )
    _check_target(out_dir)
    sources = _describe_sources(paths, progress)
    finished = _finished(settings, out_dir, sources, given)
    if finished is not None:
        return finished
    documents, sample = _survey(settings, paths, progress)
    if given is None:
        progress("Learning the vocabulary", 0, 1)
        tokenizer = train_wordpiece(sample, settings.vocab_size, settings.lowercase)
        progress("Learning the vocabulary", 1, 1)
    else:
        tokenizer = given
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    partial = out_dir.parent / f".{out_dir.name}.partial-{os.getpid()}"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        manifest = _write(settings, paths, documents, tokenizer, sources, partial, progress)
        os.replace(partial, out_dir)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return manifest


def _lowercase_of_given(settings: PrepareSettings) -> bool | None:
    """A tokenizer folder knows its own case; a bare vocab.txt does not."""
    return settings.lowercase if Path(settings.vocab).is_file() else None


def _check_target(out_dir: Path) -> None:
    if out_dir.exists() and not out_dir.is_dir():
        raise ConfigError(f"{out_dir} is a file; expected the name of a folder to make")
    if out_dir.is_dir() and any(out_dir.iterdir()) and not (out_dir / MANIFEST).is_file():
        raise ConfigError(
            f"{out_dir} is not empty and holds no corpus; choose another folder or remove it"
        )


def _describe_sources(paths: Sequence[Path], progress: Progress) -> dict[str, FileRecord]:
    """Size and SHA-256 of each input, under its name (numbered where names repeat)."""
    total = sum(path.stat().st_size for path in paths)
    sources: dict[str, FileRecord] = {}
    done = 0
    for number, path in enumerate(paths):
        name = path.name if path.name not in sources else f"{path.name} ({number})"
        try:
            sources[name] = FileRecord.of(path)
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
        done += sources[name].bytes
        progress("Checking the inputs", done, total)
    return sources


def _finished(
    settings: PrepareSettings,
    out_dir: Path,
    sources: dict[str, FileRecord],
    given: TextTokenizer | None,
) -> Manifest | None:
    """The manifest of the same corpus in `out_dir`, None when it is empty, or ConfigError."""
    if not (out_dir / MANIFEST).is_file():
        return None
    manifest = Manifest.read(out_dir)
    wanted: dict[str, object] = {**settings.content_settings(), "sources": list(sources.items())}
    found: dict[str, object] = {**manifest.settings, "sources": list(manifest.sources.items())}
    if given is not None:
        wanted["tokenizer"], found["tokenizer"] = given.sha256, manifest.tokenizer_sha256
    # JSON sorts the names of the sources, so their order is compared as it is stored.
    wanted["sources"] = sorted(sources.items())
    found["sources"] = sorted(manifest.sources.items())
    differences = [
        name if name in ("sources", "tokenizer") else f"{name}={found.get(name)}, now {value}"
        for name, value in wanted.items()
        if found.get(name) != value
    ]
    if differences:
        raise ConfigError(
            f"{out_dir} already holds another corpus (different: {'; '.join(differences)}); choose "
            "another out_dir, or remove this one"
        )
    for name, record in manifest.files.items():
        check_file(out_dir / name, record, content=True)
    return replace(manifest, reused=True)


def _survey(
    settings: PrepareSettings, paths: Sequence[Path], progress: Progress
) -> tuple[int, list[str]]:
    """Read everything once: the number of documents, and a sample of lines for the vocabulary.

    Every document has a random number; the sample holds those with the smallest ones, as many as
    its bound allows and at least one: fair and deterministic, without knowing the size of the text
    beforehand. Raises DataError when there are too few documents.
    """
    count = 0
    # A heap with the largest random number on top.
    kept: list[tuple[int, int, Document]] = []
    size = 0
    threshold = 1 << 64
    for document in _with_progress(read_documents(paths), paths, "Reading the text", progress):
        number = int(random_uint64(settings.seed, "vocabulary sample", count))
        count += 1
        if settings.vocab or number >= threshold:
            continue
        heapq.heappush(kept, (-number, count, document))
        size += sum(map(len, document.lines))
        while size > settings.vocab_sample_characters and len(kept) > 1:
            largest, _, dropped = heapq.heappop(kept)
            threshold = -largest
            size -= sum(map(len, dropped.lines))
    names = ", ".join(map(str, paths[:3])) + (", …" if len(paths) > 3 else "")
    if count == 0:
        raise DataError(f"the corpus is empty: there is no text in {names}")
    if count < _LEAST_DOCUMENTS:
        raise DataError(
            f"{count} documents in {names}, expected at least {_LEAST_DOCUMENTS} (two for "
            "training, two held out); separate documents by blank lines, or give more files"
        )
    return count, [line for _, _, document in kept for line in document.lines]


def _with_progress(
    documents: Iterable[Document], paths: Sequence[Path], description: str, progress: Progress
) -> Iterator[Document]:
    total = sum(path.stat().st_size for path in paths)
    finished = 0
    reported = -1
    current: Document | None = None
    for document in documents:
        if current is not None and document.source != current.source:
            finished += current.source.stat().st_size
        current = document
        done = finished + document.input_bytes
        # A thousand reports are enough for any display.
        if done * 1000 // max(total, 1) != reported:
            reported = done * 1000 // max(total, 1)
            progress(description, min(done, total), total)
        yield document
    progress(description, total, total)


def dev_documents(count: int, fraction: float, seed: int) -> np.ndarray:
    """Which of `count` documents are held out: bool [count], a function of the arguments alone.

    They are the ones with the smallest random numbers; at least two, and two are left for training.
    """
    held_out = min(max(2, round(count * fraction)), count - 2)
    numbers = random_uint64(seed, "held out", np.arange(count))
    is_dev = np.zeros(count, bool)
    is_dev[np.argsort(numbers, kind="stable")[:held_out]] = True
    return is_dev


def _blocks(
    documents: Iterable[Document], is_dev: np.ndarray
) -> Iterator[tuple[str, list[tuple[str, ...]]]]:
    """Blocks of documents of one split each, in the order of the documents within a split."""
    waiting: dict[str, list[tuple[str, ...]]] = {split: [] for split in SPLITS}
    sizes = dict.fromkeys(SPLITS, 0)
    for index, document in enumerate(documents):
        if index >= len(is_dev):
            raise DataError("the inputs have grown while they were read; start again")
        split = "dev" if is_dev[index] else "train"
        waiting[split].append(document.lines)
        sizes[split] += sum(map(len, document.lines))
        if sizes[split] >= _BLOCK_CHARACTERS:
            yield split, waiting[split]
            waiting[split], sizes[split] = [], 0
    for split in SPLITS:
        if waiting[split]:
            yield split, waiting[split]


def _write(
    settings: PrepareSettings,
    paths: Sequence[Path],
    documents: int,
    tokenizer: TextTokenizer,
    sources: dict[str, FileRecord],
    folder: Path,
    progress: Progress,
) -> Manifest:
    """Write a whole corpus folder: tokenizer, splits, and at the very end the manifest."""
    folder.mkdir()
    tokenizer.save(folder / "tokenizer")
    dtype = "<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4"
    is_dev = dev_documents(documents, settings.dev_fraction, settings.seed)
    with ExitStack() as stack:
        writers = {
            split: SplitWriter(folder, split, dtype, settings.shard_tokens, stack)
            for split in SPLITS
        }
        stream = _with_progress(read_documents(paths), paths, "Encoding the text", progress)
        blocks = _blocks(stream, is_dev)
        for split, block in encode_blocks(
            blocks, tokenizer, folder / "tokenizer", settings.workers
        ):
            writers[split].append(block)
        counts = {split: writer.counts() for split, writer in writers.items()}
    manifest = Manifest(
        vocab_size=tokenizer.vocab_size,
        lowercase=tokenizer.lowercase,
        tokenizer_sha256=tokenizer.sha256,
        token_dtype=dtype,
        splits=counts,
        files={
            path.relative_to(folder).as_posix(): FileRecord.of(path)
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        },
        sources=sources,
        settings=settings.content_settings(),
    )
    manifest.write(folder / MANIFEST)
    return manifest
