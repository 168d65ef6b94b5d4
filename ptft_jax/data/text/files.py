"""Files of text, JSON lines and Parquet, plain or compressed, here or on remote storage."""

import glob
import hashlib
import io
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from ptft_jax.data.corpus.store import DatasetRecord, FileRecord
from ptft_jax.data.foreign_files import kind_of
from ptft_jax.data.text.compression import SUFFIXES, decompressed, unpacked_head
from ptft_jax.data.text.documents import (
    Document,
    Report,
    json_documents,
    missing_column,
    record_documents,
    stop,
    text_documents,
)
from ptft_jax.errors import ConfigError, DataError

_READ_AHEAD = 1 << 18
# Parquet is read in small batches: a record may be a whole book.
_PARQUET_ROWS = 16
_REMOTE = re.compile(r"[a-z][a-z0-9+.-]*://")
_TABLE = "a table is no prose: write its texts as .jsonl or .parquet, and name their text_column"
_MARKUP = "markup is no prose: extract its text into .txt (a blank line ends a document) or .jsonl"
_OFFICE = "expected plain text: convert it to .txt first"
# What a name says of a file that cannot be read as text.
_UNREADABLE = {
    ".json": "one JSON value in a file cannot be read as a stream; write one object per line and "
    "call it .jsonl",
    **dict.fromkeys((".csv", ".tsv", ".conll", ".conllu", ".xls", ".xlsx"), _TABLE),
    **dict.fromkeys((".html", ".htm", ".xhtml", ".xml"), _MARKUP),
    **dict.fromkeys((".pdf", ".doc", ".docx", ".odt", ".rtf", ".epub", ".ps"), _OFFICE),
}
# The last column of tagged words, as in CoNLL's files.
_TAGGED = re.compile(r"\S+(?:[ \t]+\S+)*[ \t]+(?:O|[BIESLU]-\S+)")
# What file systems call the mark that changes with the content of a file, best first.
_MARKS = ("etag", "generation", "md5hash", "md5", "crc32c", "lastmodified", "mtime", "created")


def is_remote(location: str) -> bool:
    """Whether a location is a URL, such as gs://bucket/name, and not a path of this machine."""
    return _REMOTE.match(location) is not None


def find_files(location: str, text_column: str, join_lines: bool = False) -> list["FilePart"]:
    """The files that a path, a URL or a glob pattern (`**` included) names, in alphabetical order.

    `text_column` is where records have their text; `join_lines`: lines are not paragraphs, blank
    lines end them. Raises ConfigError when there is none, for a
    folder, for a file whose name says that it cannot be read, and when the package for a remote
    file system is missing or it gives no answer.
    """
    if is_remote(location):
        return [FilePart(text_column, join_lines, *found) for found in _find_remote(location)]
    return [FilePart(text_column, join_lines, *found) for found in _find_local(location)]


def _find_local(pattern: str) -> list[tuple[str, str, int, str]]:
    literal = os.path.expanduser(pattern)
    # A name may hold what is a pattern elsewhere: news [2020].txt.
    there = Path(literal).exists()
    matches = [literal] if there else sorted(glob.glob(literal, recursive=True))
    if not matches:
        raise ConfigError(f"inputs: no file matches {pattern!r} (searched from {Path.cwd()})")
    # `**` matches folders as well; only one that is named itself is a mistake.
    files = [match for match in matches if not Path(match).is_dir()]
    if len(files) < len(matches) and "**" not in pattern:
        folder = next(match for match in matches if Path(match).is_dir())
        raise ConfigError(f"inputs: {folder} is a folder; name the files in it, as {folder}/*.txt")
    if not files:
        raise ConfigError(f"inputs: {pattern!r} matches folders only; name the files in them")
    paths = [(Path(file), Path(file).stat()) for file in files]
    return [(str(p), str(p.absolute()), stat.st_size, str(stat.st_mtime_ns)) for p, stat in paths]


