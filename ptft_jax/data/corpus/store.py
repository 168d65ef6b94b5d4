"""The token store: what `prepare` writes and pretraining reads, memory-mapped and checked.

A corpus folder holds

    manifest.json               counts, sizes and SHA-256 of every other file, sources, settings
    tokenizer/                  the tokenizer, in Hugging Face's form
    train/, dev/                one folder for each split:
        tokens-00000.bin …      token ids, uint16 or uint32, sentence after sentence
        sentences.bin           int64 [sentences + 1]: where each sentence begins, in tokens
        documents.bin           int64 [documents + 1]: where each document begins, in sentences

All numbers are little-endian. A document never crosses from one token file to the next. Within a
split, the documents of a source follow each other, in the order of the sources.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any, Self, cast, get_args, get_origin, get_type_hints

import numpy as np

from ptft_jax.data.foreign_files import inner_paths, read_json_object, refuse_ways_out
from ptft_jax.data.progress import Progress, no_progress
from ptft_jax.data.ragged import spread
from ptft_jax.errors import ConfigError, DataError

FORMAT = "ptft_jax.corpus"
FORMAT_VERSION = 3
SPLITS = ("train", "dev")
MANIFEST = "manifest.json"
TOKEN_DTYPES = ("<u2", "<u4")
# Numbers that are looked through together.
_AT_ONCE = 1 << 24


@dataclass(frozen=True)
class TextCounts:
    """How much text there is."""

    documents: int = 0
    sentences: int = 0
    tokens: int = 0


@dataclass(frozen=True)
class SplitCounts(TextCounts):
    """How much text a split holds, and what it is like.

    `unknown_tokens` counts the tokenizer's token for what it cannot encode. `shard_tokens` are the
    tokens in each token file. Entry k of `document_lengths` and `sentence_lengths` counts those of
    2**k up to 2**(k + 1) - 1 tokens.
    """

    unknown_tokens: int = 0
    shard_tokens: tuple[int, ...] = ()
    document_lengths: tuple[int, ...] = ()
    sentence_lengths: tuple[int, ...] = ()


@dataclass(frozen=True)
class FileRecord:
    """A file's size in bytes and its SHA-256 in hex."""

    bytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> Self:
        """Measure the file at `path`."""
        with path.open("rb") as file:
            return cls(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


@dataclass(frozen=True)
class DatasetRecord:
    """A split of a dataset of a library: its name there, version or commit, and records read."""

    name: str
    version: str
    split: str
    records: int


@dataclass(frozen=True)
class SourceRecord:
    """One of the sources that a corpus was made from.

    `weight` says how often to draw from it, for each time that all of it is drawn once with
    weight 1. It has `files`, by name, or a `dataset`. `documents_read` counts all its documents;
    `exact_duplicates` and `near_duplicates` were left out, and so were those without a word.
    `counts` is what it contributes to each split.
    """

    name: str
    weight: float
    files: dict[str, FileRecord]
    dataset: DatasetRecord | None
    documents_read: int
    exact_duplicates: int
    near_duplicates: int
    counts: dict[str, TextCounts]


@dataclass(frozen=True)
class Manifest:
    """What a corpus folder holds, and from what it was made.

    `tokenizer_sha256` is the tokenizer's own (TextTokenizer.sha256). `files` maps each file's
    path in the folder to its size and SHA-256. `sources` are in the order of their documents.
    `settings` are those settings of `prepare` that the content depends on. `licence` is a note for
    the reader, `warnings` are what there was to say against the text.
    """

    vocab_size: int
    lowercase: bool
    tokenizer_kind: str
    tokenizer_sha256: str
    token_dtype: str
    splits: dict[str, SplitCounts]
    files: dict[str, FileRecord]
    sources: tuple[SourceRecord, ...]
    settings: dict[str, Any]
    licence: str = ""
    warnings: tuple[str, ...] = ()

    def write(self, path: Path) -> None:
        """Write the manifest as JSON; equal manifests give equal bytes."""
        content = {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(self)}
        if not self.warnings:
            del content["warnings"]
        path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, data_dir: str | Path) -> Self:
        """Read the manifest of a corpus folder.

        Raises ConfigError when the folder is not a corpus or is of another format version,
        DataError when the manifest is damaged.
        """
        path = Path(data_dir) / MANIFEST
        if not path.is_file():
            raise ConfigError(
                f"{data_dir} is not a prepared corpus (it has no {MANIFEST}); make one with "
                "`ptft prepare --config=configs/data/text.py --config.inputs=FILES --out_dir=DATA`"
            )
        refuse_ways_out(Path(data_dir))
        content = read_json_object(path, "prepare the corpus again")
        if content.pop("format", None) != FORMAT:
            raise ConfigError(f"{path}: not the manifest of a corpus made by `ptft prepare`")
        version = content.pop("format_version", None)
        if version != FORMAT_VERSION:
            raise ConfigError(
                f"{path}: corpus format {version}, expected {FORMAT_VERSION}; prepare it again"
            )
        content.setdefault("warnings", [])
        manifest = from_json(cls, content, str(path))
        inner_paths(manifest.files, path)
        return manifest

    def problems(self, splits: Iterable[str]) -> Iterator[str]:
        """Yield the values that contradict others.

        Without any, files of the recorded sizes can be mapped.
        """
        if self.token_dtype not in TOKEN_DTYPES:
            yield f"token_dtype is {self.token_dtype!r}, expected {' or '.join(TOKEN_DTYPES)}"
            return
        for split in splits:
            counts = self.splits[split]
            sizes = {
                f"{split}/sentences.bin": 8 * (counts.sentences + 1),
                f"{split}/documents.bin": 8 * (counts.documents + 1),
            }
            for shard, tokens in enumerate(counts.shard_tokens):
                sizes[token_file(split, shard)] = np.dtype(self.token_dtype).itemsize * tokens
            stories = {f"tokens in files of {split}/": (sum(counts.shard_tokens), counts.tokens)}
            for name, size in sizes.items():
                if name in self.files:
                    stories[f"bytes of {name}"] = self.files[name].bytes, size
                else:
                    yield f"it does not list {name}"
            for key in vars(TextCounts()):
                parts = [source.counts.get(split, TextCounts()) for source in self.sources]
                of_sources = sum(getattr(part, key) for part in parts)
                stories[f"{key} of {split}/ in all sources"] = of_sources, getattr(counts, key)
            for what, (found, expected) in stories.items():
                if found != expected:
                    yield f"{found} {what}, expected {expected}"


