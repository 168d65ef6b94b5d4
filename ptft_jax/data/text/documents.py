"""Documents from lines of text, from lines of JSON and from single texts, in bounded memory."""

import json
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, NamedTuple, NoReturn

from ptft_jax.data.text.compression import DAMAGE
from ptft_jax.errors import DataError

# A line is a sentence, a paragraph or a JSON record; a longer one would have to be held in memory.
MAX_LINE_BYTES = 1 << 25
# A file without blank lines would be one document of any size: it is cut into parts of this size.
# "War and Peace" has three million characters.
MAX_DOCUMENT_CHARACTERS = 1 << 22

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

# Told of a line or record that cannot be used. What raises ends the reading; else it goes on.
Report = Callable[[str], object]


def stop(problem: str) -> NoReturn:
    """End the reading with a DataError: the report of whoever needs all of the text."""
    raise DataError(problem)


class Document(NamedTuple):
    """The paragraphs of a document: stripped, none of them empty, at least one.

    `position` is how many bytes of its file (in its compressed size) or dataset were read by its
    end.
    """

    lines: tuple[str, ...]
    position: int


def text_documents(name: str, stream: BinaryIO, report: Report) -> Iterator[tuple[str, ...]]:
    """The documents of a text.

    A blank line and the end of the text end a document. Line ends are LF or CR LF, a byte-order
    mark is dropped. `report` is told, with the text's name and the line, of text that is not UTF-8
    and of an endless line; DataError is raised for a damaged compressed file.
    """
    return _gathered(line for _, line in _decoded_lines(name, stream, report))


def json_documents(
    name: str, stream: BinaryIO, text_column: str, report: Report
) -> Iterator[tuple[str, ...]]:
    """The documents of JSON lines.

    A record is a document: the string under `text_column`, whose lines are paragraphs; null is no
    text. Blank lines are skipped. `report` is also told of a line that is no JSON object or has no
    string there.
    """
    for number, line in _decoded_lines(name, stream, report):
        if not line:
            continue
        where = f"{name}, line {number}"
        try:
            record = json.loads(line)
        except ValueError as error:
            report(f"{where}: not JSON ({error}); expected one JSON object per line")
            continue
        except RecursionError:
            report(f"{where}: nested too deeply; expected one flat JSON object")
            continue
        if not isinstance(record, dict):
            kind, key = type(record).__name__, text_column
            report(f"{where}: a JSON {kind}, expected an object with the key {key!r}")
        elif text_column not in record:
            report(missing_column(where, text_column, record))
        else:
            yield from record_documents(where, record[text_column], report)


def record_documents(where: str, text: object, report: Report) -> Iterator[tuple[str, ...]]:
    """The document that a record's text is: none if it is blank, several if it is very long.

    `where` names the record for `report`, which is told of anything but a string of Unicode or
    None, which is no text.
    """
    if text is None:
        return
    if not isinstance(text, str):
        report(
            f"{where}: the text is of type {type(text).__name__}, expected a string; set "
            "text_column to the column that holds the text"
        )
        return
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        report(
            f"{where}: the text has half of a surrogate pair (character {error.start + 1}), which "
            "is no Unicode; remove it"
        )
        return
    yield from _gathered(filter(None, map(str.strip, text.split("\n"))))


def missing_column(where: str, text_column: str, columns: Iterable[str]) -> str:
    """The message for records without the text column."""
    names = ", ".join(columns) or "none"
    return (
        f"{where}: no column {text_column!r}; it has: {names}. Set text_column to the one that "
        "holds the text"
    )


def _gathered(lines: Iterable[str]) -> Iterator[tuple[str, ...]]:
    """Documents of lines: an empty one ends a document, and one that becomes too long is cut."""
    document: list[str] = []
    size = 0
    for line in lines:
        if line:
            document.append(line)
            size += len(line)
        if document and (not line or size >= MAX_DOCUMENT_CHARACTERS):
            yield tuple(document)
            document, size = [], 0
    if document:
        yield tuple(document)


def _decoded_lines(name: str, stream: BinaryIO, report: Report) -> Iterator[tuple[int, str]]:
    number = 0
    is_rest = False  # of a line that is too long
    while True:
        number += not is_rest
        try:
            line = stream.readline(MAX_LINE_BYTES)
        except DAMAGE as error:
            raise DataError(
                f"{name}, near line {number}: the compressed file is damaged ({error})"
            ) from error
        if not line:
            return
        was_rest = is_rest
        is_rest = len(line) >= MAX_LINE_BYTES and not line.endswith(b"\n")
        if is_rest and not was_rest:
            report(
                f"{name}, line {number}: longer than {MAX_LINE_BYTES >> 20} MiB; expected one "
                "sentence, one paragraph or one JSON record per line"
            )
        if is_rest or was_rest:
            continue
        if number == 1:
            line = line.removeprefix(_BYTE_ORDER_MARK)
        try:
            yield number, line.decode("utf-8").strip()
        except UnicodeDecodeError as error:
            report(
                f"{name}, line {number}: not UTF-8 (byte 0x{line[error.start]:02x} at position "
                f"{error.start + 1} of the line); convert the file, for example with iconv -f "
                "latin1 -t utf-8"
            )
