"""The nine tasks of GLUE (Wang et al. 2019, table 1), and its diagnostic set.

Columns and metrics are those of the benchmark, label order that of Hugging Face's and TFDS's data
sets: label i means the same there and here.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

from ptft_jax.data.tasks.benchmark import ClassificationTask
from ptft_jax.data.tasks.submissions import IndexedRows, Submission

_glue = partial(ClassificationTask, "glue")
_MNLI_TFDS = {
    "train": "train",
    "dev_matched": "validation_matched",
    "dev_mismatched": "validation_mismatched",
    "test_matched": "test_matched",
    "test_mismatched": "test_mismatched",
}
_MNLI_FILES = {split: (f"{split}.tsv",) for split in _MNLI_TFDS}
_NLI = ("entailment", "neutral", "contradiction")


def _file(name: str) -> Submission:
    return Submission({"test": name}, IndexedRows())


def _diagnostic(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The file with labels has other names for its columns."""
    full = {"Premise": "sentence1", "Hypothesis": "sentence2", "Label": "label"}
    yield {full.get(name, name): value for name, value in record.items()}


_DIAGNOSTIC = _glue(
    folder="diagnostic",
    texts=("sentence1", "sentence2"),
    label="label",
    label_names=_NLI,
    metrics=("matthews_correlation",),
    files={"test": ("diagnostic-full.tsv", "diagnostic.tsv")},
    flatten=_diagnostic,
    test_has_labels=True,
)

GLUE: dict[str, ClassificationTask] = {
    "cola": _glue(
        hub="nyu-mll/glue/cola",
        folder="CoLA",
        submission=_file("CoLA.tsv"),
        texts=("sentence",),
        label="is_acceptable",
        label_names=("unacceptable", "acceptable"),
        labels_in_file=("0", "1"),
        metrics=("matthews_correlation",),
        header=("source", "is_acceptable", "mark", "sentence"),
    ),
    "sst2": _glue(
        hub="nyu-mll/glue/sst2",
        folder="SST-2",
        submission=_file("SST-2.tsv"),
        texts=("sentence",),
        label="label",
        label_names=("negative", "positive"),
        labels_in_file=("0", "1"),
    ),
    "mrpc": _glue(
        hub="nyu-mll/glue/mrpc",
        folder="MRPC",
        submission=_file("MRPC.tsv"),
        texts=("#1 String", "#2 String"),
        tfds_texts=("sentence1", "sentence2"),
        label="Quality",
        label_names=("not_equivalent", "equivalent"),
        labels_in_file=("0", "1"),
        metrics=("accuracy", "f1"),
    ),
    "stsb": _glue(
        hub="nyu-mll/glue/stsb",
        folder="STS-B",
        submission=_file("STS-B.tsv"),
        texts=("sentence1", "sentence2"),
        label="score",
        label_names=(),
        metrics=("pearson", "spearman"),
        score_range=(0.0, 5.0),
    ),
    "qqp": _glue(
        hub="nyu-mll/glue/qqp",
        folder="QQP",
        submission=_file("QQP.tsv"),
        texts=("question1", "question2"),
        label="is_duplicate",
        label_names=("not_duplicate", "duplicate"),
        labels_in_file=("0", "1"),
        metrics=("accuracy", "f1"),
        # Some two dozen rows of the official files are cut off; their own readers leave them out.
        drop_short_rows=True,
    ),
    "mnli": _glue(
        hub="nyu-mll/glue/mnli",
        folder="MNLI",
        texts=("sentence1", "sentence2"),
        tfds_texts=("premise", "hypothesis"),
        label="gold_label",
        label_names=_NLI,
        files=_MNLI_FILES,
        tfds_splits=_MNLI_TFDS,
        beside={"test_ax": _DIAGNOSTIC},
        submission=Submission(
            {
                "test_matched": "MNLI-m.tsv",
                "test_mismatched": "MNLI-mm.tsv",
                "test_ax": "AX.tsv",
            },
            IndexedRows(),
        ),
    ),
    "qnli": _glue(
        hub="nyu-mll/glue/qnli",
        folder="QNLI",
        submission=_file("QNLI.tsv"),
        texts=("question", "sentence"),
        label="label",
        label_names=("entailment", "not_entailment"),
    ),
    "rte": _glue(
        hub="nyu-mll/glue/rte",
        folder="RTE",
        submission=_file("RTE.tsv"),
        texts=("sentence1", "sentence2"),
        label="label",
        label_names=("entailment", "not_entailment"),
    ),
    "wnli": _glue(
        hub="nyu-mll/glue/wnli",
        folder="WNLI",
        submission=_file("WNLI.tsv"),
        texts=("sentence1", "sentence2"),
        label="label",
        label_names=("not_entailment", "entailment"),
        labels_in_file=("0", "1"),
    ),
}