def from_json(kind: Any, value: Any, where: str) -> Any:
    """What `dataclasses.asdict` and JSON made of a `kind`, made into one again.

    Raises DataError, beginning with `where`, for anything else: JSON of the wrong type, keys too
    many or too few, whole numbers below 0 or above 2**63, weights that are not above 0.
    """
    found, inner = None, get_args(kind)
    if is_dataclass(kind):
        hints, make = get_type_hints(kind), cast(Any, kind)
        if isinstance(value, dict) and value.keys() == hints.keys():
            return make(**{k: from_json(hints[k], v, f"{where}, {k}") for k, v in value.items()})
        expected = f"an object of {', '.join(hints)}"
    elif get_origin(kind) is dict:
        if isinstance(value, dict):
            return {k: from_json(inner[1], v, f"{where}, {k}") for k, v in value.items()}
        expected = "an object"
    elif get_origin(kind) is tuple:
        if isinstance(value, list):
            return tuple(from_json(inner[0], v, f"{where}, {i}") for i, v in enumerate(value))
        expected = "a list"
    elif inner:  # X | None
        return None if value is None else from_json(inner[0], value, where)
    elif kind is int:
        found = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63
        expected = "a whole number"
    elif kind is float:
        found = isinstance(value, int | float) and 0 < value < np.inf
        expected = "a number above 0"
    else:
        found = kind is Any or isinstance(value, kind)
        expected = f"a value of type {kind}"
    if found:
        return value
    raise DataError(f"{where} is {repr(value)[:80]}, expected {expected}; prepare the corpus again")


def token_file(split: str, shard: int) -> str:
    """The path of a token file inside the corpus folder."""
    return f"{split}/tokens-{shard:05d}.bin"


