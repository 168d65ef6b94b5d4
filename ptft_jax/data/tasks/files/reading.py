"""Tables of text are read strictly: CSV, TSV, JSON lines and Parquet, one row per example.

CSV follows RFC 4180 (commas, double quotes, a quoted field may hold line breaks). TSV has no
quoting: a tab ends a field and a quote character is text, as in the files of GLUE. JSON lines hold
one object per line. These are UTF-8, with or without a byte-order mark. Whatever does not fit is an
error that names the file and the line; nothing is guessed.
"""

import csv
import difflib
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ptft_jax.errors import ConfigError, DataError

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
Record = dict[str, Any]
# Makes the rows of examples of one record of a file.
Flatten = Callable[[Record], Iterable[Record]]
# Reads the records of a file, or of a folder, that is no table, with their lines.
Reader = Callable[[Path], Iterable[tuple[int, Record]]]
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

# A field may be a whole document; the csv module's own limit is 128 KiB.
csv.field_size_limit(2**31 - 1)


@dataclass(frozen=True)
class Table:
    """The kept columns of one file, all of the same length.

    `columns[name][i]` is a string for CSV and TSV, any value for JSON lines and Parquet. `lines[i]`
    is the line of the file on which row i begins, from 1, or what else a `unit` of it is.
    """

    path: Path
    columns: dict[str, list]
    lines: list[int]
    unit: str = "line"

    def __len__(self) -> int:
        return len(self.lines)

    def at(self, row: int) -> str:
        """The place of a row, for an error message."""
        return f"{self.path}, {self.unit} {self.lines[row]}"


class Needed(NamedTuple):
    """What is read of data that a finished run is asked about; the rest need not be there.

    splits: by name; () stands for those that are scored in training. labels: the run's own.
    """

    splits: tuple[str, ...]
    labels: tuple[str, ...] | None


def splits_to_read(known: Iterable[str], needed: Needed | None) -> dict[str, bool]:
    """Which of a task's splits are read, and whether each has to be there.

    `needed` None: all, as training takes them. Raises ConfigError for a split that is not known.
    """
    known = tuple(known)
    if needed is None:
        return {split: not split.startswith("test") for split in known}
    for split in needed.splits:
        if split not in known:
            raise ConfigError(
                f"split={split!r}: the task has no such split; expected one of {', '.join(known)}"
            )
    return dict.fromkeys(needed.splits or (s for s in known if s.startswith("dev")), True)


def nearest(word: str, known: Iterable[str]) -> str:
    """A suggestion " (did you mean 'x'?)" for a mistyped word, or "" if no known one is near."""
    known = list(known)
    by_lower_case = {name.lower(): name for name in known}
    found = difflib.get_close_matches(word.lower(), by_lower_case, n=1, cutoff=0.6)
    return f" (did you mean '{by_lower_case[found[0]]}'?)" if found else ""


