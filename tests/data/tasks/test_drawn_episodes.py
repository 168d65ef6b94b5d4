"""Episodes: what they are drawn from, what they hold, and sentences with two entities."""

import json

import numpy as np
import pytest
from tokenizer_checks import wordpiece

from ptft_jax.data.tasks.catalogue import load_task
from ptft_jax.data.tasks.episodes.drawing import Episodes, EpisodeShape
from ptft_jax.data.tasks.episodes.examples import EpisodeExamples
from ptft_jax.data.tasks.episodes.splits import (
    EpisodeSettings,
    EpisodeSplit,
    read_episodes,
    with_markers,
)
from ptft_jax.data.tokenizer.models import BERT_TOKENS
from ptft_jax.errors import ConfigError, DataError

SHAPE = EpisodeShape(n_way=3, k_shot=2, queries=4, na_rate=0.5)


def split_of(counts):
    """Returns texts "c0 t0", "c0 t1", … of classes of these sizes, in a mixed order."""
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    texts = [f"c{label} t{number}" for number, label in enumerate(labels)]
    names = tuple(f"c{label}" for label in range(len(counts)))
    return EpisodeSplit(texts, labels.astype(np.int32), names, None, "texts")


def test_an_episode_has_what_its_shape_says():
    split = split_of([6, 9, 7, 30, 8])
    episodes = Episodes(split, SHAPE, seed=3)
    rows = episodes.draw(np.arange(2000))
    assert rows.shape == (2000, SHAPE.size) == (2000, 3 * 2 + 3 * 4 + 2)
    labels = split.labels[rows]
    for row, classes in zip(rows, labels, strict=True):
        own = classes[:6:2]
        assert len(set(own)) == 3
        np.testing.assert_array_equal(classes[:6], own.repeat(2))
        np.testing.assert_array_equal(classes[6:18], own.repeat(4))
        assert not set(classes[18:]) & set(own)
        assert len(set(row[:18])) == 18  # no text is in its class twice, none asked that is known
    # Every class, and every text of a class, is drawn as often as another.
    assert np.bincount(labels[:, :6:2].ravel()) / 2000 == pytest.approx([0.6] * 5, abs=0.05)
    of_large = rows[:, :6][labels[:, :6] == 3]
    assert np.bincount(of_large, minlength=60)[split.labels == 3].min() > 40
    assert np.bincount(labels[:, 18:].ravel()) / 4000 == pytest.approx([0.2] * 5, abs=0.03)


def test_an_episode_is_a_function_of_seed_and_number():
    split = split_of([8, 8, 8, 8])
    episodes = Episodes(split, SHAPE, seed=3)
    rows = episodes.draw(np.arange(50))
    np.testing.assert_array_equal(episodes.draw(np.array([41, 7])), rows[[41, 7]])
    assert (Episodes(split, SHAPE, seed=4).draw(np.arange(50)) != rows).any(axis=1).all()


def test_examples_are_the_texts_of_episodes():
    split = split_of([6, 6, 6, 6])
    tokenizer = wordpiece([*BERT_TOKENS, *sorted({w for t in split.texts for w in t.split()})])
    episodes = Episodes(split, SHAPE, seed=0)
    examples = EpisodeExamples(split, tokenizer, 8, episodes=episodes)
    assert len(examples) == 2 * SHAPE.size  # 40 indices, of 24 texts
    batch = examples.batch(np.arange(SHAPE.size, 3 * SHAPE.size))
    drawn = episodes.draw(np.array([1, 2])).ravel()
    tokens = [tokenizer.encode_batch([split.texts[row]])[0] for row in drawn]
    np.testing.assert_array_equal(batch["input_ids"][:, 1:3], tokens)
    np.testing.assert_array_equal(batch["episodes"][:, 0], np.repeat([0, 1], SHAPE.size))
    np.testing.assert_array_equal(batch["query_weights"][:20, 0], [0] * 6 + [1] * 14)
    np.testing.assert_array_equal(
        batch["labels"][:20, 0], [0, 0, 1, 1, 2, 2, *[0] * 4, *[1] * 4, *[2] * 4, 3, 3]
    )


def sentence(words, head, tail):
    return {"tokens": words.split(), "h": ["H", "Q1", [head]], "t": ["T", "Q2", [tail]]}


def test_markers_stand_around_both_entities():
    one = with_markers(sentence("Ada met Charles Babbage .", [0], [2, 3]))
    assert " ".join(one.words) == "@ Ada @ met # Charles Babbage # ."
    assert (one.head, one.tail) == ((0, 2), (4, 7))
    turned = with_markers(sentence("Ada met Charles Babbage .", [2, 3], [0]))
    assert " ".join(turned.words) == "# Ada # met @ Charles Babbage @ ."
    inner = with_markers(sentence("New York Times @ work", [0, 1, 2], [1, 2]))
    assert " ".join(inner.words) == "@ New # York Times # @ @ work"
    assert (inner.head, inner.tail) == ((0, 6), (2, 5))
    outer = with_markers(sentence("Ada Byron wrote", [0], [0, 1]))
    assert " ".join(outer.words) == "# @ Ada @ Byron # wrote"
    assert (outer.head, outer.tail) == ((1, 3), (0, 5))
    both = with_markers(sentence("Ada Byron wrote", [1], [0, 1]))
    assert " ".join(both.words) == "# Ada @ Byron @ # wrote"
    with pytest.raises(ValueError, match="half of a surrogate pair"):
        with_markers(sentence("Ada \ud800", [0], [1]))