class Corpus:
    """One split of a prepared corpus, memory-mapped: opening it costs no memory.

    Attributes: `split`; `manifest`; `tokenizer_dir`; `num_documents`, `num_sentences`,
    `num_tokens`; `vocab_size`; `sentence_offsets`, int64 [sentences + 1] in tokens;
    `document_offsets`, int64 [documents + 1] in sentences; `source_documents`, int64
    [sources + 1] in documents; `source_weights`, float64 [sources]. Sentence i is the tokens from
    sentence_offsets[i] up to sentence_offsets[i + 1], and so on.
    """

    def __init__(self, data_dir: Path, split: str, manifest: Manifest) -> None:
        """Map the files; `open` is the way to get a corpus whose files are known to be sound."""
        counts = manifest.splits[split]
        self.split = split
        self.manifest = manifest
        self.tokenizer_dir = data_dir / "tokenizer"
        self.num_documents = counts.documents
        self.num_sentences = counts.sentences
        self.num_tokens = counts.tokens
        self.vocab_size = manifest.vocab_size
        self.source_documents = np.concatenate(
            [[0], np.cumsum([source.counts[split].documents for source in manifest.sources])]
        ).astype(np.int64)
        self.source_weights = np.array([source.weight for source in manifest.sources], np.float64)
        self.sentence_offsets = map_numbers(data_dir / split / "sentences.bin", "<i8")
        self.document_offsets = map_numbers(data_dir / split / "documents.bin", "<i8")
        self._shards = [
            map_numbers(data_dir / token_file(split, shard), manifest.token_dtype)
            for shard in range(len(counts.shard_tokens))
        ]
        self._shard_starts = np.concatenate([[0], np.cumsum(counts.shard_tokens)]).astype(np.int64)

    @classmethod
    def open(cls, data_dir: str | Path, split: str = "train") -> Self:
        """Open a split of the corpus in `data_dir`, after `corpus_problems` has found nothing.

        Raises ConfigError when the folder is not a corpus or has no such split, DataError, naming
        the file, when it is damaged.
        """
        data_dir = Path(data_dir)
        manifest = Manifest.read(data_dir)
        if split not in manifest.splits:
            raise ConfigError(
                f"{data_dir} has no split {split!r}; it has {', '.join(sorted(manifest.splits))}"
            )
        for problem in corpus_problems(data_dir, manifest, [split]):
            raise DataError(problem)
        return cls(data_dir, split, manifest)

    def content_problems(self) -> Iterator[tuple[str, str]]:
        """Yield the files whose numbers cannot be, each with its first such number."""
        for name, offsets, end in (
            ("sentences", self.sentence_offsets, self.num_tokens),
            ("documents", self.document_offsets, self.num_sentences),
        ):
            file = f"{self.split}/{name}.bin"
            if (offsets[0], offsets[-1]) != (0, end):
                yield file, f"offsets from {offsets[0]} to {offsets[-1]}, expected 0 to {end}"
            place = _first(offsets, lambda some: np.diff(some) <= 0)
            if place is not None:
                here, after = offsets[place : place + 2]
                yield file, f"offset {here} at position {place} is followed by {after}"
        for shard, tokens in enumerate(self._shards):
            place = _first(tokens, lambda some: some >= self.vocab_size)
            if place is not None:
                yield (
                    token_file(self.split, shard),
                    f"id {tokens[place]} at position {place}, but the vocabulary has "
                    f"{self.vocab_size} entries",
                )

    def sentence(self, index: int) -> np.ndarray:
        """The token ids of sentence `index`, int32."""
        if not 0 <= index < self.num_sentences:
            raise IndexError(f"sentence {index} of {self.num_sentences}")
        start, end = self.sentence_offsets[index : index + 2]
        return self.gather(np.array([start]), np.array([end - start]))

    def gather(self, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """The tokens of N stretches, one after another, as int32 [sum of lengths].

        `starts` and `lengths`, int64 [N], count tokens of the split; a stretch lies in one
        document.
        """
        tokens = spread(starts, lengths)
        if len(self._shards) == 1:
            return self._shards[0][tokens].astype(np.int32)
        shard_of = np.searchsorted(self._shard_starts, starts, side="right") - 1
        shard_of_token = np.repeat(shard_of, lengths)
        gathered = np.empty(len(tokens), np.int32)
        for shard in np.unique(shard_of):
            here = shard_of_token == shard
            gathered[here] = self._shards[shard][tokens[here] - self._shard_starts[shard]]
        return gathered


def map_numbers(path: Path, dtype: str) -> np.ndarray:
    """The numbers of a file, memory-mapped."""
    if not path.stat().st_size:  # it cannot be mapped
        return np.zeros(0, dtype)
    # A plain view: indexing the memmap class itself is slower and gives memmaps back.
    return np.asarray(np.memmap(path, dtype=dtype, mode="r"))


def _first(numbers: np.ndarray, is_wrong: Callable[[np.ndarray], np.ndarray]) -> int | None:
    """The first place where `is_wrong`, which may look at a number and the next, is true."""
    for start in range(0, len(numbers), _AT_ONCE):
        wrong = is_wrong(numbers[start : start + _AT_ONCE + 1])
        if wrong.any():
            return start + int(np.argmax(wrong))
    return None


def corpus_problems(
    data_dir: Path, manifest: Manifest, splits: Iterable[str], progress: Progress = no_progress
) -> Iterator[str]:
    """Yield what is wrong with splits of a corpus and with its tokenizer: the file and the place.

    Every byte is read, at about the speed of the disk: sizes, SHA-256, offsets and token ids.
    Nothing more can be told of files by a manifest that contradicts itself.
    """
    splits = list(splits)
    again = "; prepare the corpus again"
    contradictions = [f"{data_dir / MANIFEST}: {text}{again}" for text in manifest.problems(splits)]
    yield from contradictions
    if contradictions:
        return
    folders = ("tokenizer/", *(f"{split}/" for split in splits))
    names = [name for name in sorted(manifest.files) if name.startswith(folders)]
    total, done = sum(manifest.files[name].bytes for name in names), 0
    unusable = set()
    for name in names:
        path, record = data_dir / name, manifest.files[name]
        size = path.stat().st_size if path.is_file() else None
        if size != record.bytes:
            unusable.add(name.partition("/")[0])
            found = "is missing" if size is None else f"has {size} bytes, expected {record.bytes}"
            yield f"{path} {found}{again}"
        elif FileRecord.of(path) != record:
            what = "has changed since it was prepared (its SHA-256 is not the manifest's)"
            yield f"{path} {what}{again}"
        done += record.bytes
        progress("Checking the corpus", done, total)
    for split in splits:
        if split not in unusable:
            for name, problem in Corpus(data_dir, split, manifest).content_problems():
                yield f"{data_dir / name}: {problem}{again}"
