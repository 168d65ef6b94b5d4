"""Multiple choice: what is read, and the packed rows that are made of it."""

import json

import numpy as np
import pytest
from tokenizer_checks import wordpiece

from ptft_jax.data.tasks.catalogue import load_task
from ptft_jax.data.tasks.choice import ChoiceExamples, ChoiceSettings, ChoiceSplit
from ptft_jax.data.tasks.classification import ClassificationExamples
from ptft_jax.data.tasks.table import Split
from ptft_jax.data.tokenizer.models import BERT_TOKENS
from ptft_jax.errors import ConfigError, DataError


def write(path, *records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


def test_copa(shared_data):
    """The benchmark's counts, and its question in words."""
    data = load_task("copa", shared_data / "superglue")
    dev = data.splits["dev"]
    assert (len(data.splits["train"]), len(dev)) == (400, 100)
    assert dev.contexts[0] == "The man turned on the faucet. What happened as a RESULT?"
    assert dev.choices[0] == ["The toilet filled with water.", "Water flowed from the spout."]
    assert dev.labels[0] == 1


def test_several_right_choices(tmp_path):
    """ReCoRD: an entity has several names, each of which is an answer."""
    text = "Ann Lee met Bob. Lee laughed.\n@highlight\nAnn Lee won"
    entities = [{"start": 0, "end": 6}, {"start": 12, "end": 14}, {"start": 17, "end": 19}]
    answers = [{"text": "Lee"}, {"text": "Ann Lee"}]
    queries = [{"query": "@placeholder laughed", "answers": answers}]
    record = {"passage": {"text": text, "entities": entities}, "qas": queries}
    for split in ("train", "val"):
        write(tmp_path / "ReCoRD" / f"{split}.jsonl", record)
    dev = load_task("record", tmp_path).splits["dev"]
    assert dev.choices == [["Ann Lee laughed", "Bob laughed", "Lee laughed"]]
    assert dev.is_right.tolist() == [[True, False, True]]
    assert "@highlight" not in dev.contexts[0]


def test_chinese_choices(tmp_path):
    """C3 has two files a split and answers as texts; CHID asks for the idiom in a gap."""
    question = {"question": "谁?", "choice": ["甲", "乙", "丙"], "answer": "丙"}
    (tmp_path / "c3").mkdir()
    for kind in "dm":
        for split in ("train", "dev"):
            entry = [[[f"{kind}说:", "好"], [question], "1"]]
            (tmp_path / "c3" / f"{kind}-{split}.json").write_text(json.dumps(entry))
    dev = load_task("c3", tmp_path).splits["dev"]
    assert dev.contexts == ["d说: 好", "m说: 好"]
    assert dev.choices[0] == ["谁? 甲", "谁? 乙", "谁? 丙"]
    assert list(dev.labels) == [2, 2]
    (tmp_path / "c3" / "test.json").write_text(json.dumps([[["好"], [question]]]))
    assert len(load_task("c3", tmp_path).splits["test"]) == 1
    (tmp_path / "c3" / "test.json").write_text(json.dumps([entry[0], {"text": "好"}]))
    with pytest.raises(
        DataError, match=r"test\.json, entry 2: .*; expected \[\[text, …\], \[quest"
    ):
        load_task("c3", tmp_path)
    record = {"content": "他#idiom#。", "candidates": ["一目了然", "画蛇添足"], "answer": 1}
    for split in ("train", "dev"):
        write(tmp_path / "chid" / f"{split}.json", record)
    dev = load_task("chid", tmp_path).splits["dev"]
    assert (dev.contexts, dev.choices) == ([""], [["他一目了然。", "他画蛇添足。"]])


def test_swag_and_tables_of_ones_own(tmp_path):
    """SWAG's columns; a table has them under any name, in a CSV one for each choice."""
    head = ",video-id,sent1,sent2,ending0,ending1,ending2,ending3,label\n"
    for name in ("train", "val"):
        (tmp_path / f"{name}.csv").write_text(
            head + "0,v,A man sits.,He,runs,sings,eats,sleeps,2\n"
        )
    dev = load_task("swag", tmp_path).splits["dev"]
    assert (dev.contexts, dev.choices[0][2], list(dev.labels)) == (["A man sits."], "He eats", [2])
    own = tmp_path / "own"
    own.mkdir()
    for name in ("train", "dev"):
        (own / f"{name}.csv").write_text("q,option0,option1,right\nWho?,me,you,you\n")
    (own / "test.csv").write_text("q,option0,option1\nWho?,me,you\n")
    data = load_task("choice", own, ChoiceSettings("q", "option", "right"))
    assert data.splits["dev"].choices == [["me", "you"]]
    assert list(data.splits["dev"].labels) == [1]
    assert not data.splits["test"].labelled


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"context": "A.", "choices": ["x"], "label": 0}, "expected a list of at least two"),
        ({"context": "A.", "choices": ["x", "y"], "label": 2}, "a number from 0 to 1, or one of"),
        ({"context": "A.", "choices": ["x", 3], "label": 0}, "3 is no text"),
        ({"choices": ["x", "y"], "label": 0}, "KeyError.*there are: choices, label"),
        ({"context": "A.", "choices": ["x", "y"], "label": []}, "no choice is right"),
        ({"context": "A.", "choices": ["x", " "], "label": 0}, "expected no empty one"),
        ({"context": "A.", "options": ["x", "y"], "label": 0}, "KeyError.*there are: context, opt"),
    ],
)
def test_bad_rows_are_named(record, message, tmp_path):
    """File and line of what does not fit."""
    good = {"context": "A.", "choices": ["x", "y"], "label": 1}
    write(tmp_path / "train.jsonl", good, record)
    write(tmp_path / "dev.jsonl", good)
    with pytest.raises(DataError, match=rf"train\.jsonl, line 2: .*{message}"):
        load_task("choice", tmp_path)
    with pytest.raises(ConfigError, match="'choice' needs a folder with train and dev"):
        load_task("choice")


