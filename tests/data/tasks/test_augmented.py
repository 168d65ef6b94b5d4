"""Texts that are changed keep labels and form, and an index always has the same changes."""

import numpy as np
import pytest
from tokenizer_checks import wordpiece

from ptft_jax.data.tasks.choice import ChoiceExamples, ChoiceSplit
from ptft_jax.data.tasks.classification import ClassificationExamples
from ptft_jax.data.tasks.table import Split
from ptft_jax.data.tasks.training.augmented import Augmentation, Augmented
from ptft_jax.data.tasks.training.packed import PackedExamples
from ptft_jax.data.tokenizer.models import BERT_TOKENS
from ptft_jax.errors import ConfigError

WORDS = [f"{a}{b}" for a in "abcdefgh" for b in "klmnop"]
# Words of "z" are of two tokens.
TOKENIZER = wordpiece([*BERT_TOKENS, *WORDS, "z", *(f"##{word}" for word in WORDS)])
RNG = np.random.default_rng(0)


def text(words):
    return " ".join(str(RNG.choice(["", "z"])) + str(RNG.choice(WORDS)) for _ in range(words))


FIRST = [text(n) for n in RNG.integers(1, 20, 200)]
SECOND = [text(n) for n in RNG.integers(1, 9, 200)]
LABELS = np.arange(200, dtype=np.int32) % 2


def examples(settings, pairs=True, seed=3, **more):
    split = Split(FIRST, SECOND if pairs else None, LABELS, "texts")
    found = ClassificationExamples(split, TOKENIZER, 96, length_buckets=(), seed=seed, **more)
    return Augmented(found, TOKENIZER, Augmentation(**settings), seed)


def texts_of(batch):
    """The words of each text of each row, and whether it begins and ends with special tokens."""
    found = []
    for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
        length = mask.sum()
        assert (mask[:length] == 1).all()
        assert (ids[length:] == TOKENIZER.pad_token_id).all()
        shown = TOKENIZER.decode(ids[:length])
        assert shown.startswith("[CLS] ")
        assert shown.endswith("[SEP]")
        found.append([part.split() for part in shown[6:].split("[SEP]")[:-1]])
    return found


def changed(settings, epoch=0):
    rows = np.arange(200) + 200 * epoch
    before = texts_of(examples({}).batch(rows))
    return before, texts_of(examples(settings).batch(rows))


def test_nothing_asked_is_nothing_changed():
    plain, same = examples({}), examples({})._examples
    for name, value in same.batch(np.arange(200)).items():
        np.testing.assert_array_equal(plain.batch(np.arange(200))[name], value)


def test_words_that_are_left_out():
    """About as many as asked for, whole ones, and never all of a text."""
    before, after = changed({"word_dropout": 0.3})
    counts = []
    for old, new in zip(before, after, strict=True):
        for words, left in zip(old, new, strict=True):
            assert left
            rest = iter(words)
            assert all(word in rest for word in left)  # a subsequence
            if len(words) > 8:
                counts.append(1 - len(left) / len(words))
    assert np.mean(counts) == pytest.approx(0.3, abs=0.03)


def test_words_that_change_places():
    """Neighbours of one text; half of all pairs could, of which about the share asked for does."""
    before, after = changed({"swap": 0.5})
    moved = total = 0
    for old, new in zip(before, after, strict=True):
        for words, left in zip(old, new, strict=True):
            assert sorted(words) == sorted(left)
            for place, word in enumerate(left):
                assert word in words[max(0, place - 1) : place + 2]
            moved += sum(one != other for one, other in zip(words, left, strict=True))
            total += len(words)
    assert moved / total == pytest.approx(0.45, abs=0.05)


def test_tokens_that_are_masked():
    """Never special ones."""
    rows = np.arange(200)
    before, after = examples({}).batch(rows), examples({"token_dropout": 0.2}).batch(rows)
    masked = after["input_ids"] != before["input_ids"]
    assert (after["input_ids"][masked] == TOKENIZER.mask_token_id).all()
    special = np.isin(before["input_ids"], TOKENIZER.special_ids)
    assert not (masked & special).any()
    assert masked.sum() / (~special).sum() == pytest.approx(0.2, abs=0.02)


ALL = {"swap": 0.3, "word_dropout": 0.2, "token_dropout": 0.1}


def test_a_function_of_seed_and_index():
    """Whatever the batch; each epoch and each seed has others."""
    some = examples(ALL, shuffle=True)
    whole = some.batch(np.arange(100, 140))
    part = some.batch(np.arange(110, 120))
    for name in ("input_ids", "attention_mask", "token_type_ids", "labels"):
        np.testing.assert_array_equal(whole[name][10:20], part[name])
    again = examples(ALL).batch(np.arange(200, 240))
    assert (again["input_ids"] != examples(ALL).batch(np.arange(40))["input_ids"]).any(axis=1).all()
    np.testing.assert_array_equal(again["labels"][:, 0], LABELS[:40])
    types = [(row["token_type_ids"] * row["attention_mask"]).sum(axis=1) for row in (again,)]
    assert (types[0] >= 2).all()  # a word and [SEP] of the second text


def test_choices_keep_their_places():
    """Each choice begins at its pooled position and counts from there, packed as well."""
    choices = [[text(3), text(6)], [text(2), text(4), text(1)]] * 10
    split = ChoiceSplit(["" for _ in choices], choices, np.zeros(20, np.int32), "texts")
    plain = ChoiceExamples(split, TOKENIZER, 32)
    found = Augmented(plain, TOKENIZER, Augmentation(**ALL), 0)
    for some in (found, PackedExamples(found, TOKENIZER.pad_token_id, 20)):
        batch = some.batch(np.arange(20))
        ids, segments = batch["input_ids"], batch["segment_ids"]
        is_choice = batch["choice_mask"].reshape(len(ids), -1) > 0
        places = batch["pooled_positions"].reshape(len(ids), -1)
        assert is_choice.sum() == 50
        rows, columns = np.nonzero(ids == TOKENIZER.cls_token_id)
        assert len(rows) == 50
        for row in range(len(ids)):
            np.testing.assert_array_equal(places[row][is_choice[row]], columns[rows == row])
            for number in np.unique(segments[row])[1:]:
                own = batch["position_ids"][row][segments[row] == number]
                np.testing.assert_array_equal(own, np.arange(len(own)))


@pytest.mark.parametrize("value", [-0.1, 1.0, float("nan")])
def test_probabilities_that_cannot_be(value):
    with pytest.raises(ConfigError, match=r"augment.swap=.*expected a probability from 0"):
        Augmentation(swap=value)
