"""The nine tasks of GLUE (Wang et al. 2019, table 1), and its diagnostic set.

Columns and metrics are those of the benchmark, label order that of Hugging Face's and TFDS's data
sets: label i means the same there and here.
"""

from functools import partial

from ptft_jax.data.tasks.table import ClassificationTask

_glue = partial(ClassificationTask, "glue")
_MNLI_TFDS = {
    "train": "train",
    "dev_matched": "validation_matched",
    "dev_mismatched": "validation_mismatched",
    "test_matched": "test_matched",
    "test_mismatched": "test_mismatched",
}
_MNLI_FILES = {split: (f"{split}.tsv",) for split in _MNLI_TFDS}

GLUE: dict[str, ClassificationTask] = {
    "cola": _glue(
        hub="nyu-mll/glue/cola",
        folder="CoLA",
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
        texts=("sentence",),
        label="label",
        label_names=("negative", "positive"),
        labels_in_file=("0", "1"),
    ),
    "mrpc": _glue(
        hub="nyu-mll/glue/mrpc",
        folder="MRPC",
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
        texts=("sentence1", "sentence2"),
        label="score",
        label_names=(),
        metrics=("pearson", "spearman"),
        score_range=(0.0, 5.0),
    ),
    "qqp": _glue(
        hub="nyu-mll/glue/qqp",
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
        hub="nyu-mll/glue/mnli",
        folder="MNLI",
        texts=("sentence1", "sentence2"),
        tfds_texts=("premise", "hypothesis"),
        label="gold_label",
        label_names=("entailment", "neutral", "contradiction"),
        files=_MNLI_FILES,
        tfds_splits=_MNLI_TFDS,
    ),
    "qnli": _glue(
        hub="nyu-mll/glue/qnli",
        folder="QNLI",
        texts=("question", "sentence"),
        label="label",
        label_names=("entailment", "not_entailment"),
    ),
    "rte": _glue(
        hub="nyu-mll/glue/rte",
        folder="RTE",
        texts=("sentence1", "sentence2"),
        label="label",
        label_names=("entailment", "not_entailment"),
    ),
    "wnli": _glue(
        hub="nyu-mll/glue/wnli",
        folder="WNLI",
        texts=("sentence1", "sentence2"),
        label="label",
        label_names=("not_entailment", "entailment"),
        labels_in_file=("0", "1"),
    ),
}
