"""Tasks are rows of one table: the nine of GLUE, and any table with texts and labels.

Columns, label order and metrics are those of the benchmark (Wang et al. 2019, "GLUE: A Multi-Task
Benchmark and Analysis Platform", table 1) and of the `glue` of Hugging Face and TFDS: label i of a
task means the same there and here.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ptft_jax.data import tfds
from ptft_jax.data.tasks.reading import Table, find_split, nearest, read_table
from ptft_jax.errors import ConfigError, DataError

TABLE_TASK = "text"


@dataclass(frozen=True)
class GlueTask:
    """One task of GLUE in the standard TSV layout and in TFDS.

    label_names: in the order of their ids; none for a regression. labels_in_file: what stands for
    them in the TSV files, if not the names. tfds_texts: the text columns in TFDS, if named
    otherwise. header: the columns of train and dev files without a header line. metrics: the first
    decides which checkpoint is best. splits: our split → (file, name in TFDS).
    """

    folder: str
    texts: tuple[str, ...]
    label: str
    label_names: tuple[str, ...]
    metrics: tuple[str, ...] = ("accuracy",)
    labels_in_file: tuple[str, ...] = ()
    tfds_texts: tuple[str, ...] = ()
    header: tuple[str, ...] | None = None
    drop_short_rows: bool = False
    score_range: tuple[float, float] | None = None
    splits: dict[str, tuple[str, str]] = field(
        default_factory=lambda: {
            "train": ("train.tsv", "train"),
            "dev": ("dev.tsv", "validation"),
            "test": ("test.tsv", "test"),
        }
    )


_MNLI_SPLITS = {
    "train": ("train.tsv", "train"),
    "dev_matched": ("dev_matched.tsv", "validation_matched"),
    "dev_mismatched": ("dev_mismatched.tsv", "validation_mismatched"),
    "test_matched": ("test_matched.tsv", "test_matched"),
    "test_mismatched": ("test_mismatched.tsv", "test_mismatched"),
}

GLUE_TASKS: dict[str, GlueTask] = {
    "cola": GlueTask(
        folder="CoLA",
        texts=("sentence",),
        label="is_acceptable",
        label_names=("unacceptable", "acceptable"),
        labels_in_file=("0", "1"),
        metrics=("matthews_correlation",),
        header=("source", "is_acceptable", "mark", "sentence"),
    ),
    "sst2": GlueTask(
        folder="SST-2",
        texts=("sentence",),
        label="label",
        label_names=("negative", "positive"),
        labels_in_file=("0", "1"),
    ),
    "mrpc": GlueTask(
        folder="MRPC",
        texts=("#1 String", "#2 String"),
        tfds_texts=("sentence1", "sentence2"),
        label="Quality",
        label_names=("not_equivalent", "equivalent"),
        labels_in_file=("0", "1"),
        metrics=("accuracy", "f1"),
    ),
    "stsb": GlueTask(
        folder="STS-B",
        texts=("sentence1", "sentence2"),
        label="score",
        label_names=(),
        metrics=("pearson", "spearman"),
        score_range=(0.0, 5.0),
    ),
    "qqp": GlueTask(
        folder="QQP",
        texts=("question1", "question2"),
        label="is_duplicate",
        label_names=("not_duplicate", "duplicate"),
        labels_in_file=("0", "1"),
        metrics=("accuracy", "f1"),
        # Some two dozen rows of the official files are cut off; their own readers leave them out.
        drop_short_rows=True,
    ),
    "mnli": GlueTask(
        folder="MNLI",
        texts=("sentence1", "sentence2"),
        tfds_texts=("premise", "hypothesis"),
        label="gold_label",
        label_names=("entailment", "neutral", "contradiction"),
        splits=_MNLI_SPLITS,
    ),
    "qnli": GlueTask(
        folder="QNLI",
        texts=("question", "sentence"),
        label="label",
        label_names=("entailment", "not_entailment"),
    ),
    "rte": GlueTask(
        folder="RTE",
        texts=("sentence1", "sentence2"),
        label="label",
        label_names=("entailment", "not_entailment"),
    ),
    "wnli": GlueTask(
        folder="WNLI",
        texts=("sentence1", "sentence2"),
        label="label",
        label_names=("not_entailment", "entailment"),
        labels_in_file=("0", "1"),
    ),
}


# White space of all kinds, and characters without width.
_INVISIBLE = " \t\r\n\u00a0\u200b\u200c\u200d\u202f\u2060\u3000\ufeff"


@dataclass(frozen=True)
class TableSettings:
    """Which columns of a table of one's own hold what; text_pair_column "" means single texts."""

    text_column: str = "text"
    text_pair_column: str = ""
    label_column: str = "label"
    regression: bool = False


@dataclass(frozen=True)
class Split:
    """The examples of one split, all lists of the same length.

    texts_b: the second texts of pairs, None for single texts. labels: int32 class ids or float32
    scores `[N]`, None where they are not known. source: where it came from, for messages.
    """

    texts_a: list[str]
    texts_b: list[str] | None
    labels: np.ndarray | None
    source: str

    def __len__(self) -> int:
        return len(self.texts_a)


