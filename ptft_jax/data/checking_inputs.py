"""Everything that is wrong with inputs of `ptft prepare`, before they are prepared.

`prepare` ends with the first thing that it finds; this goes on to the last. Lines and records count
from 1.
"""

from collections.abc import Callable, Sequence
from typing import Any, BinaryIO, cast

from ptft_jax.data.compression import DAMAGE
from ptft_jax.data.documents import (
    MAX_LINE_BYTES,
    json_documents,
    missing_column,
    record_documents,
    text_documents,
)
from ptft_jax.data.findings import MOST_ALIKE, WRITE_AGAIN, Finding, finding_of, spanned
from ptft_jax.data.inputs import Part, Source, open_sources
from ptft_jax.data.progress import Progress, no_progress
from ptft_jax.data.source_files import FilePart
from ptft_jax.errors import ConfigError, DataError

# Little is read ahead, so that a position is not far from what it is about.
_READ_AHEAD = 1 << 14
_PARQUET_ROWS = 16
_EMPTY = "take it out of inputs, or put text into it"
_DUPLICATE = "take one of them out of inputs; to draw more often from one write FILE@2"


def check_inputs(
    inputs: Sequence[str], text_column: str, progress: Progress = no_progress
) -> list[Finding]:
    """Read all inputs to their ends; an item that names nothing is a finding like any other.

    Raises ConfigError when no item names anything.
    """
    sources, found = _open(inputs, text_column)
    parts = [part for source in sources for part in source.parts]
    total, done = sum(part.size for part in parts), 0
    first_of: dict[str, str] = {}
    for part in parts:
        check = _PartCheck(part, text_column, done, total, progress)
        found += check.run()
        if check.sha256 and not check.is_empty:
            first = first_of.setdefault(check.sha256, check.name)
            if first != check.name:
                problem = f"duplicate: it has the content of {first}"
                found.append(Finding(check.name, "", problem, _DUPLICATE))
        done += part.size
        progress("Checking the inputs", done, total)
    return found


def _open(inputs: Sequence[str], text_column: str) -> tuple[list[Source], list[Finding]]:
    """The sources, and what is wrong with the items that name none."""
    try:
        return list(open_sources(inputs, text_column)), []
    except ConfigError as error:
        first_error = error
    sources: list[Source] = []
    found = []
    usable: list[str] = []
    for item in filter(None, (item.strip() for item in inputs)):
        try:
            # With those before it: a file that they have named is not another one.
            sources = list(open_sources([*usable, item], text_column))
            usable.append(item)
        except ConfigError as error:
            text = str(error).removeprefix("inputs: ")
            problem, _, mend = text.rpartition("; ")
            mend = mend if problem else "check the item"
            found.append(Finding(item, "", problem or text, mend))
    if not sources:
        raise first_error
    return sources, found


