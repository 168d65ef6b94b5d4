"""Documents from text files, plain or compressed, read as a stream in bounded memory."""

import glob
import gzip
import lzma
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from ptft_jax.errors import ConfigError, DataError

# A line is a sentence or a paragraph; a longer one is no text, and would have to be held in memory.
MAX_LINE_BYTES = 1 << 26
# A file without blank lines would be one document of any size: it is cut into parts of this size.
MAX_DOCUMENT_BYTES = 1 << 24

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Document:
    """The lines between two blank lines: stripped, none of them empty, at least one.

    `source` and `line_number` (from 1) say where it begins; `input_bytes` is how much of that file,
    in its compressed size, was read by its end.
    """

    lines: tuple[str, ...]
    source: Path
    line_number: int
    input_bytes: int


def expand_inputs(patterns: Iterable[str]) -> list[Path]:
    """The files that match the glob patterns (`**` included), pattern by pattern, each file once.

    Within a pattern they are in alphabetical order. Raises ConfigError for a pattern without a
    match and for one that matches a folder.
    """
    patterns = list(patterns)
    if not patterns:
        raise ConfigError("inputs is empty: give at least one file or pattern, such as texts/*.txt")
    paths: dict[Path, None] = {}
    for pattern in patterns:
        matches = sorted(glob.glob(str(Path(pattern).expanduser()), recursive=True))
        if not matches:
            raise ConfigError(f"inputs: no file matches {pattern!r} (searched from {Path.cwd()})")
        for match in matches:
            if Path(match).is_dir():
                raise ConfigError(
                    f"inputs: {match} is a folder; name the files in it, as in {match}/*.txt"
                )
            paths[Path(match)] = None
    return list(paths)


def read_documents(paths: Sequence[Path]) -> Iterator[Document]:
    """Yield the documents of the files in order; a blank line and the end of a file end a document.

    Files ending in .gz or .xz are decompressed, others are plain text. Line ends are LF or CR LF,
    and a byte-order mark is dropped. Raises ConfigError when a file cannot be opened; DataError,
    with file and line, for text that is not UTF-8, a damaged compressed file, or an endless line.
    """
    for path in paths:
        try:
            raw = path.open("rb")
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
        with raw, _decompressed(path, raw) as stream:
            yield from _read_file(path, raw, stream)


def _decompressed(path: Path, raw: BinaryIO) -> BinaryIO:
    if path.suffix == ".gz":
        return cast(BinaryIO, gzip.open(raw, "rb"))
    if path.suffix == ".xz":
        return cast(BinaryIO, lzma.open(raw, "rb"))
    return raw


def _read_file(path: Path, raw: BinaryIO, stream: BinaryIO) -> Iterator[Document]:
    lines: list[str] = []
    size = 0
    first_line = 1
    for number, line in _decoded_lines(path, stream):
        if line and not lines:
            first_line = number
        if line:
            lines.append(line)
            size += len(line)
        if lines and (not line or size >= MAX_DOCUMENT_BYTES):
            yield Document(tuple(lines), path, first_line, raw.tell())
            lines, size = [], 0
    if lines:
        yield Document(tuple(lines), path, first_line, raw.tell())


def _decoded_lines(path: Path, stream: BinaryIO) -> Iterator[tuple[int, str]]:
    number = 0
    while True:
        number += 1
        try:
            line = stream.readline(MAX_LINE_BYTES)
        except (OSError, EOFError, lzma.LZMAError) as error:
            raise DataError(
                f"{path}, near line {number}: the compressed file is damaged ({error})"
            ) from error
        if not line:
            return
        if len(line) >= MAX_LINE_BYTES and not line.endswith(b"\n"):
            raise DataError(
                f"{path}, line {number}: longer than {MAX_LINE_BYTES >> 20} MiB; expected one "
                "sentence or one paragraph per line"
            )
        if number == 1:
            line = line.removeprefix(_BYTE_ORDER_MARK)
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path}, line {number}: not UTF-8 (byte 0x{line[error.start]:02x} at position "
                f"{error.start + 1} of the line); convert the file, for example with "
                f"iconv -f latin1 -t utf-8"
            ) from error
        yield number, text.strip()
