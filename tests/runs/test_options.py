"""Options of fine-tuning in whole runs: few examples, rare classes, smoothed labels."""

import json

import pytest
from command_line import finetune_flags, results, run, sentences
from small_encoder import write_encoder

TEXTS = [text for text, _ in sentences(48, 1)]
# Three in four are of the first class.
LABELS = [["plain", "rare"][number % 4 == 0] for number in range(len(TEXTS))]


def table(folder):
    rows = [{"text": text, "label": label} for text, label in zip(TEXTS, LABELS, strict=True)]
    return "text.py", "jsonl", "".join(json.dumps(row) + "\n" for row in rows)


def several(folder):
    rows = [{"text": text, "label": [label]} for text, label in zip(TEXTS, LABELS, strict=True)]
    return "text.py", "jsonl", "".join(json.dumps(row) + "\n" for row in rows)


def numbers(folder):
    rows = [{"text": text, "label": number} for number, text in enumerate(TEXTS)]
    return "text.py", "jsonl", "".join(json.dumps(row) + "\n" for row in rows)


def tags(folder):
    rows = ["\n".join(f"{word} {'X' if word > 's' else 'Y'}" for word in t.split()) for t in TEXTS]
    return "tagging.py", "conll", "\n\n".join(rows)


def choices(folder):
    rows = [{"context": text, "choices": TEXTS[:3], "label": n % 3} for n, text in enumerate(TEXTS)]
    return "choice.py", "jsonl", "".join(json.dumps(row) + "\n" for row in rows)


def questions(folder):
    qas = [
        {"id": str(n), "question": "what is", "answers": [{"text": "the", "answer_start": 0}]}
        for n in range(2)
    ]
    paragraphs = [{"context": TEXTS[0], "qas": qas[:1]}, {"context": TEXTS[1], "qas": qas[1:]}]
    return "squad.py", "json", json.dumps({"data": [{"paragraphs": paragraphs}]})


KINDS = [table, several, numbers, tags, choices, questions]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a tiny encoder and a folder of data of each kind."""
    place = tmp_path_factory.mktemp("options")
    write_encoder(place / "hf", TEXTS)
    for kind in KINDS:
        _, suffix, text = kind(place)
        (place / kind.__name__).mkdir()
        for split in ("train", "dev"):
            (place / kind.__name__ / f"{split}.{suffix}").write_text(text)
    return place


def tune(place, kind, name, **changes):
    keys = {"eval_every": 0, **changes}
    if kind is numbers:
        keys["table.regression"] = True
    if kind is several:
        keys["table.multi_label"] = True
    if kind is questions:
        keys |= {"doc_stride": 2, "max_query_length": 4, "max_seq_length": 32, "steps": 1}
    flags = finetune_flags(kind(place)[0], place / kind.__name__, place / "hf", place / name)
    return run(*flags, *(f"--config.{key}={value}" for key, value in keys.items()))


@pytest.mark.parametrize(
    ("kind", "changes", "said"),
    [
        (table, {"max_train_examples": 16}, "16 training examples of 48 (drawn by seed 0)"),
        (table, {"examples_per_class": 4}, "8 training examples of 48 (drawn by seed 0)"),
        (table, {"class_weights": "balanced"}, "class weights: plain 0.6667, rare 2"),
        (several, {"class_weights": "balanced"}, "class weights: plain 0.3333, rare 3"),
        (tags, {"class_weights": '{"X": 3}'}, "class weights: X 3, Y 1"),
        (choices, {"max_train_examples": 16, "label_smoothing": 0.1}, "16 training examples of 48"),
        (questions, {"max_train_examples": 1}, "1 training examples of 2 (drawn by seed 0)"),
    ],
)
def test_options_of_each_kind(place, kind, changes, said, capsys):
    """They are said on the screen, change what is learnt, and scores stay those of the task."""
    number = len(list(place.iterdir()))
    assert tune(place, kind, f"run{number}", **changes) == 0
    assert said in " ".join(capsys.readouterr().out.split())
    again = results(place / f"run{number}")
    # As other data, of which the run drew its examples; its loss has no weights.
    flags = (f"--run_dir={place}/run{number}", f"--data_dir={place / kind.__name__}")
    assert run("evaluate", *flags) == 0
    assert f"{again['dev']['loss']:.4f}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("kind", "changes", "said"),
    [
        (table, {"examples_per_class": 13}, "the class 'rare' has 12 training examples"),
        (table, {"examples_per_class": 2, "max_train_examples": 4}, "are both set"),
        (table, {"max_train_examples": -1}, "max_train_examples=-1: expected at least 0"),
        (table, {"label_smoothing": 1.5}, "label_smoothing=1.5: expected a share from 0 to 1"),
        (table, {"class_weights": "1,2,3"}, "3 weights for 2 labels"),
        (numbers, {"class_weights": "balanced"}, "is a regression: leave it out"),
        (numbers, {"examples_per_class": 2}, "is a regression: leave it out"),
        (several, {"label_smoothing": 0.1}, "is a multi label classification: leave it out"),
        (choices, {"class_weights": "balanced"}, "has no key 'class_weights'"),
        (questions, {"label_smoothing": 0.1}, "has no key 'label_smoothing'"),
        (tags, {"examples_per_class": 2}, "has no key 'examples_per_class'"),
    ],
)
def test_options_that_cannot_be(place, kind, changes, said, capsys):
    """One message, before anything is compiled or written."""
    assert tune(place, kind, "refused", **changes) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not (place / "refused").exists()


def test_a_run_on_a_data_set_that_datasets_saved(place, capsys):
    """The classes are ClassLabel's in its order, and other examples are other data."""
    datasets = pytest.importorskip("datasets")
    features = {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["z", "a"])}

    def save(texts):
        labels = [n % 2 for n in range(len(texts))]
        rows = datasets.Dataset.from_dict({"text": texts, "label": labels})
        rows = rows.cast(datasets.Features(features))
        both = datasets.DatasetDict({"train": rows, "validation": rows})
        both.save_to_disk(place / "saved" / str(len(texts)))

    save(TEXTS)
    save(TEXTS[:40])
    flags = finetune_flags("text.py", place / "saved" / "48", place / "hf", place / "of_saved")
    assert run(*flags) == 0
    assert json.loads((place / "of_saved" / "config.json").read_text())["labels"] == ["z", "a"]
    assert run("evaluate", f"--run_dir={place}/of_saved") == 0
    capsys.readouterr()
    assert run(*flags, f"--config.data_dir={place / 'saved' / '40'}") == 2
    assert "data.train" in capsys.readouterr().err


def test_a_run_goes_on_with_its_own_subset_only(place, capsys):
    """Other examples are other data, whichever option or file they come from."""
    keys = {"steps": 4, "checkpoint_every": 2}
    assert tune(place, table, "subset", **keys, max_train_examples=16) == 0
    assert tune(place, table, "subset", **keys, max_train_examples=24) == 2
    assert "data.train" in capsys.readouterr().err
