"""Labelled texts, or pairs of texts, and tables of one's own that hold them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ptft_jax.data.hf_datasets import is_hf
from ptft_jax.data.tasks.files.labels import (
    check_characters,
    check_texts,
    class_ids,
    find_labels,
    is_unlabelled,
    multi_hot,
    scores,
)
from ptft_jax.data.tasks.files.prepared import own_tables
from ptft_jax.data.tasks.files.reading import (
    Needed,
    Table,
    classes_in_folders,
    find_split,
    fingerprint_of,
    listing,
    read_table,
    splits_to_read,
)
from ptft_jax.errors import ConfigError, DataError


@dataclass(frozen=True)
class TableTask:
    """A table of one's own: train and dev, and perhaps test, as .csv, .tsv, .jsonl or .parquet.

    The labels are those found in train.
    """

    kind: ClassVar[str] = "classification"
    suite: str = "own"

    def load(
        self,
        name: str,
        data_dir: str | Path | None,
        settings: "TableSettings | None" = None,
        needed: Needed | None = None,
    ) -> "TaskData":
        """Returns the examples of the files in a folder; see `ClassificationTask.load`."""
        return _load_table(name, data_dir, settings or TableSettings(), needed)


@dataclass(frozen=True)
class TableSettings:
    """Which columns of a table of one's own hold what; text_pair_column "" means single texts.

    regression: labels are numbers. multi_label: a label column holds any number of labels, with
    "|" between them in a CSV or TSV, a list in JSON lines and Parquet.
    """

    text_column: str = "text"
    text_pair_column: str = ""
    label_column: str = "label"
    regression: bool = False
    multi_label: bool = False


@dataclass(frozen=True)
class Split:
    """The examples of one split, all lists of the same length.

    texts_b: the second texts of pairs, None for single texts. labels: int32 class ids or float32
    scores `[N]`, multi-label float32 `[N, K]` of zeros and ones; None where they are not known.
    source: where it came from, for messages. groups: the question of each example, where several
    belong to one; `[N]`. ids: under which a benchmark knows the examples; None for the numbers of
    the rows. metrics: what the split is scored by, where not by the task's metrics.
    """

    texts_a: list[str]
    texts_b: list[str] | None
    labels: np.ndarray | None
    source: str
    groups: np.ndarray | None = None
    ids: list[Any] | None = None
    metrics: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.texts_a)

    @property
    def labelled(self) -> bool:
        """Whether the labels are known."""
        return self.labels is not None

    def take(self, rows: np.ndarray) -> "Split":
        """Returns these examples, int64 `[M]`."""
        texts_b = self.texts_b and [self.texts_b[row] for row in rows]
        labels, groups = (
            held if held is None else held[rows] for held in (self.labels, self.groups)
        )
        texts_a = [self.texts_a[row] for row in rows]
        return Split(texts_a, texts_b, labels, self.source, groups)

    def fingerprint(self) -> str:
        """Returns a SHA-256 of texts and labels."""
        labels = b"" if self.labels is None else self.labels.tobytes()
        return fingerprint_of(chain(self.texts_a, self.texts_b or []), labels)


@dataclass(frozen=True)
class TaskData:
    """A task with its examples.

    label_names: the name of each class id, None for a regression. metrics: the first decides
    which checkpoint is best. eval_splits: the labelled splits that are scored during training; the
    first decides. problem_type: as in `objectives.classification`.
    """

    name: str
    splits: dict[str, Split]
    label_names: tuple[str, ...] | None
    metrics: tuple[str, ...]
    eval_splits: tuple[str, ...]
    problem_type: str = "single_label_classification"

    @property
    def num_labels(self) -> int:
        """The width of the classification head; 1 for a regression."""
        return 1 if self.label_names is None else len(self.label_names)


def _load_table(
    name: str, data_dir: str | Path | None, settings: TableSettings, needed: Needed | None
) -> TaskData:
    if not data_dir:
        raise ConfigError(
            f"the task '{name}' needs --config.data_dir=DIR, a folder with train and dev "
            "(and perhaps test) as .csv, .tsv, .jsonl or .parquet, or hf:NAME"
        )
    texts = tuple(name for name in (settings.text_column, settings.text_pair_column) if name)
    names: tuple[str, ...] = ()
    parts = ("text_column", "text_pair_column", "label_column")
    # A finished run reads the columns that it was trained with.
    keys = {} if needed else {getattr(settings, part): f"table.{part}" for part in parts}
    if is_hf(data_dir):
        tables, names = own_tables(data_dir, texts, settings.label_column, needed, keys)
    else:
        tables = _own_files(data_dir, texts, settings, needed, keys)
    if settings.regression and settings.multi_label:
        raise ConfigError(
            "table.regression and table.multi_label are both set: expected numbers or labels."
        )
    several = settings.multi_label
    if settings.regression:
        names = ()
    elif needed is not None:
        names = needed.labels or ()
    else:
        names = names or find_labels(tables["train"], settings.label_column, several)
    splits = {}
    for split, table in tables.items():
        label = settings.label_column if settings.label_column in table.columns else None
        if split == "test" and label is not None and is_unlabelled(table, label, names):
            label = None
        if split != "test":
            check_texts(table, texts)
        splits[split] = split_of(table, texts, label, names, None, several)
    labels = splits["train"].labels if needed is None else None
    if settings.regression and labels is not None and not np.ptp(labels):
        raise DataError(
            f"{tables['train'].path}: all {len(labels)} rows have the score {labels[0]:g} in "
            f"column '{settings.label_column}'; expected at least two different scores"
        )
    kinds: dict[bool, tuple[str, tuple[str, ...]]] = {
        settings.regression: ("regression", ("pearson", "spearman")),
        several: ("multi_label_classification", ("f1_micro", "f1_macro", "accuracy")),
    }
    problem_type, metrics = kinds.get(True, ("single_label_classification", ("accuracy",)))
    return TaskData(
        name=name,
        splits=splits,
        label_names=names or None,
        metrics=metrics,
        eval_splits=("dev",),
        problem_type=problem_type,
    )


def _own_files(
    data_dir: str | Path,
    texts: Sequence[str],
    settings: TableSettings,
    needed: Needed | None,
    keys: Mapping[str, str],
) -> dict[str, Table]:
    if not Path(data_dir).is_dir():
        raise ConfigError(f"data_dir={data_dir} is not a folder; {listing(Path(data_dir).parent)}")
    tables = {}
    for split, is_required in splits_to_read(("train", "dev", "test"), needed).items():
        path = find_split(data_dir, split)
        if path is not None:
            # A test set may come without labels.
            required = texts if split == "test" else (*texts, settings.label_column)
            tables[split] = read_table(path, required, optional=(settings.label_column,), keys=keys)
        elif (Path(data_dir) / split).is_dir():
            folder = Path(data_dir) / split
            tables[split] = read_table(
                folder, (*texts, settings.label_column), reader=classes_in_folders
            )
        elif is_required:
            raise ConfigError(
                f"data_dir={data_dir} has no {split}.csv, .tsv, .jsonl or .parquet, and no folder "
                f"{split} with a folder of .txt files for each label; "
                f"{listing(Path(data_dir))}"
            )
    return tables


def split_of(
    table: Table,
    texts: Sequence[str],
    label: str | None,
    names: Sequence[str],
    score_range: tuple[float, float] | None,
    several: bool = False,
) -> Split:
    for column in texts:
        for row, value in enumerate(table.columns[column]):
            if not isinstance(value, str):
                raise DataError(
                    f"{table.at(row)}: column '{column}' holds {value!r}; expected a text in quotes"
                )
            check_characters(table, row, column, value)
    labels = None
    if label is not None and several:
        labels = multi_hot(table, label, names)
    elif label is not None and names:
        labels = class_ids(table, label, names)
    elif label is not None:
        labels = scores(table, label, score_range)
    texts_b = table.columns[texts[1]] if len(texts) == 2 else None
    return Split(table.columns[texts[0]], texts_b, labels, str(table.path))