def find_split(data_dir: str | Path, split: str) -> Path | None:
    """The file `split`.csv, .tsv, .jsonl or .parquet in a folder, None if there is none.

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
    reader: Reader | None = None,
    flatten: Flatten | None = None,
    keys: Mapping[str, str] | None = None,
) -> Table:
    """Reads one table, its format known from the suffix; .json holds JSON lines as well.

    wanted: the columns to keep, each of which must be there; None keeps all, with None for a field
        that a record has not.
    header: names of the columns of a TSV or CSV file whose first line is already data.
    optional: columns to keep where they exist.
    drop_short_rows: rows with too few columns are left out instead of being an error.
    reader: reads the records of another format.
    flatten: makes rows of each record of the file, whose columns are then those of the table.
    keys: of columns that the config names, where it does, for the message that one is missing.
    Raises ConfigError if the file is not there or has another suffix, DataError for its content.
    """
    path = Path(path)
    if not reader and path.suffix not in (*SUFFIXES, ".json"):
        raise ConfigError(f"{path}: a table must end in {', '.join(SUFFIXES)}, not '{path.suffix}'")
    if not path.exists():
        raise ConfigError(f"no such file: {path}")
    if reader is not None:
        records = reader(path)
    elif path.suffix in (".jsonl", ".json"):
        records = _json_records(path)
    elif path.suffix == ".parquet":
        records = _parquet_records(path)
    else:
        records = _delimited_records(path, header, drop_short_rows)
    unit = "row" if path.suffix == ".parquet" else "line"
    return table_of(path, records, wanted, optional, flatten, unit, keys)


def table_of(
    path: Path,
    records: Iterable[tuple[int, Record]],
    wanted: Sequence[str] | None = None,
    optional: Sequence[str] = (),
    flatten: Flatten | None = None,
    unit: str = "line",
    keys: Mapping[str, str] | None = None,
) -> Table:
    """Makes a table of numbered records; arguments as of `read_table`.

    path: where they are from, for messages. unit: what their numbers count.
    """
    if flatten is not None:
        records = _flat(path, records, flatten, unit)
    columns: dict[str, list] = {}
    lines = []
    for number, record in records:
        if not lines:
            for name in wanted or ():
                if name not in record:
                    raise DataError(
                        f"{path} has no column '{name}'{nearest(name, record)}; "
                        f"its columns are: {', '.join(record)}"
                        + (separators(path, record) or _named_by(name, keys or {}))
                    )
            kept = record if wanted is None else {*wanted, *optional}
            columns = {name: [] for name in record if name in kept}
        lines.append(number)
        if wanted is None:
            for name in record.keys() - columns.keys():
                columns[name] = [None] * (len(lines) - 1)
        for name, values in columns.items():
            if name not in record and wanted is not None:
                raise DataError(
                    f"{path}, {unit} {number}: no field '{name}', which the first {unit} has; "
                    f"there are: {', '.join(record)}"
                )
            values.append(record.get(name))
    if not lines:
        raise DataError(f"{path} has no rows; expected one per example")
    return Table(path, columns, lines, unit)


def separators(path: Path, columns: Iterable[str]) -> str:
    """What separates columns, "; …", for a message on a file that has one column by mistake."""
    found = list(columns)
    if path.suffix not in (".csv", ".tsv") or len(found) != 1 or not set(found[0]) & set(";,|\t"):
        return ""
    return "; commas separate the columns of a .csv, tabs those of a .tsv: write the file so"


def _named_by(column: str, keys: Mapping[str, str]) -> str:
    return f"; --config.{keys[column]} names another one" if column in keys else ""


def _flat(
    path: Path, records: Iterable[tuple[int, Record]], flatten: Flatten, unit: str
) -> Iterator[tuple[int, Record]]:
    for number, record in records:
        try:
            rows = list(flatten(record))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise DataError(
                f"{path}, {unit} {number}: not a record of this task ({error!r}); there are: "
                f"{', '.join(record)}"
            ) from error
        yield from ((number, row) for row in rows)


def fingerprint_of(texts: Iterable[str], labels: bytes) -> str:
    """SHA-256 of texts and of what is known of them."""
    sha256 = hashlib.sha256()
    for text in texts:
        # The length keeps two texts apart from one that holds both.
        sha256.update(f"{len(text)} {text}".encode())
    sha256.update(labels)
    return sha256.hexdigest()


def text_lines(path: Path) -> Iterator[str]:
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


def classes_in_folders(path: Path) -> Iterator[tuple[int, Record]]:
    """Yields the texts of a folder with a folder of .txt files for each label, as `text`, `label`.

    The number of a record is that of its file in the order of their names.
    """
    number = 0
    for folder in sorted(entry for entry in path.iterdir() if entry.is_dir()):
        for file in sorted(folder.glob("*.txt")):
            number += 1
            yield number, {"text": "".join(text_lines(file)), "label": folder.name}


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yields the rows of a CSV or TSV file with the lines on which they begin."""
    lines = text_lines(path)
    if path.suffix == ".csv":
        reader = csv.reader(lines, strict=True)
    else:
        reader = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE, strict=True)
    blank = []
    while True:
        number = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(
                f"{path}, row that begins on line {number}: not valid ({error}); in CSV a field "
                "with a quote, comma or line break must stand in double quotes, a quote inside it "
                'doubled (""); in TSV no field may hold a tab or a line break'
            ) from None
        if not row:  # one at the end of the file is no row, one before a row is
            blank.append(number)
            continue
        yield from ((empty, [""]) for empty in blank)
        blank.clear()
        yield number, row


def _delimited_records(
    path: Path, header: Sequence[str] | None, drop_short_rows: bool
) -> Iterator[tuple[int, dict[str, str]]]:
    rows = _rows(path)
    names = list(header or next(rows, (1, []))[1])
    # Spreadsheets leave columns behind that have neither name nor content.
    names = [name or f"(column {number})" for number, name in enumerate(names, 1)]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise DataError(f"{path}, line 1: column '{repeated[0]}' occurs more than once")
    for number, row in rows:
        if len(row) == len(names):
            yield number, dict(zip(names, row, strict=True))
        elif not (drop_short_rows and len(row) < len(names)):
            raise DataError(
                f"{path}, line {number}: {len(row)} columns where {len(names)} are expected "
                f"({', '.join(names)}){separators(path, names)}"
            )


def _json_records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text_lines(path), start=1):
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
        yield number, row


def _parquet_records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow.parquet  # a third of a second

    number = 0
    try:
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet ({error}); write it again") from error


def absent(folder: Path, files: Sequence[str], train: Path | None) -> str:
    """The message that a benchmark's file is not there; `train` where it is for training."""
    words = f"{folder / files[0]} is missing; {listing(folder)}"
    if train and train.name not in files and train.exists():
        words += (
            f". Fetch it from where {train.name} came from; or move some rows of {train.name} "
            "there, and scores are not to be compared with published ones"
        )
    return words


def listing(folder: Path) -> str:
    """What a folder holds, for the message that says what it lacks."""
    if not folder.is_dir():
        return f"the folder {folder} does not exist"
    names = sorted(path.name + ("/" if path.is_dir() else "") for path in folder.iterdir())
    shown = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
    return f"there are: {shown}" if names else "the folder is empty"
