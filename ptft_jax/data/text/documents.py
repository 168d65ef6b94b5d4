"""Documents from lines of text, from lines of JSON and from single texts, in bounded memory."""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, NamedTuple, NoReturn

from ptft_jax.data.text.compression import DAMAGE
from ptft_jax.errors import DataError

# A line is a sentence, a paragraph or a JSON record; a longer one would have to be held in memory.
MAX_LINE_BYTES = 1 << 25
# A file without blank lines would be one document of any size: it is cut into parts of this size.
# "War and Peace" has three million characters.
MAX_DOCUMENT_CHARACTERS = 1 << 22

# Letters and marks of scripts without spaces between words: Chinese, Japanese, Thai, Lao, Khmer and
# Burmese. A line of theirs may end anywhere.
UNSPACED = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3000-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
    r"\uf900-\ufaff\uff00-\uffef\U00020000-\U0003134f]"
)
# A hyphen or long dash that stands close to what is before it, and so to what follows.
_CLOSE_DASH = re.compile(r"[^\s-](?:--?|[\u00ad\u2010\u2014])\Z")

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


def text_documents(
    name: str, stream: BinaryIO, report: Report, join_lines: bool = False
) -> Iterator[tuple[str, ...]]:
    """The documents of a text.

    A line is a paragraph; a blank line and the end of the text end a document. With `join_lines`
    the lines up to a blank one are a paragraph, and two blank lines end a document. Line ends are
    LF or CR LF, a byte-order mark is dropped. `report` is told, with the text's name and the line,
    of text that is not UTF-8 and of an endless line; DataError is raised for a damaged compressed
    file.
    """
    lines = (line for _, line in _decoded_lines(name, stream, report))
    return _gathered(_joined(lines) if join_lines else lines)


def json_documents(
    name: str, stream: BinaryIO, text_column: str, report: Report, join_lines: bool = False
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
            yield from record_documents(where, record[text_column], report, join_lines)


def record_documents(
    where: str, text: object, report: Report, join_lines: bool = False
) -> Iterator[tuple[str, ...]]:
    """The document that a record's text is: none if it is blank, several if it is very long.

    Its lines are paragraphs, with `join_lines` what stands between blank lines. `where` names the
    record for `report`, which is told of anything but a string of Unicode or None, which is no
    text.
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
    lines = map(str.strip, text.split("\n"))
    yield from _gathered(filter(None, _joined(lines) if join_lines else lines))


def missing_column(where: str, text_column: str, columns: Iterable[str]) -> str:
    """The message for records without the text column."""
    names = ", ".join(columns) or "none"
    return (
        f"{where}: no column {text_column!r}; it has: {names}. Set text_column to the one that "
        "holds the text, or name it behind this input alone, as in FILE#COLUMN"
    )


def _joined(lines: Iterable[str]) -> Iterator[str]:
    """Paragraphs of lines that end at blank lines, and "" where two or more of these follow."""
    paragraph: list[str] = []
    size = blank = 0
    for line in lines:
        if paragraph and (not line or size >= MAX_DOCUMENT_CHARACTERS):
            yield "".join(paragraph)
            paragraph, size = [], 0
        if not line:
            blank += 1
            if blank == 2:
                yield ""
            continue
        blank = 0
        if paragraph:
            paragraph.append(_between(paragraph[-1], line))
        paragraph.append(line)
        size += len(line)
    if paragraph:
        yield "".join(paragraph)


def _between(line: str, following: str) -> str:
    """What the end of a line stood for: nothing behind "well-" and inside Chinese, else a space."""
    inside = UNSPACED.match(line[-1]) and UNSPACED.match(following)
    return "" if inside or _CLOSE_DASH.search(line[-3:]) else " "


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
