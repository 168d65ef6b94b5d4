"""Labelled texts, or pairs of texts, are read from the files of a benchmark or one's own table.

Label i of a benchmark's task means the same here as in Hugging Face's and TFDS's data sets.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ptft_jax.data import tfds
from ptft_jax.data.hf_datasets import is_hf
from ptft_jax.data.tasks.labels import (
    check_characters,
    check_texts,
    class_ids,
    find_labels,
    is_unlabelled,
    multi_hot,
    scores,
)
from ptft_jax.data.tasks.prepared import benchmark_tables, named_labels, own_tables
from ptft_jax.data.tasks.reading import (
    Flatten,
    Reader,
    Table,
    classes_in_folders,
    find_split,
    fingerprint_of,
    read_table,
)
from ptft_jax.data.tasks.submissions import Submission
from ptft_jax.errors import ConfigError, DataError

_FILES = {"train": ("train.tsv",), "dev": ("dev.tsv",), "test": ("test.tsv",)}
_TFDS_SPLITS = {"train": "train", "dev": "validation", "test": "test"}


@dataclass(frozen=True)
class ClassificationTask:
    """A benchmark's task of labelled texts: a row of the table of tasks.

    folder: below `data_dir`. texts, label: columns. label_names: in the order of their ids; none
    for a regression. labels_in_file: what stands for them in the files, if not the names.
    no_label: what stands where annotators did not agree; such rows are left out. metrics: names in
    `objectives.metrics`, the first decides which checkpoint is best. header: the columns of train
    and dev files without a header line. reader: of files that are no tables. flatten: makes rows
    with those columns of a record. group: column by which rows belong to one question. files: our
    split → names, of which the first that is there is read; test's labels only count with
    `test_has_labels`. language: of the texts.
    hub, tfds: its name on the Hub (without hf:) and in TFDS, "" where it is not there. tfds_texts,
    tfds_label, tfds_splits: columns and splits in both, where named otherwise. tfds_rows: makes
    rows with the columns of the files of a record there.
    id: column of the ids under which a benchmark knows the examples; none where that is the number
    of the row. submission: how their predictions are handed in. beside: further test splits with
    the same labels, from folders of their own, where they are there.
    """

    kind: ClassVar[str] = "classification"

    suite: str
    folder: str
    texts: tuple[str, ...]
    label: str
    label_names: tuple[str, ...]
    metrics: tuple[str, ...] = ("accuracy",)
    labels_in_file: tuple[str, ...] = ()
    hub: str = ""
    tfds: str = ""
    tfds_texts: tuple[str, ...] = ()
    tfds_label: str = "label"
    tfds_rows: Flatten | None = None
    header: tuple[str, ...] | None = None
    drop_short_rows: bool = False
    score_range: tuple[float, float] | None = None
    no_label: str | None = None
    reader: Reader | None = None
    flatten: Flatten | None = None
    group: str | None = None
    files: dict[str, tuple[str, ...]] = field(default_factory=lambda: _FILES)
    tfds_splits: dict[str, str] = field(default_factory=lambda: _TFDS_SPLITS)
    test_has_labels: bool = False
    language: str = "en"
    id: str = ""
    submission: Submission | None = None
    beside: "Mapping[str, ClassificationTask]" = field(default_factory=dict)

    def load(
        self, name: str, data_dir: str | Path | None, settings: "TableSettings | None" = None
    ) -> "TaskData":
        """Returns the task's examples.

        data_dir: a folder with the benchmark's files, or what `data.hf_datasets` reads; nothing
        takes them from TFDS. Raises ConfigError for missing files, DataError for their content.
        """
        if is_hf(data_dir):
            splits = _read_prepared(self, data_dir or "")
        elif data_dir:
            splits = _read_files(self, Path(data_dir))
        elif self.suite == "glue":
            splits = _read_tfds(name, self)
        elif self.tfds:
            splits = _read_prepared(self, "")
        else:
            raise ConfigError(
                f"the task '{name}' needs --config.data_dir=DIR, a folder with {self.folder or '.'}"
                f"/{self.files['train'][0]} and so on."
            )
        return TaskData(
            name=name,
            splits=splits,
            label_names=self.label_names or None,
            metrics=self.metrics,
            eval_splits=tuple(split for split in splits if split.startswith("dev")),
            problem_type=_problem_type(self.label_names),
        )


@dataclass(frozen=True)
class TableTask:
    """A table of one's own: train and dev, and perhaps test, as .csv, .tsv, .jsonl or .parquet.

    The labels are those found in train.
    """

    kind: ClassVar[str] = "classification"
    suite: str = "own"

    def load(
        self, name: str, data_dir: str | Path | None, settings: "TableSettings | None" = None
    ) -> "TaskData":
        """Returns the examples of the files in a folder; see `ClassificationTask.load`."""
        return _load_table(name, data_dir, settings or TableSettings())


def _problem_type(label_names: Sequence[str]) -> str:
    return "single_label_classification" if label_names else "regression"


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


def _read_files(task: ClassificationTask, data_dir: Path) -> dict[str, Split]:
    folder = data_dir / task.folder
    if not folder.is_dir():
        inside = " (data_dir seems to be the folder of one task; give the folder above it)"
        raise ConfigError(
            f"data_dir={data_dir} has no folder '{task.folder}'; expected the layout of "
            f"{task.suite}"
            f"{inside if (data_dir / task.files['train'][0]).exists() else ''}; "
            f"{listing(data_dir)}"
        )
    splits = {}
    for split, files in task.files.items():
        path = _first(folder, files)
        if path is not None:
            splits[split] = _read_split(task, path, split.startswith("test"))
        elif not split.startswith("test"):
            raise ConfigError(absent(folder, files, folder / task.files["train"][0]))
    for split, other in task.beside.items():
        path = _first(data_dir / other.folder, other.files["test"])
        if path is not None:
            splits[split] = replace(_read_split(other, path, True), metrics=other.metrics)
    return splits


def _first(folder: Path, files: Sequence[str]) -> Path | None:
    return next((folder / file for file in files if (folder / file).exists()), None)


def absent(folder: Path, files: Sequence[str], train: Path) -> str:
    """The message that a benchmark's train or dev file is not there."""
    words = f"{folder / files[0]} is missing; {listing(folder)}"
    if train.name not in files and train.exists():
        words += (
            f". Fetch it from where {train.name} came from; or move some rows of {train.name} "
            "there, and scores are not to be compared with published ones"
        )
    return words


