"""A benchmark's task of labelled texts, from its files, TFDS or Hugging Face datasets.

Label i of a task means the same here as in Hugging Face's and TFDS's data sets.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from ptft_jax.data import tfds
from ptft_jax.data.hf_datasets import is_hf
from ptft_jax.data.tasks.files.labels import (
    is_unlabelled,
)
from ptft_jax.data.tasks.files.prepared import benchmark_tables, named_labels
from ptft_jax.data.tasks.files.reading import (
    Flatten,
    Needed,
    Reader,
    Table,
    absent,
    listing,
    read_table,
    splits_to_read,
)
from ptft_jax.data.tasks.submissions import Submission
from ptft_jax.data.tasks.table import Split, TableSettings, TaskData, split_of
from ptft_jax.errors import ConfigError

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
        self,
        name: str,
        data_dir: str | Path | None,
        settings: TableSettings | None = None,
        needed: Needed | None = None,
    ) -> TaskData:
        """Returns the task's examples.

        data_dir: a folder with the benchmark's files, or what `data.hf_datasets` reads; nothing
        takes them from TFDS. needed: see `Needed`; None reads all. Raises ConfigError for missing
        files, DataError for their content.
        """
        if is_hf(data_dir):
            splits = _read_prepared(self, data_dir or "", needed)
        elif data_dir:
            splits = _read_files(self, Path(data_dir), needed)
        elif self.suite == "glue":
            splits = _read_tfds(name, self)
        elif self.tfds:
            splits = _read_prepared(self, "", needed)
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
            eval_splits=tuple(s for s in splits if needed or s.startswith("dev")),
            problem_type=_problem_type(self.label_names),
        )


def _read_files(
    task: ClassificationTask, data_dir: Path, needed: Needed | None
) -> dict[str, Split]:
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
    for split, required in splits_to_read((*task.files, *task.beside), needed).items():
        other = task.beside.get(split)
        files = task.files[split] if other is None else other.files["test"]
        place = folder if other is None else data_dir / other.folder
        path = _first(place, files)
        if path is not None and other is None:
            splits[split] = _read_split(task, path, split.startswith("test"))
        elif path is not None and other is not None:
            splits[split] = replace(_read_split(other, path, True), metrics=other.metrics)
        elif required:
            train = folder / task.files["train"][0] if needed is None else None
            raise ConfigError(absent(place, files, train))
    return splits


def _first(folder: Path, files: Sequence[str]) -> Path | None:
    return next((folder / file for file in files if (folder / file).exists()), None)


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
    found = split_of(table, task.texts, label, names, task.score_range)
    found = _grouped(found, table, task.group)
    return replace(found, ids=table.columns.get(task.id))


def _read_prepared(
    task: ClassificationTask, data_dir: str | Path, needed: Needed | None
) -> dict[str, Split]:
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
        needed,
    )
    splits = {}
    for split, (table, names) in tables.items():
        is_test = split.startswith("test")
        known = label if label in table.columns else None
        if is_test and known and is_unlabelled(table, known, task.label_names):
            known = None
        if known and task.label_names:
            table.columns[known] = named_labels(table, known, names, task.label_names)
        splits[split] = split_of(table, texts, known, task.label_names, task.score_range)
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


def _problem_type(label_names: Sequence[str]) -> str:
    return "single_label_classification" if label_names else "regression"