def _find_remote(url: str) -> list[tuple[str, str, int, str, Any]]:
    import fsspec

    protocol = url.partition("://")[0]
    try:
        filesystem, pattern = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise ConfigError(
            f"inputs: {url!r} needs another package: {error}; install it, or copy the files here"
        ) from error
    except ValueError as error:
        raise ConfigError(
            f"inputs: {url!r}: {protocol}:// is not known ({error}); expected gs://, s3:// or "
            "https://, or another file system of fsspec"
        ) from error
    try:
        # In a web address ? begins a query.
        magic = "*" in pattern if protocol.startswith("http") else glob.has_magic(pattern)
        if magic:
            keys = sorted(filesystem.glob(pattern))
        else:
            keys = [pattern] if filesystem.exists(pattern) else []
        files = [(key, info) for key in keys if (info := filesystem.info(key))["type"] == "file"]
    except Exception as error:  # each remote file system has errors of its own
        raise ConfigError(
            f"inputs: {url!r} cannot be listed ({type(error).__name__}: {error}); check the name, "
            "the network and the credentials"
        ) from error
    if not files:
        raise ConfigError(f"inputs: no file matches {url!r}")
    return [
        (filesystem.unstrip_protocol(key), key, info.get("size") or 0, _mark(info), filesystem)
        for key, info in files
    ]


def _mark(info: dict[str, Any]) -> str:
    values = {re.sub(r"[-_]", "", name.lower()): value for name, value in info.items()}
    return next((str(values[name]) for name in _MARKS if values.get(name)), "")


def _refuse_tags(path: str, head: bytes) -> None:
    """Raises DataError where the first lines of a text are words with tags, one a line."""
    lines = [line.strip() for line in head.decode("utf-8", "replace").split("\n")[:-1]]
    lines = [line for line in lines if line and not line.startswith("-DOCSTART-")]
    if len(lines) >= 5 and all(map(_TAGGED.fullmatch, lines)):
        raise DataError(
            f"{path}: each line is a word with a tag, as in CoNLL's files: expected prose; {_TABLE}"
        )