def _read_split(task: ClassificationTask, path: Path, is_test: bool) -> Split:
    names = task.labels_in_file or task.label_names
    label = None if is_test and not task.test_has_labels else task.label
    table = read_table(
        path,
        task.texts if is_test else (*task.texts, task.label),
        optional=[name for name in (label, task.group, task.id) if name],
        header=None if is_test else task.header,
        # A row without a prediction would move all that follow.
        drop_short_rows=task.drop_short_rows and not is_test,
        reader=task.reader,
        flatten=task.flatten,
    )
    if label not in table.columns or (is_test and is_unlabelled(table, label, names)):
        label = None
    if label is not None and task.no_label is not None:
        table = _without(table, label, task.no_label)
    found = _split_of(table, task.texts, label, names, task.score_range)
    found = _grouped(found, table, task.group)
    return replace(found, ids=table.columns.get(task.id))


def _read_prepared(task: ClassificationTask, data_dir: str | Path) -> dict[str, Split]:
    texts, label = task.tfds_texts or task.texts, task.tfds_label
    if task.tfds_rows is not None:
        texts, label = task.texts, "label"
    groups = [task.group] if task.group else []
    tables = benchmark_tables(
        data_dir,
        task.hub,
        task.tfds,
        task.tfds_splits,
        [*texts, *groups],
        [label, *([task.id] if task.id else [])],
        task.tfds_rows,
    )
    splits = {}
    for split, (table, names) in tables.items():
        is_test = split.startswith("test")
        known = label if label in table.columns else None
        if is_test and known and is_unlabelled(table, known, task.label_names):
            known = None
        if known and task.label_names:
            table.columns[known] = named_labels(table, known, names, task.label_names)
        splits[split] = _split_of(table, texts, known, task.label_names, task.score_range)
        found = _grouped(splits[split], table, task.group)
        splits[split] = replace(found, ids=table.columns.get(task.id))
    return splits


