"""What `inputs` names: sources with weights, made of files and datasets, read block by block."""

import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from ptft_jax.data.corpus.store import DatasetRecord, FileRecord
from ptft_jax.data.text.documents import Document, Report, stop
from ptft_jax.data.text.files import FilePart, find_files, is_remote, unique_names
from ptft_jax.errors import ConfigError, DataError

# Documents travel to the workers in blocks of about this many characters: large enough to hide the
# cost of sending, small enough to keep all workers busy. The result does not depend on it.
BLOCK_CHARACTERS = 1 << 19

_COLUMN = re.compile(r"#([^#/*?\[\]]+)\Z")


class Part(Protocol):
    """A file or a split of a dataset, read from its beginning.

    `name` is for the manifest, `location` for messages. `size` counts what a document's `position`
    counts. `identity` changes when the content does, and is known without reading it. `record` says
    what exactly was read, and is known once `read` has come to the end.
    """

    name: str
    location: str
    size: int
    identity: dict[str, Any]

    @property
    def record(self) -> FileRecord | DatasetRecord | None: ...

    def read(self, report: Report = stop) -> Iterator[Document]:
        """Yield the documents in order; `report` is told of lines and records without use."""
        ...


@dataclass(frozen=True)
class Source:
    """One item of `inputs`: what it is called, how often to draw from it, and its parts.

    `text_column` is where its records, if it has any, have their text.
    """

    name: str
    weight: float
    text_column: str
    parts: tuple[Part, ...]


class Item(NamedTuple):
    """An item of `inputs` taken apart; `column` is None where it names none of its own."""

    location: str
    column: str | None
    weight: float

    @classmethod
    def parse(cls, item: str) -> "Item":
        """The parts of LOCATION[#COLUMN][@WEIGHT].

        What follows the last @ is a weight if it is a number; a path that ends like that is written
        with @1 after it. What follows the last # is a column, unless a file has the whole name or
        there is a / or a pattern in it. Raises ConfigError for a weight that is not above 0.
        """
        before, at, number = item.rpartition("@")
        try:
            location, weight = before, float(number if at else "")
        except ValueError:
            location, weight = item, 1.0
        if not (0 < weight < math.inf):
            raise ConfigError(f"inputs: {item!r}: the weight after @ must be above 0")
        column = _COLUMN.search(location)
        if column is None or os.path.exists(os.path.expanduser(location)):
            return cls(location, None, weight)
        return cls(location[: column.start()], column[1], weight)


def open_sources(
    items: Sequence[str], text_column: str, join_lines: bool = False
) -> tuple[Source, ...]:
    """The sources that the items of `inputs` name, in their order.

    `text_column` is that of the items without one of their own; `join_lines`: see `find_files`. A
    file belongs to the first source that names it. Raises ConfigError for an item that names
    nothing, or nothing new, or a column of files that have none.
    """
    items = [item.strip() for item in items if item.strip()]
    if not items:
        raise ConfigError("inputs is empty: give at least one file or pattern, such as texts/*.txt")
    parsed = [Item.parse(item) for item in items]
    # Folders of a machine say nothing to the reader of a manifest.
    names = unique_names(
        [
            location if is_remote(location) else "/".join(Path(location).parts[-2:])
            for location, _, _ in parsed
        ]
    )
    taken: set[str] = set()
    sources = []
    for name, (location, own_column, weight) in zip(names, parsed, strict=True):
        column = own_column or text_column
        found = _open_parts(location, column, join_lines)
        if own_column:
            _refuse_text(found, location, own_column)
        keys = [str(part.identity) for part in found]
        parts = [part for part, key in zip(found, keys, strict=True) if key not in taken]
        if not parts:
            raise ConfigError(
                f"inputs: {location!r} names nothing that items before it have not; remove it"
            )
        taken.update(keys)
        sources.append(Source(name, weight, column, tuple(parts)))
    return tuple(sources)


def _open_parts(location: str, text_column: str, join_lines: bool) -> list[Part]:
    # Datasets are imported only where they are asked for: both libraries take a second.
    if location.startswith("tfds:"):
        from ptft_jax.data.text.datasets import TfdsPart

        return [TfdsPart(location, text_column, join_lines)]
    if location.startswith("hf:") and not location.startswith("hf://"):
        from ptft_jax.data.text.datasets import HuggingFacePart

        return [HuggingFacePart(location, text_column, join_lines)]
    return [*find_files(location, text_column, join_lines)]


def _refuse_text(parts: Sequence[Part], location: str, column: str) -> None:
    for part in parts:
        if isinstance(part, FilePart) and not part.holds_records:
            raise ConfigError(
                f"inputs: {location}#{column}: {part.location} is text and has no column: expected "
                f"JSON lines, Parquet or a dataset. Leave out #{column}"
            )


class Position(NamedTuple):
    """How far the inputs have been read: parts finished, and documents of the one after them."""

    part: int = 0
    documents: int = 0


class Block(NamedTuple):
    """Consecutive documents of one source; `end` and `bytes_read` say where it ends."""

    source: int
    documents: list[tuple[str, ...]]
    characters: int
    end: Position
    bytes_read: int


def read_blocks(sources: Sequence[Source], start: Position) -> Iterator[Block]:
    """Yield all documents from `start` on, in order, in blocks; the last one may be empty.

    Parts before `start` are not opened. Raises DataError when a part has fewer documents than
    `start` says.
    """
    parts = [part for source in sources for part in source.parts]
    finished_bytes = sum(part.size for part in parts[: start.part])
    number = 0
    for source_index, source in enumerate(sources):
        waiting: list[tuple[str, ...]] = []
        characters = 0
        end = Position(number, 0)
        for part in source.parts:
            number += 1
            if number <= start.part:
                continue
            skipped = start.documents if number == start.part + 1 else 0
            count = 0
            for document in part.read():
                count += 1
                if count <= skipped:
                    continue
                waiting.append(document.lines)
                characters += sum(map(len, document.lines))
                if characters >= BLOCK_CHARACTERS:
                    position = Position(number - 1, count)
                    done = finished_bytes + document.position
                    yield Block(source_index, waiting, characters, position, done)
                    waiting, characters = [], 0
            if count < skipped:
                raise changed(part)
            finished_bytes += part.size
            end = Position(number, 0)
        if end.part > start.part:
            yield Block(source_index, waiting, characters, end, finished_bytes)


def changed(part: Part) -> DataError:
    """The error for a part that is not what it was when it was read before."""
    return DataError(
        f"{part.name} has changed while the corpus was made; start the same command again"
    )
