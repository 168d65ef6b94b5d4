"""Tasks from data sets of `datasets` and of TFDS, against the same examples in the official files.

The data sets are written by the libraries themselves; what is replaced is the download.
"""

import json
import sys

import numpy as np
import pytest

from ptft_jax.data.tasks.catalogue import load_task
from ptft_jax.data.tasks.choice import ChoiceSettings
from ptft_jax.data.tasks.table import TableSettings
from ptft_jax.data.tfds import read_prepared
from ptft_jax.errors import ConfigError, DataError

datasets = pytest.importorskip("datasets")

WSC = {
    "text": "Mark told Pete many lies about himself .",
    "target": {
        "span1_text": "Mark",
        "span1_index": 0,
        "span2_text": "himself",
        "span2_index": 6,
    },
}
RECORD = {
    "passage": {
        "text": "Ada met Bo. @highlight Bo left.",
        "entities": [{"start": 0, "end": 2}, {"start": 8, "end": 9}],
    },
}
# Of each task its folder, and two records of it as the official files have them.
SUPERGLUE = {
    "boolq": ("BoolQ", [{"question": "q", "passage": "é", "label": n == 1} for n in range(2)]),
    "cb": (
        "CB",
        [{"premise": "p", "hypothesis": "h", "label": x} for x in ("contradiction", "neutral")],
    ),
    "copa": (
        "COPA",
        [
            {"premise": "p", "choice1": "a", "choice2": "b", "question": q, "label": n}
            for n, q in enumerate(("cause", "effect"))
        ],
    ),
    "multirc": (
        "MultiRC",
        [
            {
                "passage": {
                    "text": f"P{n}",
                    "questions": [
                        {
                            "question": f"Q{q}",
                            "idx": q,
                            "answers": [{"text": f"A{a}", "idx": a, "label": a} for a in (0, 1)],
                        }
                        for q in (0, 1)
                    ],
                },
            }
            for n in (0, 1)
        ],
    ),
    "record": (
        "ReCoRD",
        [
            {
                **RECORD,
                "qas": [{"query": "@placeholder left.", "idx": n, "answers": [{"text": "Bo"}]}],
            }
            for n in (0, 1)
        ],
    ),
    "superglue_rte": (
        "RTE",
        [{"premise": "p", "hypothesis": "h", "label": x} for x in ("entailment", "not_entailment")],
    ),
    "wic": (
        "WiC",
        [
            {
                "word": "w",
                "sentence1": "s w",
                "sentence2": "w t",
                "label": n == 1,
                "start1": 2,
                "start2": 0,
                "end1": 3,
                "end2": 1,
                "version": 1.1,
            }
            for n in (0, 1)
        ],
    ),
    "wsc": ("WSC", [{**WSC, "label": n == 1} for n in (0, 1)]),
}


def unlabelled(record):
    record = json.loads(json.dumps(record))
    record.pop("label", None)
    passage = record.get("passage")
    for question in passage.get("questions", ()) if isinstance(passage, dict) else ():
        for answer in question["answers"]:
            answer.pop("label")
    for query in record.get("qas", ()):
        query.pop("answers")
    return record


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """SuperGLUE's own files."""
    place = tmp_path_factory.mktemp("superglue")
    for folder, records in SUPERGLUE.values():
        (place / folder).mkdir()
        records = [{**record, "idx": number} for number, record in enumerate(records)]
        for split in ("train", "val", "test"):
            rows = map(unlabelled, records) if split == "test" else records
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (place / folder / f"{split}.jsonl").write_text(text)
    return place


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, official):
    """A TFDS folder that TFDS made of those files."""
    import tensorflow_datasets as tfds
    from etils import epath
    from tensorflow_datasets.text import super_glue

    place = tmp_path_factory.mktemp("tfds")
    with pytest.MonkeyPatch.context() as patch:
        # TensorFlow is not here, and of it the builder takes the type int32 alone.
        patch.setattr(super_glue, "tf", np)
        patch.setattr(
            tfds.download.DownloadManager,
            "download_and_extract",
            lambda self, url: epath.Path(official),
        )
        for task in SUPERGLUE:
            name = f"super_glue/{task.removeprefix('superglue_')}"
            builder = tfds.builder(name, data_dir=place, file_format="array_record")
            config = tfds.download.DownloadConfig(try_download_gcs=False)
            builder.download_and_prepare(download_config=config)
    return place


