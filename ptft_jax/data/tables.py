"""Tables of text are read strictly: CSV, TSV and JSON lines, one row per example.

CSV follows RFC 4180 (commas, double quotes, a quoted field may hold line breaks). TSV has no
quoting: a tab ends a field and a quote character is text, as in the files of GLUE. JSON lines hold
one object per line. All are UTF-8, with or without a byte-order mark. Whatever does not fit is an
error that names the file and the line; nothing is guessed.
"""

import csv
import difflib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ptft_jax.errors import ConfigError, DataError

SUFFIXES = (".csv", ".tsv", ".jsonl")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

# A field may be a whole document; the csv module's own limit is 128 KiB.
csv.field_size_limit(2**31 - 1)


@dataclass(frozen=True)
class Table:
    """The kept columns of one file, all of the same length.

    `columns[name][i]` is a string for CSV and TSV, any JSON value for JSON lines. `lines[i]` is the
    line of the file on which row i begins, from 1.
    """

    path: Path
    columns: dict[str, list]
    lines: list[int]

    def __len__(self) -> int:
        return len(self.lines)

    def at(self, row: int) -> str:
        """The place of a row, for an error message."""
        return f"{self.path}, line {self.lines[row]}"


def nearest(word: str, known: Iterable[str]) -> str:
    """A suggestion " (did you mean 'x'?)" for a mistyped word, or "" if no known one is near."""
    known = list(known)
    by_lower_case = {name.lower(): name for name in known}
    found = difflib.get_close_matches(word.lower(), by_lower_case, n=1, cutoff=0.6)
    return f" (did you mean '{by_lower_case[found[0]]}'?)" if found else ""


def find_split(data_dir: str | Path, split: str) -> Path | None:
    """The file `split`.csv, .tsv or .jsonl in a folder, None if there is none.

    Raises ConfigError if there are two of them: which one is meant cannot be known.
    """
    found = [path for s in SUFFIXES if (path := Path(data_dir) / f"{split}{s}").is_file()]
    if len(found) > 1:
        names = " and ".join(path.name for path in found)
        raise ConfigError(f"{data_dir} holds {names}: keep one file for the split '{split}'")
    return found[0] if found else None


def read_table(
    path: str | Path,
    wanted: Sequence[str] | None = None,
    *,
    header: Sequence[str] | None = None,
    optional: Sequence[str] = (),
    drop_short_rows: bool = False,
) -> Table:
    """Reads one table, its format known from the suffix.

    wanted: the columns to keep, each of which must be there; None keeps all.
    header: names of the columns of a TSV or CSV file whose first line is already data.
    optional: columns to keep where they exist.
    drop_short_rows: rows with too few columns are left out instead of being an error.
    Raises ConfigError if the file is not there or has another suffix, DataError for its content.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"{path}: a table must end in {', '.join(SUFFIXES)}, not '{path.suffix}'")
    if not path.is_file():
        raise ConfigError(f"no such file: {path}")
    if path.suffix == ".jsonl":
        table = _read_json_lines(path, wanted, optional)
    else:
        split_rows = _csv_rows if path.suffix == ".csv" else _tsv_rows
        table = _read_delimited(
            path, split_rows(path, _text_lines(path)), wanted, optional, header, drop_short_rows
        )
    if not table.lines:
        raise DataError(f"{path} has a header but no rows; expected one row per example")
    return table


def _text_lines(path: Path) -> Iterator[str]:
    """Yields the lines of a UTF-8 file with their line ends; only \\n ends a line."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if number == 1:
                line = line.removeprefix(_BYTE_ORDER_MARK)
            try:
                yield line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{path}, line {number}: not UTF-8 (byte 0x{line[error.start]:02x} at column "
                    f"{error.start + 1}: {error.reason}); convert the file to UTF-8, "
                    "for example with: iconv -f LATIN1 -t UTF-8"
                ) from None


def _tsv_rows(path: Path, lines: Iterator[str]) -> Iterator[tuple[int, list[str]]]:
    blank = []
    for number, line in enumerate(lines, start=1):
        line = line.removesuffix("\n").removesuffix("\r")
        if line == "":  # one at the end of the file is no row, one before a row is
            blank.append(number)
            continue
        yield from ((empty, [""]) for empty in blank)
        blank.clear()
        yield number, line.split("\t")


def _csv_rows(path: Path, lines: Iterator[str]) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(lines, dialect="excel", strict=True)
    blank = []
    while True:
        number = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(
                f"{path}, row that begins on line {number}: not valid CSV ({error}); a field with "
                "a quote, comma or line break must stand in double quotes, a quote inside it "
                'doubled ("")'
            ) from None
        if not row:
            blank.append(number)
            continue
        yield from ((empty, [""]) for empty in blank)
        blank.clear()
        yield number, row


def _read_delimited(
    path: Path,
    rows: Iterator[tuple[int, list[str]]],
    wanted: Sequence[str] | None,
    optional: Sequence[str],
    header: Sequence[str] | None,
    drop_short_rows: bool,
) -> Table:
    first = next(rows, None)
    if first is None:
        raise DataError(f"{path} is empty; expected a header line and one row per example")
    if header is None:
        names = first[1]
    else:
        names = list(header)
        rows = _chain(first, rows)
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise DataError(f"{path}, line 1: column '{repeated[0]}' occurs more than once")
    _require_columns(path, names, wanted)
    keep = [
        (index, name)
        for index, name in enumerate(names)
        if wanted is None or name in wanted or name in optional
    ]
    columns: dict[str, list] = {name: [] for _, name in keep}
    lines = []
    for number, row in rows:
        if len(row) != len(names):
            if drop_short_rows and len(row) < len(names):
                continue
            raise DataError(
                f"{path}, line {number}: {len(row)} columns where {len(names)} are expected "
                f"({', '.join(names)})"
            )
        lines.append(number)
        for index, name in keep:
            columns[name].append(row[index])
    return Table(path, columns, lines)


def _read_json_lines(path: Path, wanted: Sequence[str] | None, optional: Sequence[str]) -> Table:
    columns: dict[str, list] = {}
    lines = []
    for number, line in enumerate(_text_lines(path), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{path}, line {number}: not valid JSON ({error.msg} at column {error.colno}); "
                "expected one object per line"
            ) from None
        if not isinstance(row, dict):
            raise DataError(
                f"{path}, line {number}: a JSON {type(row).__name__}; expected one object per line"
            )
        if not lines:
            _require_columns(path, row, wanted)
            columns = {
                name: [] for name in row if wanted is None or name in wanted or name in optional
            }
        for name, values in columns.items():
            if name not in row:
                raise DataError(
                    f"{path}, line {number}: no field '{name}', which the first line has; "
                    f"there are: {', '.join(row)}"
                )
            values.append(row[name])
        lines.append(number)
    if not lines:
        raise DataError(f"{path} is empty; expected one JSON object per line")
    return Table(path, columns, lines)


def _require_columns(path: Path, names: Iterable[str], wanted: Sequence[str] | None) -> None:
    names = list(names)
    for name in wanted or ():
        if name not in names:
            raise DataError(
                f"{path} has no column '{name}'{nearest(name, names)}; "
                f"its columns are: {', '.join(names)}"
            )


def _chain(first: tuple[int, list[str]], rest: Iterator[tuple[int, list[str]]]):
    yield first
    yield from rest
