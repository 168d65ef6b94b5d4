"""Single data sets of texts with labels, in the layouts in which they are published."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ptft_jax.data.tasks.benchmark import ClassificationTask
from ptft_jax.data.tasks.choice import ChoiceTask
from ptft_jax.data.tasks.files.reading import Flatten, classes_in_folders

_XNLI_LANGUAGES = "ar bg de el en es fr hi ru sw th tr ur vi zh"


def _xnli(language: str) -> Flatten:
    """Makes the reader of XNLI's files: all languages in dev and test, one in a train file."""

    def rows(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if "premise" in record:
            first, second, label = record["premise"], record["hypo"], record["label"]
        elif record["language"] != language:
            return
        else:
            first, second = record["sentence1"], record["sentence2"]
            label = record["gold_label"]
        # As the machine-translated train files spell it.
        label = "contradiction" if label == "contradictory" else label
        yield {"sentence1": first, "sentence2": second, "label": label}

    return rows


def _xnli_row(language: str) -> ClassificationTask:
    train = f"multinli.train.{language}.tsv"
    return ClassificationTask(
        "xnli",
        folder="XNLI",
        texts=("sentence1", "sentence2"),
        label="label",
        label_names=("entailment", "neutral", "contradiction"),
        flatten=_xnli(language),
        files={"train": (train,), "dev": ("xnli.dev.tsv",), "test": ("xnli.test.tsv",)},
        test_has_labels=True,
        language=language,
        hub=f"facebook/xnli/{language}",
        tfds_texts=("premise", "hypothesis"),
    )


def _trec(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Lines `COARSE:fine The question ?`, in Latin-1 as published."""
    with path.open(encoding="latin-1") as file:
        for number, line in enumerate(file, 1):
            label, _, text = line.rstrip("\n").partition(" ")
            yield number, {"text": text, "label": label.partition(":")[0]}


def _swag(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """As HF's `run_swag`: the second sentence's beginning belongs to each ending."""
    yield {
        "context": record["sent1"],
        "choices": [f"{record['sent2']} {record[f'ending{n}']}" for n in range(4)],
        "label": record.get("label"),
    }


TEXT_SETS: dict[str, ClassificationTask | ChoiceTask] = {
    f"xnli_{language}": _xnli_row(language) for language in _XNLI_LANGUAGES.split()
} | {
    "imdb": ClassificationTask(
        "imdb",
        folder="aclImdb",
        texts=("text",),
        label="label",
        label_names=("neg", "pos"),
        # There is no dev set; the folder of unlabelled texts is no class.
        files={"train": ("train",), "dev": ("test",)},
        reader=classes_in_folders,
        no_label="unsup",
        hub="stanfordnlp/imdb",
        tfds="imdb_reviews",
        tfds_splits={"train": "train", "dev": "test"},
    ),
    "swag": ChoiceTask(
        "swag",
        files={"train": ("train.csv",), "dev": ("val.csv",), "test": ("test.csv",)},
        flatten=_swag,
        hub="allenai/swag/regular",
    ),
    "trec": ClassificationTask(
        "trec",
        folder="",
        texts=("text",),
        label="label",
        label_names=("ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM"),
        files={"train": ("train_5500.label",), "dev": ("TREC_10.label",)},
        reader=_trec,
        hub="CogComp/trec",
        tfds_label="coarse_label",
        tfds_splits={"train": "train", "dev": "test"},
    ),
    "snips": ClassificationTask(
        "snips",
        folder="",
        texts=("text",),
        label="intent",
        label_names=(
            "AddToPlaylist",
            "BookRestaurant",
            "GetWeather",
            "PlayMusic",
            "RateBook",
            "SearchCreativeWork",
            "SearchScreeningEvent",
        ),
        files={"train": ("train.tsv",), "dev": ("valid.tsv", "dev.tsv"), "test": ("test.tsv",)},
        test_has_labels=True,
    ),
}