def test_a_row_holds_its_choices_one_behind_the_other():
    """Each segment is what the choice would be in a row of its own, and nothing else is there."""
    words = ("the", "a", "old", "man", "sea", "boat", "fish", "was", "very", "large", "and")
    tokenizer = wordpiece([*BERT_TOKENS, *words])
    split = ChoiceSplit(
        ["the old man", "a sea"],
        [["the boat", "a fish was very large and old", "sea"], ["old", "the man"]],
        np.array([1, 0], np.int32),
        "test",
    )
    examples = ChoiceExamples(split, tokenizer, 12, length_buckets=(8,))
    assert examples.buckets == (24, 36)
    assert examples.num_truncated == 1
    batch = examples.batch(np.arange(2))
    assert batch["choice_mask"].tolist() == [[[1, 1, 1]], [[1, 1, 0]]]
    assert batch["labels"].tolist() == [[1], [0]]
    for row, choices in enumerate(split.choices):
        alone = ClassificationExamples(
            Split([split.contexts[row]] * len(choices), choices, None, "test"), tokenizer, 12
        ).batch(np.arange(len(choices)))
        for choice in range(len(choices)):
            here = batch["segment_ids"][row] == choice + 1
            real = alone["attention_mask"][choice] > 0
            for name in ("input_ids", "token_type_ids"):
                assert batch[name][row][here].tolist() == alone[name][choice][real].tolist()
            assert batch["position_ids"][row][here].tolist() == list(range(real.sum()))
            assert np.flatnonzero(here)[0] == batch["pooled_positions"][row, 0, choice]
        padding = batch["segment_ids"][row] == 0
        assert not batch["attention_mask"][row][padding].any()
        assert (batch["input_ids"][row][padding] == tokenizer.pad_token_id).all()
