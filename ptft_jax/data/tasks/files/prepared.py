"""Tables out of data sets that `datasets` or TFDS has prepared, beside those read from files.

Their columns, and the numbers of their classes, are not always those of a benchmark's own files.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ptft_jax.data import tfds
from ptft_jax.data.hf_datasets import PREFIX, read_hf
from ptft_jax.data.tasks.files.reading import (
    Flatten,
    Needed,
    Record,
    Table,
    splits_to_read,
    table_of,
)
from ptft_jax.errors import ConfigError, DataError

# Our split → the names that it goes by.
SPLITS = {
    "train": ("train",),
    "dev": ("validation", "dev", "valid", "val"),
    "test": ("test",),
}


def open_splits(data_dir: str | Path, hub: str, prepared: str) -> Mapping[str, Any]:
    """The splits of a data set by their own names, each an `HfSplit` or a `TfdsSplit`.

    data_dir: what `is_hf` knows, of which hf: alone stands for the task's own name on the Hub,
    `hub`; "" takes the data set `prepared` of TFDS.
    """
    if not data_dir:
        return tfds.read_prepared(prepared)
    return read_hf(f"{PREFIX}{_known(hub)}" if str(data_dir) == PREFIX else data_dir)


def benchmark_tables(
    data_dir: str | Path,
    hub: str,
    prepared: str,
    splits: Mapping[str, str],
    wanted: Sequence[str],
    optional: Sequence[str],
    flatten: Flatten | None,
    needed: Needed | None = None,
) -> dict[str, tuple[Table, tuple[str, ...]]]:
    """A benchmark task's splits, each with the names of its label's classes, () without names.

    data_dir, hub, prepared: see `open_splits`. splits: ours → theirs, of which test splits may be
    missing. wanted, optional: columns; of the others some may be missing, the first is that of the
    label. flatten: makes rows with those columns of a record.
    """
    found, tables = open_splits(data_dir, hub, prepared), {}
    for split, required in splits_to_read(splits, needed).items():
        theirs = splits[split]
        if theirs in found:
            source = found[theirs]
            records = source.records()
            table = table_of(Path(source.source), records, wanted, optional, flatten, "row")
            tables[split] = table, source.class_names(optional[0])
        elif required:
            raise lacks(data_dir or prepared, theirs, found)
    return tables


def own_tables(
    data_dir: str | Path,
    wanted: Sequence[str],
    label: str,
    needed: Needed | None,
    keys: Mapping[str, str],
) -> tuple[dict[str, Table], tuple[str, ...]]:
    """The splits of a data set of one's own, and the names of its classes; () without names.

    A label that is the number of a class becomes its name. keys: as of `read_table`.
    """
    found, tables, names = read_hf(data_dir), {}, ()
    for split, is_required in splits_to_read(SPLITS, needed).items():
        known = SPLITS[split]
        theirs = next((name for name in known if name in found), None)
        if theirs is not None:
            source = found[theirs]
            names = names or source.class_names(label)
            required = wanted if split == "test" else (*wanted, label)
            # Whoever has mistyped a column is shown all that there are.
            columns = (*wanted, label) if {*required} <= {*source.columns} else None
            records = _with_names(source.records(columns), label, names)
            tables[split] = table_of(
                Path(source.source), records, required, (label,), None, "row", keys
            )
        elif is_required:
            raise lacks(data_dir, " or ".join(known), found)
    return tables, names


def named_labels(table: Table, label: str, theirs: Sequence[str], ours: Sequence[str]) -> list[Any]:
    """The labels of a table as our names; what is no number of a class stays as it is.

    Where both have the same names, they decide, else the order. Raises DataError for another number
    of classes.
    """
    names = theirs or ours
    if len(names) != len(ours):
        raise DataError(
            f"{table.path}: the column '{label}' has the classes {', '.join(names)}; expected "
            f"{', '.join(ours)}"
        )
    by_name = {name.lower(): name for name in ours}
    if by_name.keys() == {name.lower() for name in names}:
        ours = [by_name[name.lower()] for name in names]
    return [_name_of(value, ours) for value in table.columns[label]]


def _with_names(
    records: Iterable[tuple[int, Record]], label: str, names: Sequence[str]
) -> Iterator[tuple[int, Record]]:
    for number, record in records:
        if names and label in record:
            value = record[label]
            several = isinstance(value, list)
            named = [_name_of(one, names) for one in value] if several else _name_of(value, names)
            record = {**record, label: named}
        yield number, record


def _name_of(value: Any, names: Sequence[str]) -> Any:
    is_class = isinstance(value, int) and 0 <= value < len(names)
    return names[value] if is_class else value


def _known(hub: str) -> str:
    if not hub:
        raise ConfigError(
            "data_dir=hf: stands for the task's own data set on the Hub, and none is known of this "
            "task: expected hf:[ORGANISATION/]NAME[/CONFIG]"
        )
    return hub


def lacks(where: str | Path, split: str, found: Iterable[str]) -> ConfigError:
    return ConfigError(f"{where} has no split {split}; there are: {', '.join(found)}")