def _grouped(split: Split, table: Table, group: str | None) -> Split:
    if group is None:
        return split
    groups = np.unique(np.array(table.columns[group]), return_inverse=True)[1]
    return replace(split, groups=groups)


def _without(table: Table, column: str, value: str) -> Table:
    """The rows of a table whose column holds another value."""
    kept = [row for row, found in enumerate(table.columns[column]) if found != value]
    columns = {name: [values[row] for row in kept] for name, values in table.columns.items()}
    return Table(table.path, columns, [table.lines[row] for row in kept], table.unit)


def _read_tfds(name: str, task: ClassificationTask) -> dict[str, Split]:
    prepared = tfds.read_glue(name, task.tfds_texts or task.texts, task.folder)
    splits = {}
    for split, tfds_name in task.tfds_splits.items():
        texts, found = prepared[tfds_name]
        labels = None
        if not split.startswith("test"):
            labels = np.array(found, np.int32 if task.label_names else np.float32)
        texts_b = texts[1] if len(texts) == 2 else None
        splits[split] = Split(texts[0], texts_b, labels, f"TFDS glue/{name} {tfds_name}")
    return splits


def _load_table(name: str, data_dir: str | Path | None, settings: TableSettings) -> TaskData:
    if not data_dir:
        raise ConfigError(
            f"the task '{name}' needs --config.data_dir=DIR, a folder with train and dev "
            "(and perhaps test) as .csv, .tsv, .jsonl or .parquet, or hf:NAME"
        )
    texts = tuple(name for name in (settings.text_column, settings.text_pair_column) if name)
    names: tuple[str, ...] = ()
    if is_hf(data_dir):
        tables, names = own_tables(data_dir, texts, settings.label_column)
    else:
        tables = _own_files(data_dir, texts, settings)
    if settings.regression and settings.multi_label:
        raise ConfigError(
            "table.regression and table.multi_label are both set: expected numbers or labels."
        )
    several = settings.multi_label
    if settings.regression:
        names = ()
    else:
        names = names or find_labels(tables["train"], settings.label_column, several)
    splits = {}
    for split, table in tables.items():
        label = settings.label_column if settings.label_column in table.columns else None
        if split == "test" and label is not None and is_unlabelled(table, label, names):
            label = None
        if split != "test":
            check_texts(table, texts)
        splits[split] = _split_of(table, texts, label, names, None, several)
    labels = splits["train"].labels
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
    data_dir: str | Path, texts: Sequence[str], settings: TableSettings
) -> dict[str, Table]:
    if not Path(data_dir).is_dir():
        raise ConfigError(f"data_dir={data_dir} is not a folder; {listing(Path(data_dir).parent)}")
    tables = {}
    for split in ("train", "dev", "test"):
        path = find_split(data_dir, split)
        if path is not None:
            # A test set may come without labels.
            required = texts if split == "test" else (*texts, settings.label_column)
            tables[split] = read_table(path, required, optional=(settings.label_column,))
        elif (Path(data_dir) / split).is_dir():
            folder = Path(data_dir) / split
            tables[split] = read_table(
                folder, (*texts, settings.label_column), reader=classes_in_folders
            )
        elif split != "test":
            raise ConfigError(
                f"data_dir={data_dir} has no {split}.csv, .tsv, .jsonl or .parquet, and no folder "
                f"{split} with a folder of .txt files for each label; "
                f"{listing(Path(data_dir))}"
            )
    return tables


def _split_of(
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


def listing(folder: Path) -> str:
    """What a folder holds, for the message that says what it lacks."""
    if not folder.is_dir():
        return f"the folder {folder} does not exist"
    names = sorted(path.name + ("/" if path.is_dir() else "") for path in folder.iterdir())
    shown = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
    return f"there are: {shown}" if names else "the folder is empty"
