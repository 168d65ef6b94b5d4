"""Sentences of tagged words are read from CoNLL columns, JSON lines, or seq.in with seq.out.

A column file has a word on each line, in columns that tabs (or, where there is none, spaces)
separate; a line of nothing but white space ends a sentence, and so does one that begins with
-DOCSTART-. A line that begins with # before the first word of a sentence is a comment, unless it
has as many columns as the others: "#" is a word too. JSON lines hold {"tokens": […], "tags": […]}.
All are UTF-8, with or without a byte-order mark. Whatever does not fit is an error with the line.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptft_jax.data.tasks.files.reading import read_table, text_lines
from ptft_jax.errors import ConfigError, DataError

COLUMN_SUFFIXES = (".conll", ".txt", ".tsv")
SUFFIXES = (*COLUMN_SUFFIXES, ".jsonl")
_BOUNDARY = "-DOCSTART-"


@dataclass(frozen=True)
class TaggedFile:
    """The sentences of one file.

    `words[i]` are the words of sentence i, `tags[i]` their tags (None: the file has none), and
    `lines[i]` the lines they stand on, or what else a `unit` of it is.
    """

    path: Path
    words: list[list[str]]
    tags: list[list[str]] | None
    lines: list[list[int]]
    unit: str = "line"

    def at(self, sentence: int, word: int) -> str:
        """The place of a word, for an error message."""
        return f"{self.path}, {self.unit} {self.lines[sentence][word]}"


def read_tagged(
    path: str | Path, word_column: int = 0, tag_column: int | None = -1, *, unlabelled: bool = False
) -> TaggedFile:
    """Reads the sentences of a file, its format known from its name.

    word_column, tag_column: numbers of columns from 0, negative ones from the end; a tag_column of
        None reads the words alone.
    unlabelled: the file may be without tags: of one column, of tags that are all "_" or "-", of
        JSON without "tags".
    Raises ConfigError if the file is not there, or has no such column; DataError for its content.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"no such file: {path}")
    if path.name == "seq.in":
        sentences = _parallel_lines(path, tag_column is not None, unlabelled)
    elif path.suffix == ".jsonl":
        sentences = _json_lines(path, tag_column is not None, unlabelled)
    else:
        sentences = _columns(path, word_column, tag_column, unlabelled)
    words, tags, lines = [], [], []
    for numbers, some, their_tags in sentences:
        for number, word, tag in zip(numbers, some, their_tags, strict=True):
            if not word:
                raise DataError(f"{path}, line {number}: a tag ({tag!r}) without a word")
            if tag == "":
                raise DataError(f"{path}, line {number}: the word {word!r} has no tag")
        words.append(list(some))
        tags.append(list(their_tags))
        lines.append(list(numbers))
    if not words:
        raise DataError(f"{path} has no sentences; expected a word and its tag on each line")
    known = {tag for some in tags for tag in some}
    if None in known or (unlabelled and known in ({"_"}, {"-"})):
        return TaggedFile(path, words, None, lines)
    return TaggedFile(path, words, tags, lines)


def is_columns(path: Path) -> bool:
    """Whether sentences stand in a column file: not in JSON lines, seq.in or a data set."""
    return path.is_file() and path.name != "seq.in" and path.suffix != ".jsonl"


def with_column(file: TaggedFile, values: Sequence[Sequence[str]]) -> str:
    """The text of a column file with one more column, whose values are given by sentence and word.

    All lines that hold no word stay as they are.
    """
    added = {
        number: value
        for numbers, some in zip(file.lines, values, strict=True)
        for number, value in zip(numbers, some, strict=True)
    }
    form = _form(file.path)
    separator = "\t" if form and form[1] else " "
    lines = []
    for number, line in enumerate(text_lines(file.path), start=1):
        if number in added:
            bare = line.rstrip("\r\n" if separator == "\t" else " \r\n")
            lines.append(f"{bare}{separator}{added[number]}{line[len(line.rstrip('\r\n')) :]}")
        else:
            lines.append(line)
    return "".join(lines)


# Of one sentence: the lines, the words, the tags (None where there are none).
_Sentence = tuple[list[int], list[str], list[Any]]