@dataclass(frozen=True)
class TaskData:
    """A task with its examples.

    label_names: the name of each class id, None for a regression. metrics: names in
    `objectives.metrics`, the first decides which checkpoint is best. eval_splits: the labelled
    splits that are scored during training; the first decides.
    """

    name: str
    splits: dict[str, Split]
    label_names: tuple[str, ...] | None
    metrics: tuple[str, ...]
    eval_splits: tuple[str, ...]

    @property
    def num_labels(self) -> int:
        """The width of the classification head; 1 for a regression."""
        return 1 if self.label_names is None else len(self.label_names)


def load_task(
    name: str, data_dir: str | Path | None = None, table: TableSettings | None = None
) -> TaskData:
    """The examples of a GLUE task (`name` in GLUE_TASKS), or of one's own table (`name` "text").

    data_dir: for GLUE the folder with CoLA/, SST-2/, …, empty for TFDS; for a table the folder with
    train and dev (and perhaps test) as .csv, .tsv, .jsonl or .parquet. table: its columns.
    Raises ConfigError for an unknown task or missing files, DataError for their content.
    """
    if name == TABLE_TASK:
        return _load_table_task(data_dir, table or TableSettings())
    if name not in GLUE_TASKS:
        known = [*GLUE_TASKS, TABLE_TASK]
        raise ConfigError(
            f"no task '{name}'{nearest(name, known)}; the tasks are: {', '.join(known)}"
        )
    task = GLUE_TASKS[name]
    splits = _read_tfds(name, task) if not data_dir else _read_tsv(task, Path(data_dir))
    return TaskData(
        name=name,
        splits=splits,
        label_names=task.label_names or None,
        metrics=task.metrics,
        eval_splits=tuple(split for split in splits if split.startswith("dev")),
    )


def _read_tsv(task: GlueTask, data_dir: Path) -> dict[str, Split]:
    folder = data_dir / task.folder
    if not folder.is_dir():
        inside = " (data_dir seems to be the folder of one task; give the folder above it)"
        raise ConfigError(
            f"data_dir={data_dir} has no folder '{task.folder}'; expected the standard GLUE layout"
            f"{inside if (data_dir / 'train.tsv').is_file() else ''}; {_listing(data_dir)}"
        )
    splits = {}
    for split, (file, _) in task.splits.items():
        is_test = split.startswith("test")
        path = folder / file
        if not path.is_file():
            if is_test:
                continue
            raise ConfigError(f"{path} is missing; {_listing(folder)}")
        table = read_table(
            path,
            task.texts if is_test else (*task.texts, task.label),
            header=None if is_test else task.header,
            drop_short_rows=task.drop_short_rows,
        )
        splits[split] = _split_of(
            table,
            task.texts,
            None if is_test else task.label,
            task.labels_in_file or task.label_names,
            task.score_range,
        )
    return splits


def _read_tfds(name: str, task: GlueTask) -> dict[str, Split]:
    prepared = tfds.read_glue(name, task.tfds_texts or task.texts, task.folder)
    splits = {}
    for split, (_, tfds_name) in task.splits.items():
        texts, found = prepared[tfds_name]
        labels = None
        if not split.startswith("test"):
            labels = np.array(found, np.int32 if task.label_names else np.float32)
        texts_b = texts[1] if len(texts) == 2 else None
        splits[split] = Split(texts[0], texts_b, labels, f"TFDS glue/{name} {tfds_name}")
    return splits


def _load_table_task(data_dir: str | Path | None, settings: TableSettings) -> TaskData:
    if not data_dir:
        raise ConfigError(
            f"the task '{TABLE_TASK}' needs --config.data_dir=DIR, a folder with train and dev "
            "(and perhaps test) as .csv, .tsv, .jsonl or .parquet"
        )
    if not Path(data_dir).is_dir():
        raise ConfigError(f"data_dir={data_dir} is not a folder; {_listing(Path(data_dir).parent)}")
    texts = tuple(name for name in (settings.text_column, settings.text_pair_column) if name)
    tables = {}
    for split in ("train", "dev", "test"):
        path = find_split(data_dir, split)
        if path is not None:
            # A test set may come without labels.
            required = texts if split == "test" else (*texts, settings.label_column)
            tables[split] = read_table(path, required, optional=(settings.label_column,))
        elif split != "test":
            raise ConfigError(
                f"data_dir={data_dir} has no {split}.csv, .tsv, .jsonl or .parquet; "
                f"{_listing(Path(data_dir))}"
            )
    names = () if settings.regression else _find_labels(tables["train"], settings.label_column)
    splits = {}
    for split, table in tables.items():
        label = settings.label_column if settings.label_column in table.columns else None
        if split == "test" and label is not None and _is_unlabelled(table, label, names):
            label = None
        splits[split] = _split_of(table, texts, label, names, None)
    return TaskData(
        name=TABLE_TASK,
        splits=splits,
        label_names=names or None,
        metrics=("pearson", "spearman") if settings.regression else ("accuracy",),
        eval_splits=("dev",),
    )