def test_squad_and_imdb_that_tfds_has_prepared(tmp_path, monkeypatch):
    """Other rows with names in TFDS: lists of answers, and reviews without a validation split."""
    import io

    import tensorflow_datasets as tfds

    manager = tfds.download.DownloadManager
    answers = [{"text": "light", "answer_start": 4}, {"text": "the", "answer_start": 0}]
    qas = [{"id": str(n), "question": f"Q{n}?", "answers": answers[n:]} for n in (0, 1)]
    paragraphs = [{"context": "the light", "qas": qas}]
    squad = tmp_path / "squad.json"
    squad.write_text(json.dumps({"data": [{"title": "t", "paragraphs": paragraphs}]}))
    reviews = [
        (f"aclImdb/{split}/{label}/{n}_1.txt", f"{split} {label} {n}")
        for split in ("train", "test")
        for n, label in enumerate(("neg", "pos", "pos", "unsup"))
    ]

    def archive(self, path):
        return ((name, io.BytesIO(text.encode())) for name, text in reviews)

    monkeypatch.setattr(manager, "download", lambda self, url: squad)
    monkeypatch.setattr(manager, "iter_archive", archive)
    found = {"train": squad, "dev": squad}
    monkeypatch.setattr(manager, "download_and_extract", lambda self, urls: found)
    for name in ("squad/v1.1", "imdb_reviews"):
        builder = tfds.builder(name, data_dir=tmp_path, file_format="array_record")
        config = tfds.download.DownloadConfig(try_download_gcs=False)
        builder.download_and_prepare(download_config=config)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    dev = load_task("squad").splits["dev"]
    assert dict(zip(dev.questions, dev.answers, strict=True)) == {
        "Q0?": (("light", 4), ("the", 0)),
        "Q1?": (("the", 0),),
    }
    data = load_task("imdb")
    assert list(data.splits) == ["train", "dev"]
    dev = data.splits["dev"]
    named = {
        text: data.label_names[label] for text, label in zip(dev.texts_a, dev.labels, strict=True)
    }
    assert named == {"test neg 0": "neg", "test pos 1": "pos", "test pos 2": "pos"}


def as_hf(task, place):
    """Saves what TFDS has of a task as `datasets` does, with the classes' names."""
    found = {}
    for split, source in read_prepared(f"super_glue/{task.removeprefix('superglue_')}").items():
        rows = datasets.Dataset.from_list([record for _, record in source.records()])
        names = source.class_names("label")
        if names:
            rows = rows.cast_column("label", datasets.ClassLabel(names=list(names)))
        found[split] = rows
    datasets.DatasetDict(found).save_to_disk(place)
    return place


def same(one, other):
    """Whether two tasks have the same examples in the same order."""
    assert list(one.splits) == list(other.splits)
    for name, split in one.splits.items():
        there = other.splits[name]
        for field in ("texts_a", "texts_b", "contexts", "choices", "labels", "groups"):
            if hasattr(split, field):
                np.testing.assert_equal(getattr(split, field), getattr(there, field), field)
        assert split.labelled == there.labelled


@pytest.mark.parametrize("task", SUPERGLUE)
def test_superglue_is_the_same_from_everywhere(task, official, prepared, tmp_path, monkeypatch):
    """Its files, TFDS and `datasets` give one task: texts, order, labels, questions, no labels."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    files = load_task(task, official)
    assert files.splits["dev"].labelled
    assert not files.splits["test"].labelled
    same(load_task(task), files)
    same(load_task(task, as_hf(task, tmp_path / "saved")), files)


def saved(place, **splits):
    """Writes splits, each rows and features, as `save_to_disk` does."""
    datasets.DatasetDict(
        {
            name: datasets.Dataset.from_dict(rows, features=datasets.Features(features))
            for name, (rows, features) in splits.items()
        }
    ).save_to_disk(place)
    return place


TEXT = datasets.Value("string")
CLASSES = datasets.ClassLabel(names=["neg", "pos", "mixed"])


def test_a_table_keeps_the_order_of_its_classes(tmp_path):
    """ClassLabel's names in its order, also of one that train has not; -1 is no label in test."""
    features = {"text": TEXT, "label": CLASSES, "more": datasets.Value("int32")}
    rows = {"text": ["a", "b", "c"], "label": [1, 0, 1], "more": [1, 2, 3]}
    test = rows | {"label": [-1, -1, -1]}
    place = saved(
        tmp_path / "set", train=(rows, features), validation=(rows, features), test=(test, features)
    )
    data = load_task("text", place)
    assert data.label_names == ("neg", "pos", "mixed")
    assert list(data.splits) == ["train", "dev", "test"]
    assert data.splits["train"].texts_a == ["a", "b", "c"]
    assert data.splits["dev"].labels.tolist() == [1, 0, 1]
    assert not data.splits["test"].labelled
    columns = TableSettings(text_column="text", text_pair_column="more")
    with pytest.raises(DataError, match=r"train, row 1: column 'more' holds 1; expected a text"):
        load_task("text", place, columns)
    with pytest.raises(DataError, match=r"no column 'txt' \(did you mean 'text'\?\)"):
        load_task("text", place, TableSettings(text_column="txt"))