def test_sentences_are_cut_around_their_entities():
    """To 8 tokens: the end goes first, then the beginning, then what is between the entities."""
    words = [f"w{n}" for n in range(20)]
    tokenizer = wordpiece([*BERT_TOKENS, *words])  # which has no markers: they are unknown
    cases = {
        (0, 1): "? w0 ? ? w1 ?",
        (9, 10): "? w9 ? ? w10 ?",
        (1, 1): "w0 ? ? w1 ? ?",
        (19, 0): "? w0 ? ? w19 ?",
    }
    marked = [with_markers(sentence(" ".join(words), [h], [t])) for h, t in cases]
    split = EpisodeSplit(["" for _ in marked], None, (), marked, "sentences")
    examples = EpisodeExamples(split, tokenizer, 8, at_entities=True)
    batch = examples.batch(np.arange(len(cases)))
    names = {tokenizer.unk_token_id: "?"} | {
        tokenizer.encode_batch([word])[0][0]: word for word in words
    }
    for row, (places, kept) in enumerate(cases.items()):
        ids = batch["input_ids"][row, 1:7]
        assert " ".join(names[id] for id in ids.tolist()) == kept
        begins = batch["pooled_positions"][row, 0]
        # The word behind each marker is the entity's.
        behind = [names[batch["input_ids"][row, place + 1]] for place in begins]
        if places[0] != places[1]:
            assert behind == [f"w{place}" for place in places]
    assert examples.num_truncated == 4


def test_files_of_fewrel(tmp_path):
    """Relations have their names; a list has sentences alone; all forms of damage are named."""
    good = sentence("Ada met Charles .", [0], [2])
    (tmp_path / "pid2name.json").write_text('{"P1": ["met", "…"]}')
    for name in ("train_wiki", "val_wiki"):
        (tmp_path / f"{name}.json").write_text(json.dumps({"P1": [good], "P2": [good, good]}))
    task = load_task("fewrel", tmp_path)
    assert task.splits["dev"].names == ("met", "P2")
    np.testing.assert_array_equal(task.splits["dev"].labels, [0, 1, 1])
    assert task.splits["train"].texts[0] == "@ Ada @ met # Charles # ."
    listed = tmp_path / "list.json"
    listed.write_text(json.dumps([good]))
    assert read_episodes(listed, EpisodeSettings(), unlabelled=True).labels is None
    with pytest.raises(DataError, match="is a list of sentences; expected"):
        read_episodes(listed, EpisodeSettings())
    (tmp_path / "pid2name.json").write_text('{"P1": "met"}')
    with pytest.raises(DataError, match=r"expected {relation: .name, description., …}"):
        load_task("fewrel", tmp_path)
    (tmp_path / "pid2name.json").unlink()
    for content, words in (
        ({"P1": [good, {"tokens": ["a"], "h": []}]}, "'P1', sentence 1: .* has no tokens, h and t"),
        ({"P1": [good | {"t": ["", "", [[4]]]}]}, "expected places from 0 to 3"),
        ({"P1": [good | {"t": "Charles"}]}, "expected .name, id, "),
        ({"P1": [good | {"tokens": []}]}, "expected a list of words"),
        ({"P1": []}, "holds no list of sentences"),
        ({}, "holds no sentences"),
    ):
        listed.write_text(json.dumps(content))
        with pytest.raises(DataError, match=words):
            read_episodes(listed, EpisodeSettings())


def test_tables_have_classes_of_their_own_in_each_split(tmp_path):
    for split, labels in (("train", "ab"), ("dev", "cde")):
        rows = "".join(f"{label}{n},{label}\n" for label in labels for n in range(2))
        (tmp_path / f"{split}.csv").write_text("text,label\n" + rows)
    splits = load_task("episodes", tmp_path).splits
    assert {name: split.names for name, split in splits.items()} == {
        "train": ("a", "b"),
        "dev": ("c", "d", "e"),
    }
    (tmp_path / "test.csv").write_text("text,label\na,-1\n,-1\n")
    assert not load_task("episodes", tmp_path).splits["test"].labelled
    (tmp_path / "test.csv").write_text("text,lable\na,a\n")
    assert not load_task("episodes", tmp_path).splits["test"].labelled
    (tmp_path / "dev.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"holds dev.json and dev.csv"):
        load_task("episodes", tmp_path)
    (tmp_path / "train.csv").write_text("text,lable\na,a\n")
    with pytest.raises(DataError, match=r"no column 'label' \(did you mean 'lable'"):
        load_task("episodes", tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"k_shot": 5}, "the class 'c0' has 8 texts, and an episode takes 9 of a class"),
        ({"n_way": 4}, "has 4 classes, and an episode takes 4 .* and another one"),
        ({"n_way": 1}, "n_way=1: expected a whole number of at least 2"),
        ({"na_rate": 0.2}, "na_rate=0.2: expected 0, or .* at least 1 / episode.queries = 0.25"),
        ({"queries": 0}, "queries=0: expected"),
    ],
)
def test_what_cannot_be_drawn(changes, words):
    with pytest.raises(ConfigError, match=words):
        Episodes(split_of([8, 9, 9, 9]), EpisodeShape(**{**SHAPE.__dict__, **changes}), 0)