def _columns(
    path: Path, word_column: int, tag_column: int | None, unlabelled: bool
) -> Iterator[_Sentence]:
    form = _form(path)
    if form is None:
        return
    width, is_tabbed = form
    word_at = _column("word_column", word_column, width, path)
    tag_at = None if tag_column is None else _column("tag_column", tag_column, width, path)
    if tag_at == word_at:
        if not unlabelled:
            raise DataError(
                f"{path} has {width} column{'s' * (width > 1)}; expected a word and its tag, in "
                "columns that tabs or spaces separate; word_column and tag_column name them"
            )
        tag_at = None
    rows: list[tuple[int, list[str]]] = []
    for number, line in enumerate(text_lines(path), start=1):
        fields = _fields(line, is_tabbed)
        if not line.strip() or fields[0] == _BOUNDARY:
            if rows:
                yield _sentence(rows, word_at, tag_at)
            rows = []
        elif len(fields) == width:
            rows.append((number, fields))
        elif rows or not fields[0].startswith("#"):
            kind = "tabs" if is_tabbed else "spaces"
            raise DataError(
                f"{path}, line {number}: {len(fields)} columns where the other lines have {width} "
                f"(separated by {kind}): {line.strip()[:60]!r}"
            )
    if rows:
        yield _sentence(rows, word_at, tag_at)


def _sentence(rows: list[tuple[int, list[str]]], word_at: int, tag_at: int | None) -> _Sentence:
    return (
        [number for number, _ in rows],
        [fields[word_at] for _, fields in rows],
        [None if tag_at is None else fields[tag_at] for _, fields in rows],
    )


def _form(path: Path) -> tuple[int, bool] | None:
    """The number of columns, and whether tabs part them, by the first word that isn't "#…"."""
    first = None
    for line in text_lines(path):
        if not line.strip() or line.startswith(_BOUNDARY):
            continue
        first = line if first is None else first
        if not line.startswith("#"):
            first = line
            break
    if first is None:
        return None
    return len(_fields(first, "\t" in first)), "\t" in first


def _fields(line: str, is_tabbed: bool) -> list[str]:
    line = line.rstrip("\r\n")
    # Not at no-break spaces and the like: words hold them.
    return line.split("\t") if is_tabbed else re.split(" +", line.strip(" "))


def _column(name: str, number: int, width: int, path: Path) -> int:
    if not -width <= number < width:
        raise ConfigError(f"{name}={number}: {path} has {width} columns, numbered from 0 (or -1)")
    return number % width


def _json_lines(path: Path, tagged: bool, unlabelled: bool) -> Iterator[_Sentence]:
    needed = ("tokens", "tags") if tagged and not unlabelled else ("tokens",)
    table = read_table(path, needed, optional=("tags",) if tagged else ())
    for row, number in enumerate(table.lines):
        words = _strings(table.columns["tokens"][row], "tokens", table.at(row))
        tags = [None] * len(words)
        if "tags" in table.columns:
            tags = _strings(table.columns["tags"][row], "tags", table.at(row))
        _check_counts(len(words), len(tags), table.at(row))
        if words:
            yield [number] * len(words), words, tags


def _strings(value: Any, name: str, where: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
        raise DataError(f"{where}: '{name}' holds {value!r:.60}; expected a list of strings")
    try:
        "".join(value).encode("utf-8")
    except UnicodeEncodeError:
        raise DataError(
            f"{where}: '{name}' holds half of a surrogate pair; expected whole characters"
        ) from None
    return value


def _parallel_lines(path: Path, tagged: bool, unlabelled: bool) -> Iterator[_Sentence]:
    """The layout of Goo et al. (2018): words in seq.in, their tags in the same line of seq.out."""
    beside = path.with_name("seq.out")
    tags_of = None
    if tagged and not (unlabelled and not beside.is_file()):
        if not beside.is_file():
            raise ConfigError(f"no such file: {beside}, which holds the tags of {path}")
        tags_of = [line.split() for line in text_lines(beside)]
    lines = list(text_lines(path))
    if tags_of is not None and len(tags_of) != len(lines):
        raise DataError(f"{path} has {len(lines)} lines and {beside} has {len(tags_of)}")
    for number, line in enumerate(lines, start=1):
        words = line.split()
        tags = [None] * len(words) if tags_of is None else tags_of[number - 1]
        _check_counts(len(words), len(tags), f"{path}, line {number}")
        if words:
            yield [number] * len(words), words, tags


def _check_counts(words: int, tags: int, where: str) -> None:
    if words != tags:
        raise DataError(f"{where}: {words} words and {tags} tags; expected a tag for each word")