def test_tags_are_those_of_a_column_of_classes(tmp_path):
    """Entities before parts of speech; by their names, from anywhere; -1 is no tag in test."""
    tags = datasets.Sequence(datasets.ClassLabel(names=["O", "B-PER", "I-PER"]))
    speech = datasets.Sequence(TEXT)
    features = {"tokens": datasets.Sequence(TEXT), "pos_tags": speech, "ner_tags": tags}
    rows = {
        "tokens": [["Ada", "Byron", "wrote"], ["She"]],
        "pos_tags": [["N", "N", "V"], ["P"]],
        "ner_tags": [[1, 2, 0], [0]],
    }
    test = rows | {"ner_tags": [[-1, -1, -1], [-1]]}
    splits = {"train": rows, "validation": rows, "test": test}
    place = saved(tmp_path / "set", **{name: (one, features) for name, one in splits.items()})
    data = load_task("tagging", place)
    assert data.label_names == ("O", "B-PER", "I-PER")
    assert data.metrics[0] == "f1"
    assert data.splits["train"].words == rows["tokens"]
    assert [tags.tolist() for tags in data.splits["dev"].tags] == rows["ner_tags"]
    assert not data.splits["test"].labelled
    del features["ner_tags"], rows["ner_tags"]
    place = saved(tmp_path / "speech", train=(rows, features), dev=(rows, features))
    assert load_task("tagging", place).metrics == ("accuracy",)
    rows["pos_tags"][1] = []
    place = saved(tmp_path / "short", train=(rows, features), dev=(rows, features))
    with pytest.raises(DataError, match=r"train, row 2: 1 words and 0 tags"):
        load_task("tagging", place)
    del features["pos_tags"], rows["pos_tags"]
    place = saved(tmp_path / "none", train=(rows, features), dev=(rows, features))
    with pytest.raises(ConfigError, match="has the columns tokens; expected words as tokens or"):
        load_task("tagging", place)


@pytest.mark.parametrize("suffix", ["parquet", "jsonl", "csv"])
def test_a_folder_as_repositories_of_the_hub_have_it(suffix, tmp_path):
    """hf: before the folder; the file names say the split, and Parquet knows the classes."""
    rows = datasets.Dataset.from_dict(
        {"text": ["a", "b"], "label": [1, 0]},
        features=datasets.Features({"text": TEXT, "label": CLASSES}),
    )
    write = {"parquet": rows.to_parquet, "jsonl": rows.to_json, "csv": rows.to_csv}[suffix]
    (tmp_path / "data").mkdir()
    for split in ("train", "validation"):
        write(tmp_path / "data" / f"{split}-00000-of-00001.{suffix}")
    data = load_task("text", f"hf:{tmp_path}")
    named = suffix == "parquet"
    assert data.label_names == (("neg", "pos", "mixed") if named else ("0", "1"))
    assert data.splits["dev"].labels.tolist() == [1, 0]


def test_several_labels_scores_and_choices(tmp_path):
    """What tables of files can hold."""
    several = {"text": TEXT, "label": datasets.List(CLASSES)}
    rows = {"text": ["a", "b"], "label": [[0, 2], []]}
    place = saved(tmp_path / "several", train=(rows, several), validation=(rows, several))
    data = load_task("text", place, TableSettings(multi_label=True))
    assert data.splits["train"].labels.tolist() == [[1, 0, 1], [0, 0, 0]]
    score = {"a": TEXT, "b": TEXT, "score": datasets.Value("float64")}
    rows = {"a": ["a", "c"], "b": ["b", "d"], "score": [0.5, 1.5]}
    place = saved(tmp_path / "scores", train=(rows, score), dev=(rows, score))
    data = load_task("text", place, TableSettings("a", "b", "score", regression=True))
    assert data.splits["dev"].labels.tolist() == [0.5, 1.5]
    assert data.splits["dev"].texts_b == ["b", "d"]
    choice = {"q": TEXT, "choices": datasets.List(TEXT), "label": datasets.Value("int32")}
    rows = {"q": ["x"], "choices": [["a", "b"]], "label": [1]}
    place = saved(tmp_path / "choices", train=(rows, choice), validation=(rows, choice))
    data = load_task("choice", place, ChoiceSettings(context_column="q"))
    assert data.splits["dev"].choices == [["a", "b"]]
    assert data.splits["dev"].labels.tolist() == [1]