class _PartCheck:
    """One reading of a file or dataset.

    Attributes: `name`; `sha256` of a file that was read to its end, else ""; `is_empty`, whether it
    has no document.
    """

    def __init__(
        self, part: Part, text_column: str, done: int, total: int, progress: Progress
    ) -> None:
        self.name = part.location if isinstance(part, FilePart) else part.name
        self.sha256 = ""
        self._part = part
        self._text_column = text_column
        self._found: list[Finding] = []
        self._alike: dict[str, int] = {}
        self._documents = 0
        self._report: Callable[[int], None] = lambda position: progress(
            "Checking the inputs", done + min(position, part.size), total
        )

    @property
    def is_empty(self) -> bool:
        return not self._documents

    def run(self) -> list[Finding]:
        """Everything that is wrong with it."""
        part = self._part
        try:
            if not isinstance(part, FilePart):
                self._read_dataset()
            elif part.kind == "parquet":
                self._read_parquet(part)
            else:
                self._read_lines(part)
        except (ConfigError, DataError) as error:  # it cannot be opened, or its disk fails
            self._add(finding_of(error, self.name))
        for kind, many in self._alike.items():
            if many > MOST_ALIKE:
                text = f"{many - MOST_ALIKE} more like these: {kind}"
                self._found.append(Finding(self.name, "further on", text, "as above"))
        if self.is_empty and not self._found:
            self._found.append(Finding(self.name, "", "empty: no document", _EMPTY))
        return self._found

    def _add(self, finding: Finding) -> None:
        """Take up a finding, unless there are many of its kind already."""
        kind = finding.problem.partition(" (")[0]
        self._alike[kind] = self._alike.get(kind, 0) + 1
        if self._alike[kind] <= MOST_ALIKE:
            self._found.append(finding)

    def _read_dataset(self) -> None:
        # After an error a dataset cannot be asked for what comes behind it.
        for document in self._part.read():
            self._documents += 1
            self._report(document.position)

    def _read_lines(self, part: FilePart) -> None:
        """Text and JSON lines: after a line that cannot be used, go on with the next."""
        with part.opened(_READ_AHEAD) as (stream, reader):
            lines = _Lines(stream, self._add_zeros)
            while not lines.ended:
                documents = (
                    json_documents(self.name, cast(BinaryIO, lines), self._text_column)
                    if part.kind == "jsonl"
                    else text_documents(self.name, cast(BinaryIO, lines))
                )
                try:
                    for _ in documents:
                        self._documents += 1
                        self._report(reader.count)
                except DataError as error:
                    found = finding_of(error, self.name)
                    position = f"line {lines.number}"
                    if not isinstance(error.__cause__, DAMAGE):
                        self._add(found._replace(position=position))
                        lines.skip_rest()
                        continue
                    # Nothing behind this can be read.
                    what = "the end" if reader.count >= part.size else f"byte {reader.count}"
                    position = f"before {what} of {part.size} bytes, near {position}"
                    self._add(found._replace(position=position, mend=WRITE_AGAIN))
                    self.sha256 = part.checksum().sha256
                    return
        self.sha256 = reader.digest()

    def _add_zeros(self, line: int) -> None:
        problem = "zero bytes, as in UTF-16 or in a file that was not written to its end"
        self._add(Finding(self.name, f"line {line}", problem, WRITE_AGAIN))

    def _read_parquet(self, part: FilePart) -> None:
        """Parquet: after a row group that cannot be read, go on with the next."""
        self.sha256 = part.checksum().sha256
        with part.parquet_file() as file:
            names = file.schema_arrow.names
            if self._text_column not in names:
                raise DataError(missing_column(self.name, self._text_column, names))
            first, groups = 1, file.num_row_groups
            for group in range(groups):
                rows = file.metadata.row_group(group).num_rows
                try:
                    self._read_row_group(file, group, first)
                except (OSError, ValueError) as error:  # as pyarrow says "damaged"
                    where = spanned("record", first, first + rows - 1)
                    position = f"row group {group + 1} of {groups}, {where}"
                    problem = f"the row group is damaged ({error})"
                    self._add(Finding(self.name, position, problem, WRITE_AGAIN))
                first += rows

    def _read_row_group(self, file: Any, group: int, record: int) -> None:
        """Read the records of a group, of which `record` is the first."""
        column = self._text_column
        size, rows = self._part.size, max(file.metadata.num_rows, 1)
        for batch in file.iter_batches(
            _PARQUET_ROWS, row_groups=[group], columns=[column], use_threads=False
        ):
            for value in batch.column(0):
                try:
                    text = value.as_py()
                except UnicodeDecodeError as error:
                    problem = f"not UTF-8 ({error})"
                    self._add(Finding(self.name, f"record {record}", problem, WRITE_AGAIN))
                else:
                    self._check_record(record, text)
                record += 1
            self._report(size * record // rows)

    def _check_record(self, record: int, value: object) -> None:
        try:
            for _ in record_documents(f"{self.name}, record {record}", value):
                self._documents += 1
        except DataError as error:
            self._add(finding_of(error, self.name))


class _Lines:
    """A stream of lines that counts them and looks for zero bytes, which are UTF-8 but no text.

    Attributes: `number`, lines handed out; `ended`.
    """

    def __init__(self, stream: BinaryIO, has_zeros: Callable[[int], None]) -> None:
        """`has_zeros` is called with the number of each line that has some."""
        self.number = 0
        self.ended = False
        self._stream = stream
        self._has_zeros = has_zeros
        self._last = b""

    def readline(self, limit: int) -> bytes:
        """The next line, or a part of `limit` bytes of a longer one."""
        self.number += 1
        self._last = self._stream.readline(limit)
        self.ended = not self._last
        if b"\0" in self._last:
            self._has_zeros(self.number)
        return self._last

    def skip_rest(self) -> None:
        """Go to the next line from within one that was longer than the limit."""
        while len(self._last) >= MAX_LINE_BYTES and self._last[-1:] != b"\n":
            self._last = self._stream.readline(MAX_LINE_BYTES)