def _find_labels(table: Table, column: str) -> tuple[str, ...]:
    """The labels of a train table, sorted: by number if all are numbers, else by spelling."""
    kinds: dict[str, int] = {}
    for row, value in enumerate(table.columns[column]):
        if value is not None:  # said where labels are read
            kinds.setdefault(_kind(value), row)
    if len(kinds) > 1:
        (one, first), (other, second), *_ = kinds.items()
        raise DataError(
            f"{table.at(second)}: column '{column}' holds {other} here and {one} in "
            f"{table.at(first)}: expected labels of one kind"
        )
    names = {_label_text(table, row, column) for row in range(len(table))}
    if len(names) < 2:
        raise DataError(
            f"{table.path}: all {len(table)} rows have the label '{next(iter(names))}' in column "
            f"'{column}'; expected at least two different labels"
        )
    numbers = {name: _number(name) for name in names}
    if all(number is not None for number in numbers.values()):
        return tuple(sorted(names, key=lambda name: (numbers[name], name)))
    return tuple(sorted(names))


def _split_of(
    table: Table,
    texts: Sequence[str],
    label: str | None,
    names: Sequence[str],
    score_range: tuple[float, float] | None,
) -> Split:
    for column in texts:
        for row, value in enumerate(table.columns[column]):
            if not isinstance(value, str):
                raise DataError(
                    f"{table.at(row)}: column '{column}' holds {value!r}; expected a text in quotes"
                )
            _check_characters(table, row, column, value)
    labels = None
    if label is not None and names:
        labels = _class_ids(table, label, names)
    elif label is not None:
        labels = _scores(table, label, score_range)
    texts_b = table.columns[texts[1]] if len(texts) == 2 else None
    return Split(table.columns[texts[0]], texts_b, labels, str(table.path))


def _class_ids(table: Table, column: str, names: Sequence[str]) -> np.ndarray:
    ids = {name: index for index, name in enumerate(names)}
    labels = np.empty(len(table), np.int32)
    for row in range(len(table)):
        name = _label_text(table, row, column)
        if name not in ids:
            shown = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
            raise DataError(
                f"{table.at(row)}: label '{name}' in column '{column}' is not in the set: {shown}"
            )
        labels[row] = ids[name]
    return labels


def _scores(table: Table, column: str, score_range: tuple[float, float] | None) -> np.ndarray:
    low, high = score_range or (-math.inf, math.inf)
    labels = np.empty(len(table), np.float32)
    for row in range(len(table)):
        text = _label_text(table, row, column)
        number = _number(text)
        if number is None or not low <= number <= high:
            expected = f"a number from {low:g} to {high:g}" if score_range else "a finite number"
            raise DataError(
                f"{table.at(row)}: score '{text}' in column '{column}'; expected {expected}"
            )
        labels[row] = number
    return labels


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "true or false"
    return "a number" if isinstance(value, int | float) else "a text"


def _label_text(table: Table, row: int, column: str) -> str:
    """A label as a text: 1.0 is 1, and what cannot be seen at its ends is not part of it."""
    value = table.columns[column][row]
    text = value.strip(_INVISIBLE) if isinstance(value, str) else value
    if isinstance(text, bool):
        return "true" if text else "false"  # as JSON writes it
    if isinstance(text, float) and text.is_integer():
        return str(int(text))
    if text == "" or not isinstance(text, str | int | float) or text in (math.inf, -math.inf):
        text = None
    if text is None or text != text:
        raise DataError(
            f"{table.at(row)}: column '{column}' holds {value!r}; expected a label on every row"
        )
    text = str(text)
    _check_characters(table, row, column, text)
    return text


def _check_characters(table: Table, row: int, column: str, text: str) -> None:
    """Raises DataError for half of a surrogate pair, which JSON can spell and no encoding hold."""
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise DataError(
            f"{table.at(row)}: column '{column}' holds half of a surrogate pair; expected whole "
            "characters"
        )


def _is_unlabelled(table: Table, column: str, names: Sequence[str]) -> bool:
    """Whether a test split's labels are all -1, null, NaN or nothing, as public test sets have."""
    absent = {"", "-1", "-1.0", "none", "null", "nan", "na"} - {name.lower() for name in names}
    return all(str(value).strip(_INVISIBLE).lower() in absent for value in table.columns[column])


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _listing(folder: Path) -> str:
    """What a folder holds, for the message that says what it lacks."""
    if not folder.is_dir():
        return f"the folder {folder} does not exist"
    names = sorted(path.name + ("/" if path.is_dir() else "") for path in folder.iterdir())
    shown = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
    return f"there are: {shown}" if names else "the folder is empty"
