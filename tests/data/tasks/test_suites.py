"""Tasks beyond GLUE, on real files and on small ones in the official format."""

import json

import pytest

from ptft_jax.data.tasks.catalogue import TASKS, load_task
from ptft_jax.data.tasks.table import TableSettings
from ptft_jax.errors import ConfigError, DataError


def write(path, *records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


@pytest.mark.parametrize(
    ("task", "suite", "rows", "dev"),
    [
        ("cb", "superglue", 250, 56),
        ("wic", "superglue", 5428, 638),
        ("multirc", "superglue", 27243, 4848),
        ("tnews", "clue", 1185, 1098),
        ("eprstmt", "clue", 160, 160),
        ("bustm", "clue", 160, 160),
        ("cluewsc", "clue", 160, 159),
    ],
)
def test_real_files_are_read_whole(task, suite, rows, dev, shared_data):
    """As many examples as the benchmark has, with all labels in use."""
    data = load_task(task, shared_data / suite)
    assert (len(data.splits["train"]), len(data.splits["dev"])) == (rows, dev)
    assert set(data.splits["train"].labels) == set(range(len(data.label_names)))


def test_the_words_asked_about_are_marked(tmp_path):
    """What a record says beside its texts must reach the model: word, noun and pronoun."""
    wic = {"word": "bank", "sentence1": "A bank.", "sentence2": "The bank.", "label": True}
    winograd = {
        "text": "Mark told Pete many lies about himself .",
        "target": {
            "span1_text": "Mark told",
            "span1_index": 0,
            "span2_text": "himself",
            "span2_index": 6,
        },
        "label": False,
    }
    chinese = {
        "text": "树叶飘入树林,他走来",
        "target": {"span1_text": "树叶", "span1_index": 0, "span2_text": "他", "span2_index": 7},
        "label": "true",
    }
    for split in ("train", "val"):
        write(tmp_path / "WiC" / f"{split}.jsonl", wic)
        write(tmp_path / "WSC" / f"{split}.jsonl", winograd)
    for split in ("train", "dev"):
        write(tmp_path / "cluewsc" / f"{split}.json", chinese)
    dev = load_task("wic", tmp_path).splits["dev"]
    assert (dev.texts_a, dev.texts_b, list(dev.labels)) == (["bank: A bank."], ["The bank."], [1])
    dev = load_task("wsc", tmp_path).splits["dev"]
    assert (dev.texts_a, list(dev.labels)) == (
        ["_Mark told_ Pete many lies about [himself] ."],
        [0],
    )
    dev = load_task("cluewsc", tmp_path).splits["dev"]
    assert (dev.texts_a, list(dev.labels)) == (["_树叶_飘入树林,[他]走来"], [1])


def test_each_answer_of_a_question_is_a_row(tmp_path):
    """MultiRC scores a question by all of its answers, so each row knows its question."""
    answers = [{"text": "one", "label": 1}, {"text": "two", "label": 0}]
    questions = [{"question": f"Q{n}?", "answers": answers, "idx": n} for n in range(2)]
    record = {"idx": 7, "passage": {"text": "P.", "questions": questions}}
    for split in ("train", "val"):
        write(tmp_path / "MultiRC" / f"{split}.jsonl", record)
    for question in questions:
        question["answers"] = [{"text": answer["text"]} for answer in answers]
    write(tmp_path / "MultiRC" / "test.jsonl", record)
    data = load_task("multirc", tmp_path)
    dev = data.splits["dev"]
    assert dev.texts_b == ["Q0? one", "Q0? two", "Q1? one", "Q1? two"]
    assert list(dev.groups) == [0, 0, 1, 1]
    assert list(dev.labels) == [1, 0, 1, 0]
    assert not data.splits["test"].labelled


def test_rows_without_a_label_that_annotators_agree_on(tmp_path):
    """OCNLI marks them '-': they teach nothing and are no error."""
    rows = [
        {"sentence1": "甲", "sentence2": "乙", "label": label}
        for label in ("neutral", "-", "entailment")
    ]
    write(tmp_path / "ocnli" / "train.50k.json", *rows)
    write(tmp_path / "ocnli" / "dev.json", *rows)
    dev = load_task("ocnli", tmp_path).splits["dev"]
    assert dev.texts_a == ["甲", "甲"]
    assert list(dev.labels) == [1, 0]


def test_keywords_and_numbered_labels(tmp_path):
    """CSL asks whether keywords belong to an abstract, IFLYTEK's classes are numbers."""
    csl = {"id": 1, "abst": "摘要", "keyword": ["甲", "乙"], "label": "1"}
    app = {"label": "118", "label_des": "其他", "sentence": "应用"}
    for split in ("train", "dev"):
        write(tmp_path / "csl" / f"{split}.json", csl)
        write(tmp_path / "iflytek" / f"{split}.json", app)
    dev = load_task("csl", tmp_path).splits["dev"]
    assert (dev.texts_a, dev.texts_b, list(dev.labels)) == (["甲 乙"], ["摘要"], [1])
    assert list(load_task("iflytek", tmp_path).splits["dev"].labels) == [118]


def test_one_language_of_xnli(tmp_path):
    """Dev holds all languages in one file, the translated train files one each."""
    folder = tmp_path / "XNLI"
    folder.mkdir()
    (folder / "multinli.train.de.tsv").write_text(
        "premise\thypo\tlabel\nEs regnet.\tEs ist nass.\tentailment\nJa.\tNein.\tcontradictory\n"
    )
    (folder / "xnli.dev.tsv").write_text(
        "language\tgold_label\tsentence1\tsentence2\n"
        "fr\tneutral\tOui.\tNon.\nde\tneutral\tJa.\tJa.\n"
    )
    data = load_task("xnli_de", tmp_path)
    assert list(data.splits["train"].labels) == [0, 2]
    assert data.splits["dev"].texts_a == ["Ja."]


def test_questions_and_reviews_in_their_own_layouts(tmp_path):
    """TREC's lines begin with the label; IMDB has a folder for each, and one without labels."""
    for name in ("train_5500", "TREC_10"):
        (tmp_path / f"{name}.label").write_bytes(
            "LOC:city Where is Besan\u00e7on ?\n".encode("latin-1")
        )
    dev = load_task("trec", tmp_path).splits["dev"]
    assert (dev.texts_a, list(dev.labels)) == (["Where is Besançon ?"], [4])
    for split in ("train", "test"):
        for label in ("neg", "pos", "unsup"):
            folder = tmp_path / "aclImdb" / split / label
            folder.mkdir(parents=True)
            (folder / "0_1.txt").write_text(f"A {label} film.")
    data = load_task("imdb", tmp_path)
    assert data.splits["train"].texts_a == ["A neg film.", "A pos film."]
    assert list(data.splits["dev"].labels) == [0, 1]


def test_folders_of_texts_of_ones_own(tmp_path):
    """Many data sets are a folder of files for each class."""
    for split in ("train", "dev"):
        for label in ("spam", "ham"):
            folder = tmp_path / split / label
            folder.mkdir(parents=True)
            (folder / "a.txt").write_text(f"{label} {split}\nsecond line")
    data = load_task("text", tmp_path)
    assert data.label_names == ("ham", "spam")
    assert data.splits["dev"].texts_a == ["ham dev\nsecond line", "spam dev\nsecond line"]
    with pytest.raises(DataError, match="no column 'review'"):
        load_task("text", tmp_path, TableSettings(text_column="review"))


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_several_labels_a_text(suffix, tmp_path):
    """Labels of a row in any number, none at all included."""
    rows = [("a", ["x", "y"]), ("b", []), ("c", ["z"])]
    for split in ("train", "dev"):
        if suffix == ".csv":
            lines = ["text,label", *(f"{text},{'|'.join(labels)}" for text, labels in rows)]
            (tmp_path / f"{split}.csv").write_text("\n".join(lines) + "\n")
        else:
            write(tmp_path / f"{split}.jsonl", *({"text": t, "label": ls} for t, ls in rows))
    data = load_task("text", tmp_path, TableSettings(multi_label=True))
    assert data.label_names == ("x", "y", "z")
    assert data.problem_type == "multi_label_classification"
    assert data.splits["dev"].labels.tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]
    with pytest.raises(ConfigError, match="both set"):
        load_task("text", tmp_path, TableSettings(multi_label=True, regression=True))


def test_a_record_of_another_task_is_named(tmp_path):
    """A file that lies in the wrong folder: which file, which line, and what it holds."""
    for split in ("train", "val"):
        write(tmp_path / "WiC" / f"{split}.jsonl", {"premise": "A.", "label": 0})
    with pytest.raises(DataError, match=r"train\.jsonl, line 1: .*there are: premise, label"):
        load_task("wic", tmp_path)
    with pytest.raises(ConfigError, match=r"'snips' needs --config\.data_dir"):
        load_task("snips")


def test_every_row_says_its_kind():
    """Commands find a task's module by it."""
    assert {task.kind for task in TASKS.values()} >= {"classification"}