class FilePart:
    """A file as a part of a source.

    `location` is its path or URL. `record`, its size and SHA-256, is known once `read` has come to
    the end. `identity` says whether it is still the same file without reading it.
    """

    def __init__(
        self,
        text_column: str,
        join_lines: bool,
        location: str,
        key: str,
        size: int,
        mark: str,
        filesystem: Any = None,
    ) -> None:
        """`key` is the file's name in an fsspec `filesystem`, None on this machine.

        `mark` changes when the file does. Raises ConfigError for a file whose name says that it
        cannot be read.
        """
        path = urlsplit(location).path if location.startswith("http") else location
        self.name = Path(path).name
        self.location = location
        self.size = size
        # What changes when the file does: path, size, and time or tag of its last change.
        self.identity = {"path": location if filesystem else key, "bytes": size, "mark": mark}
        self.record: FileRecord | DatasetRecord | None = None
        self._key, self._filesystem = key, filesystem
        self._text_column = text_column
        self._join_lines = join_lines
        stem = Path(self.name.lower())
        self._compression = stem.suffix if stem.suffix in SUFFIXES else ""
        self._format = (stem.with_suffix("") if self._compression else stem).suffix
        if self._format in _UNREADABLE:
            raise ConfigError(f"inputs: {location}: {_UNREADABLE[self._format]}")
        if self._format == ".parquet" and self._compression:
            raise ConfigError(f"inputs: {location}: Parquet is compressed inside; unpack the file")

    @property
    def holds_records(self) -> bool:
        """Whether the file's texts stand in a column."""
        return self._format in (".jsonl", ".ndjson", ".parquet")

    def _open(self) -> BinaryIO:
        try:
            if self._filesystem is None:
                return Path(self._key).open("rb", buffering=0)
            return self._filesystem.open(self._key, "rb")
        except Exception as error:  # each remote file system has errors of its own
            why = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
            raise ConfigError(f"{self.location}: cannot be read ({why})") from error

    def checksum(self) -> FileRecord:
        """Size and SHA-256 of the file, by reading it."""
        with self._open() as raw:
            reader = Reader(self.location, raw)
            while reader.read(1 << 20):
                pass
        return FileRecord(reader.count, reader.digest())

    def read(self, report: Report = stop) -> Iterator[Document]:
        """Yield the documents of the file in order.

        Raises ConfigError when it cannot be opened; DataError for a damaged file, an archive or
        Parquet without the text column. `report` is told, with file and line or record,
        of text that is not UTF-8, an endless line, or a record that has no text.
        """
        if self._format == ".parquet":
            record = self.checksum()
            yield from self._read_parquet(report)
            self.record = record
            return
        path = self.location
        with self._open() as raw:
            reader = Reader(path, raw)
            # The count is ahead of the unpacked bytes by what is buffered at most.
            buffered = io.BufferedReader(reader, _READ_AHEAD)
            kind = kind_of(unpacked_head(self._compression, buffered.peek(1 << 12)))
            if kind:
                inside = f" inside its {self._compression}" if self._compression else ""
                mend = "unpack it first"
                if "UTF-16" in kind:
                    mend = "convert it: iconv -f UTF-16 -t UTF-8"
                raise DataError(
                    f"{path} is {kind}{inside}: expected text or JSON lines, with .gz, .xz or .zst "
                    f"at the end of the name if it is compressed; {mend}"
                )
            if not self.holds_records:
                _refuse_tags(path, unpacked_head(self._compression, buffered.peek(1 << 12)))
            stream, join_lines = decompressed(self._compression, buffered), self._join_lines
            if self.holds_records:
                documents = json_documents(path, stream, self._text_column, report, join_lines)
            else:
                documents = text_documents(path, stream, report, join_lines)
            for lines in documents:
                yield Document(lines, min(reader.count, self.size))
            # What a decompressor leaves behind its end belongs to the file, too.
            while buffered.read(_READ_AHEAD):
                pass
        self.record = FileRecord(reader.count, reader.digest())

    def _read_parquet(self, report: Report) -> Iterator[Document]:
        # Imported here: it takes a third of a second.
        import pyarrow.parquet

        path, column = self.location, self._text_column
        number = 0
        with self._open() as raw:
            try:
                # Pages are compared with their checksums, if whoever wrote the file wanted them.
                file = pyarrow.parquet.ParquetFile(
                    raw, buffer_size=1 << 20, pre_buffer=False, page_checksum_verification=True
                )
                if column not in file.schema_arrow.names:
                    raise DataError(missing_column(path, column, file.schema_arrow.names))
                rows = max(file.metadata.num_rows, 1)
                for batch in file.iter_batches(_PARQUET_ROWS, columns=[column], use_threads=False):
                    for value in batch.column(0):
                        number += 1
                        where = f"{path}, record {number}"
                        try:
                            text = value.as_py()
                        except UnicodeDecodeError as error:
                            report(f"{where}: not UTF-8 ({error}); write the file again")
                            continue
                        for lines in record_documents(where, text, report, self._join_lines):
                            yield Document(lines, self.size * number // rows)
            except (pyarrow.ArrowException, OSError) as error:
                raise DataError(f"{path}: the Parquet file is damaged ({error})") from error


class Reader(io.RawIOBase):
    """Reads a file once from its beginning, counting and hashing what passes.

    An error of the disk or the network becomes a DataError here, so that what a decompressor raises
    is about the content.
    """

    def __init__(self, name: str, raw: BinaryIO) -> None:
        self.count = 0
        self._name = name
        self._raw: Any = raw
        self._sha256 = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            size = self._raw.readinto(buffer) or 0
        except Exception as error:
            raise DataError(
                f"{self._name}: reading failed after {self.count} bytes "
                f"({type(error).__name__}: {error}); start the same command again"
            ) from error
        self._sha256.update(memoryview(buffer)[:size])
        self.count += size
        return size

    def digest(self) -> str:
        return self._sha256.hexdigest()


def unique_names(names: Sequence[str]) -> list[str]:
    """The names, with a number after each that was there before: a.txt, a.txt (2)."""
    seen: dict[str, int] = {}
    unique = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        unique.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return unique
