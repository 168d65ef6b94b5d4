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
from collections.abc import Iterable, Iterator
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
# What `from_json` raises for JSON that is something else.
_NOT_A_KIND = (AttributeError, KeyError, OverflowError, TypeError, ValueError)


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
        DataError when the manifest is damaged or contradicts itself.
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
        try:
            manifest: Self = from_json(cls, content)
            manifest._check()
        except _NOT_A_KIND as error:
            what = f"{type(error).__name__}: {error}"
            raise DataError(f"{path} is damaged ({what}); prepare the corpus again") from error
        inner_paths(manifest.files, path)
        return manifest

    def sizes(self, split: str) -> dict[str, int]:
        """The files of a split, and the bytes that they have by its counts."""
        counts, item = self.splits[split], np.dtype(self.token_dtype).itemsize
        return {
            f"{split}/sentences.bin": 8 * (counts.sentences + 1),
            f"{split}/documents.bin": 8 * (counts.documents + 1),
            **{token_file(split, i): item * n for i, n in enumerate(counts.shard_tokens)},
        }

    def _check(self) -> None:
        """Raise ValueError for what cannot be together: files of the recorded sizes can be mapped.

        A source that lacks a split is a KeyError.
        """
        if self.token_dtype not in TOKEN_DTYPES:
            raise ValueError(f"token_dtype {self.token_dtype!r}")
        if not all(0 < source.weight < np.inf for source in self.sources):
            raise ValueError("a weight that is not above 0")
        for split, counts in self.splits.items():
            sizes = self.sizes(split)
            listed = {name: self.files[name].bytes for name in sizes if name in self.files}
            documents = sum(source.counts[split].documents for source in self.sources)
            found = (listed, sum(counts.shard_tokens), documents)
            if found != (sizes, counts.tokens, counts.documents):
                raise ValueError(f"counts of {split}/ that contradict each other or its files")


def from_json(kind: Any, value: Any) -> Any:
    """What `dataclasses.asdict` and JSON made of a `kind`, made into one again.

    Raises one of `_NOT_A_KIND` for anything else: values of other types, whole numbers below 0
    or above 2**63, keys too many, or too few where they have no default.
    """
    inner = get_args(kind)
    if is_dataclass(kind):
        hints, make = get_type_hints(kind), cast(Any, kind)
        return make(**{key: from_json(hints[key], one) for key, one in value.items()})
    if get_origin(kind) is dict:
        return {key: from_json(inner[1], one) for key, one in value.items()}
    if get_origin(kind) is tuple:
        return tuple(from_json(inner[0], one) for one in value)
    if inner:  # X | None
        return None if value is None else from_json(inner[0], value)
    if kind is float:
        return float(value)
    if not (kind is Any or type(value) is kind) or (kind is int and not 0 <= value < 1 << 63):
        raise ValueError(f"{repr(value)[:80]} where a value of type {kind.__name__} belongs")
    return value


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
        """Yield the files by which something would be read that is not there, whatever their SHA.

        Only someone who rewrote the manifest, too, can have made such numbers; but NumPy takes an
        offset below 0, and a model an id beyond its vocabulary, without an error.
        """
        for name, offsets, end in (
            ("sentences", self.sentence_offsets, self.num_tokens),
            ("documents", self.document_offsets, self.num_sentences),
        ):
            if offsets[0] or offsets[-1] != end or not np.all(offsets[:-1] < offsets[1:]):
                yield f"{self.split}/{name}.bin", f"its offsets do not ascend from 0 to {end}"
        for shard, tokens in enumerate(self._shards):
            if (highest := tokens.max(initial=0)) >= self.vocab_size:
                what = f"id {highest}, but the vocabulary has {self.vocab_size} entries"
                yield token_file(self.split, shard), what

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


def corpus_problems(
    data_dir: Path, manifest: Manifest, splits: Iterable[str], progress: Progress = no_progress
) -> Iterator[str]:
    """Yield the files of splits of a corpus and of its tokenizer that are not what was written.

    Every byte is read, at about the speed of the disk: sizes and SHA-256, and of a split whose
    files are all the manifest's the numbers.
    """
    splits = list(splits)
    again = "; prepare the corpus again"
    folders = ("tokenizer/", *(f"{split}/" for split in splits))
    names = [name for name in sorted(manifest.files) if name.startswith(folders)]
    total, done = sum(manifest.files[name].bytes for name in names), 0
    changed = set()
    for name in names:
        path, record = data_dir / name, manifest.files[name]
        size = path.stat().st_size if path.is_file() else None
        problem = None
        if size != record.bytes:
            problem = "is missing" if size is None else f"has {size} bytes, expected {record.bytes}"
        elif FileRecord.of(path) != record:
            problem = "has changed since it was prepared (its SHA-256 is not the manifest's)"
        if problem:
            changed.add(name.partition("/")[0])
            yield f"{path} {problem}{again}"
        done += record.bytes
        progress("Checking the corpus", done, total)
    for split in splits:
        if split not in changed:
            for name, problem in Corpus(data_dir, split, manifest).content_problems():
                yield f"{data_dir / name}: {problem}{again}"