def test_glue_and_trec_by_the_hubs_columns(tmp_path):
    """Other columns than in the files, and TREC's classes in another order."""
    features = {
        "sentence1": TEXT,
        "sentence2": TEXT,
        "label": datasets.ClassLabel(names=["not_equivalent", "equivalent"]),
    }
    rows = {"sentence1": ["a", "b"], "sentence2": ["c", "d"], "label": [1, 0]}
    test = rows | {"label": [-1, -1]}
    splits = {"train": (rows, features), "validation": (rows, features), "test": (test, features)}
    data = load_task("mrpc", saved(tmp_path / "mrpc", **splits))
    assert data.splits["dev"].labels.tolist() == [1, 0]
    assert data.splits["dev"].texts_b == ["c", "d"]
    assert not data.splits["test"].labelled
    names = ["ABBR", "ENTY", "DESC", "HUM", "LOC", "NUM"]
    features = {"text": TEXT, "coarse_label": datasets.ClassLabel(names=names)}
    rows = {"text": ["Who?", "What?"], "coarse_label": [3, 1]}
    place = saved(tmp_path / "trec", train=(rows, features), test=(rows, features))
    data = load_task("trec", place)
    assert [data.label_names[label] for label in data.splits["dev"].labels] == ["HUM", "ENTY"]
    features["label"] = CLASSES
    rows |= {"label": [0, 0], "sentence1": ["a", "a"], "sentence2": ["a", "a"]}
    features |= {"sentence1": TEXT, "sentence2": TEXT}
    place = saved(tmp_path / "none", train=(rows, features), test=(rows, features))
    with pytest.raises(ConfigError, match="has no split validation or dev or valid or val; there"):
        load_task("text", place)
    place = saved(tmp_path / "three", train=(rows, features), validation=(rows, features))
    with pytest.raises(DataError, match="has the classes neg, pos, mixed; expected entailment, no"):
        load_task("rte", place)


@pytest.mark.parametrize("task", ["squad", "squad_v2"])
def test_squad_has_the_same_answers(task, tmp_path):
    """A row for each question, with lists of answers, against the official tree."""
    answers = {"text": ["light", "the light"], "answer_start": [4, 0]}
    none = {"text": [], "answer_start": []}
    rows = {
        "id": ["1", "2"],
        "title": ["t", "t"],
        "context": ["the light"] * 2,
        "question": [" What?", "Who?"],
        "answers": [answers, none if task == "squad_v2" else answers],
    }
    held = {"text": datasets.List(TEXT), "answer_start": datasets.List(datasets.Value("int32"))}
    features = {**dict.fromkeys(("id", "title", "context", "question"), TEXT), "answers": held}
    data = load_task(
        task, saved(tmp_path / "s", train=(rows, features), validation=(rows, features))
    )
    (tmp_path / "files").mkdir()
    qas = [
        {
            "id": name,
            "question": question,
            "answers": [
                {"text": text, "answer_start": start}
                for text, start in zip(found["text"], found["answer_start"], strict=True)
            ],
        }
        for name, question, found in zip(rows["id"], rows["question"], rows["answers"], strict=True)
    ]
    tree = {"data": [{"paragraphs": [{"context": "the light", "qas": qas}]}]}
    for split in ("train", "dev"):
        (tmp_path / "files" / f"{split}.json").write_text(json.dumps(tree))
    files = load_task(task, tmp_path / "files")
    for split in ("train", "dev"):
        assert data.splits[split].fingerprint() == files.splits[split].fingerprint()
        assert data.splits[split].questions == ["What?", "Who?"]


def test_no_code_of_a_data_set_is_run(tmp_path, monkeypatch):
    """A folder with a script, as the Hub had them, and an old library that would have run it."""
    place = tmp_path / "evil"
    place.mkdir()
    (place / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(ConfigError, match="cannot be opened"):
        load_task("text", f"hf:{place}")
    assert not (tmp_path / "ran").exists()
    monkeypatch.setattr(datasets, "__version__", "3.6.0")
    with pytest.raises(ConfigError, match=r"version 4 or later \(3\.6\.0 here\)"):
        load_task("text", f"hf:{place}")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"\(not installed here\); run PTFT_EXTRAS=hf bash"):
        load_task("text", f"hf:{place}")


@pytest.mark.parametrize(
    ("task", "data_dir", "said"),
    [
        ("text", "hf:a/b/c/d", "expected hf:[ORGANISATION/]NAME[/CONFIG]"),
        ("text", "hf:", "expected hf:[ORGANISATION/]NAME[/CONFIG]"),
        ("snips", "hf:", "none is known of this task"),
        ("text", "hf:nobody/nothing", "cannot be opened"),
    ],
)
def test_names_that_lead_nowhere(task, data_dir, said, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError) as error:
        load_task(task, data_dir)
    assert said in str(error.value)


def test_tfds_that_is_not_prepared(tmp_path, monkeypatch):
    """How to prepare it is said, and nothing is fetched."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(ConfigError, match="tfds build super_glue/boolq --file_format=array_record"):
        load_task("boolq")
