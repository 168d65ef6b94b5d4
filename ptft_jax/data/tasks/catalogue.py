"""The one table of tasks: a task is a row, and the row's type says which kind it is.

Columns, label order and metrics are those of the benchmarks (Wang et al. 2019, "GLUE", table 1;
Rajpurkar et al. 2016 and 2018, "SQuAD"; Cui et al. 2019, "CMRC 2018").
"""

from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Protocol

from ptft_jax.data.tasks.reading import nearest
from ptft_jax.data.tasks.span import SpanTask
from ptft_jax.data.tasks.table import ClassificationTask, TableTask
from ptft_jax.errors import ConfigError


class Task(Protocol):
    """A row of the table of tasks.

    Attributes:
        kind: the module in `data/tasks` and in `runs/kinds` that knows such tasks.
        suite: the benchmark it belongs to, "own" for data of one's own.
    """

    kind: ClassVar[str]

    @property
    def suite(self) -> str: ...

    def load(self, name: str, data_dir: str | Path | None, settings: Any = None) -> Any:
        """Returns the task's examples, from files or, without a folder, from TFDS.

        `settings` are the kind's own. Raises ConfigError for missing files, DataError for their
        content.
        """
        ...


_glue = partial(ClassificationTask, "glue")
_MNLI_SPLITS = {
    "train": ("train.tsv", "train"),
    "dev_matched": ("dev_matched.tsv", "validation_matched"),
    "dev_mismatched": ("dev_mismatched.tsv", "validation_mismatched"),
    "test_matched": ("test_matched.tsv", "test_matched"),
    "test_mismatched": ("test_mismatched.tsv", "test_mismatched"),
}

_GLUE = {
    "cola": _glue(
        folder="CoLA",
        texts=("sentence",),
        label="is_acceptable",
        label_names=("unacceptable", "acceptable"),
        labels_in_file=("0", "1"),
        metrics=("matthews_correlation",),
        header=("source", "is_acceptable", "mark", "sentence"),
    ),
    "sst2": _glue(
        folder="SST-2",
        texts=("sentence",),
        label="label",
        label_names=("negative", "positive"),
        labels_in_file=("0", "1"),
    ),
    "mrpc": _glue(
        folder="MRPC",
        texts=("#1 String", "#2 String"),
        tfds_texts=("sentence1", "sentence2"),
        label="Quality",
        label_names=("not_equivalent", "equivalent"),
        labels_in_file=("0", "1"),
        metrics=("accuracy", "f1"),
    ),
    "stsb": _glue(
        folder="STS-B",
        texts=("sentence1", "sentence2"),
        label="score",
        label_names=(),
        metrics=("pearson", "spearman"),
        score_range=(0.0, 5.0),
    ),
    "qqp": _glue(
        folder="QQP",
        texts=("question1", "question2"),
        label="is_duplicate",
        label_names=("not_duplicate", "duplicate"),
        labels_in_file=("0", "1"),
        metrics=("accuracy", "f1"),
        # Some two dozen rows of the official files are cut off; their own readers leave them out.
        drop_short_rows=True,
    ),
    "mnli": _glue(
        folder="MNLI",
        texts=("sentence1", "sentence2"),
        tfds_texts=("premise", "hypothesis"),
        label="gold_label",
        label_names=("entailment", "neutral", "contradiction"),
        splits=_MNLI_SPLITS,
    ),
    "qnli": _glue(
        folder="QNLI",
        texts=("question", "sentence"),
        label="label",
        label_names=("entailment", "not_entailment"),
    ),
    "rte": _glue(
        folder="RTE",
        texts=("sentence1", "sentence2"),
        label="label",
        label_names=("entailment", "not_entailment"),
    ),
    "wnli": _glue(
        folder="WNLI",
        texts=("sentence1", "sentence2"),
        label="label",
        label_names=("not_entailment", "entailment"),
        labels_in_file=("0", "1"),
    ),
}

_SQUAD = ("{split}.json", "{split}-v{version}.json")
_SPANS = {
    "squad": SpanTask("squad", _SQUAD),
    "squad_v2": SpanTask("squad", _SQUAD, version="2.0"),
    "cmrc2018": SpanTask(
        "cmrc", ("{split}.json", "cmrc2018_{split}.json"), by_character=True, language="zh"
    ),
}

TASKS: dict[str, Task] = {**_GLUE, **_SPANS, "text": TableTask()}
"""Name → row."""


def find_task(name: str) -> Task:
    """Returns the row of a task; ConfigError for a name that there is not, with the nearest."""
    if not name:
        raise ConfigError("no task is named: write --config=configs/finetune/glue.py:TASK.")
    if name not in TASKS:
        raise ConfigError(
            f"no task '{name}'{nearest(name, TASKS)}; the tasks are: {', '.join(TASKS)}"
        )
    return TASKS[name]


def load_task(name: str, data_dir: str | Path | None = None, settings: Any = None) -> Any:
    """Returns the examples of a task; see `Task.load` and `find_task`."""
    return find_task(name).load(name, data_dir or None, settings)


def tasks_of(suite: str) -> dict[str, Task]:
    """Returns the rows of a benchmark, by name."""
    return {name: task for name, task in TASKS.items() if task.suite == suite}
