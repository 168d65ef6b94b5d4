"""Pretraining examples are whole, new in every epoch, and exactly reproducible by index."""

from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from small_corpus import FIRST, SmallCorpus, random_documents, unmasked_ids

from ptft_jax.data.batches import Batches
from ptft_jax.data.pretraining import packing as packing_module
from ptft_jax.data.pretraining.examples import FORMATS, PretrainingExamples, PretrainingSettings
from ptft_jax.data.pretraining.masking import MaskingSettings
from ptft_jax.data.pretraining.pairs import truncated_lengths
from ptft_jax.errors import ConfigError, DataError

SETTINGS = PretrainingSettings(
    seed=3, max_seq_length=64, masking=MaskingSettings(max_predictions_per_seq=10)
)


def corpus_of(**changes):
    return SmallCorpus(random_documents(np.random.default_rng(0), 60), **changes)


def make(corpus, **changes):
    return PretrainingExamples(corpus, corpus.tokenizer(), replace(SETTINGS, **changes))


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("input_format", ["nsp", "doc_sentences"])
def test_shapes_and_types(packing, input_format):
    """What the model and the objective are built for: P examples and M predictions in a row."""
    examples = make(
        corpus_of(), packing=packing, input_format=input_format, max_sequences_per_pack=3
    )
    # Rounding gives each of three examples one prediction more than its share of a row, at most.
    pooled, predictions = (3, int(np.ceil(0.15 * 64)) + 3) if packing else (1, 10)
    names = ["input_ids", "attention_mask", "token_type_ids"]
    names += ["segment_ids", "position_ids"] if packing else []
    expected = {
        **dict.fromkeys(names, ((5, 64), np.int32)),
        "masked_lm_positions": ((5, predictions), np.int32),
        "masked_lm_ids": ((5, predictions), np.int32),
        "masked_lm_weights": ((5, predictions), np.float32),
    }
    if input_format == "nsp":
        expected |= {
            "pooled_positions": ((5, pooled), np.int32),
            "next_sentence_labels": ((5, pooled), np.int32),
            "next_sentence_weights": ((5, pooled), np.float32),
        }
    batch = examples.batch(np.arange(5))
    assert {name: (array.shape, array.dtype) for name, array in batch.items()} == expected
    used = batch["masked_lm_weights"] == 1
    assert not batch["masked_lm_positions"][~used].any()
    assert not batch["masked_lm_ids"][~used].any()


@pytest.mark.parametrize("window", [1 << 17, 20])
@pytest.mark.parametrize("packing", [False, True])
def test_a_run_goes_on_from_any_place(monkeypatch, packing, window):
    """A new process, in the middle of any epoch, makes what the old one would have made.

    What is kept of an epoch is made again when it is asked for again, by several threads at once;
    a source is visited more often than once in an epoch. A row depends on no batch and no process.
    """
    monkeypatch.setattr(packing_module, "WINDOW", window)
    corpus = corpus_of(sources=[20, 0, 40], weights=(2.5, 1.0, 0.5))
    first = make(corpus, packing=packing)
    size = len(first)
    whole = first.batch(np.arange(5 * size))
    for start in (size - 5, 2 * size + 7, 4 * size - 3):
        rows = np.arange(2, 6)
        own = partial(lambda own, count: own, rows)
        with (
            Batches(make(corpus, packing=packing), 10, start_index=start, workers=3) as batches,
            Batches(make(corpus, packing=packing), 10, start_index=start, rows=own) as some,
        ):
            resumed, parts = ([next(one) for _ in range(4)] for one in (batches, some))
        for name, array in whole.items():
            found = np.concatenate([batch[name] for batch in resumed])
            np.testing.assert_array_equal(found, array[start : start + 40])
            np.testing.assert_array_equal(parts[1][name], array[start + 12 : start + 16])
    for epoch in (4, 0, 3, 0):
        index = epoch * size + np.arange(size)[::-1]
        for name, array in first.batch(index).items():
            np.testing.assert_array_equal(array, whole[name][index])
    # Long after the beginning, and one by one.
    late = np.array([10**12, 2**45, size])
    for name, array in first.batch(late).items():
        alone = [make(corpus, packing=packing)[int(index)][name] for index in late]
        np.testing.assert_array_equal(alone, array)


def test_epochs_leave_out_hardly_a_sentence_and_begin_elsewhere():
    """Displaced sentences have a chunk of their own; chunks begin at other sentences each time.

    Left out is a sentence of which no token is in any row of the epoch. These sentences have five
    tokens and the targets are multiples of that, so that no pair is truncated: in text, that costs
    short sentences at the ends of a pair, as it does in the original.
    """
    rng = np.random.default_rng(4)
    corpus = SmallCorpus([[5] * int(rng.integers(1, 120)) for _ in range(400)])
    for length, packing in ((33, False), (33, True), (128, False), (128, True)):
        settings = replace(SETTINGS, max_seq_length=length, packing=packing)
        examples = PretrainingExamples(corpus, corpus.tokenizer(), settings)
        size = len(examples)
        never, begins = np.ones(corpus.num_sentences, bool), []
        for epoch in range(10):
            batch = examples.batch(np.arange(epoch * size, (epoch + 1) * size))
            ids = unmasked_ids(batch)
            sentence = (ids - FIRST) // 5
            seen = np.bincount(sentence[ids >= FIRST], minlength=corpus.num_sentences) > 0
            assert (~seen).mean() < 0.01
            never &= ~seen
            begins.append(set(sentence[:, 1][batch["attention_mask"][:, 0] == 1].tolist()))
        assert not never.any()
        for one, other in pairwise(begins):
            assert len(one & other) < 0.7 * len(one)


def test_seeds_give_other_examples():
    """Two seeds are two runs; the same seed is the same run."""
    corpus, index = corpus_of(), np.arange(20)
    one, again, other = (make(corpus, seed=s).batch(index)["input_ids"] for s in (3, 3, 4))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


def test_truncation_equals_the_loop_of_the_original():
    """The closed form against truncate_seq_pair, token by token, for all small lengths."""
    for most in (5, 8, 9):
        for a in range(1, 25):
            for b in range(1, 25):
                left = [a, b]
                while sum(left) > most:
                    left[0 if left[0] > left[1] else 1] -= 1
                found = truncated_lengths(np.array([a]), np.array([b]), most)
                assert [int(side[0]) for side in found] == left, (a, b, most)


def test_a_long_sentence_is_trimmed_on_both_sides():
    """Of 500 tokens at most 61 fit; which ones changes from epoch to epoch."""
    corpus = SmallCorpus([[500]] * 4)
    examples = make(corpus)
    ids = unmasked_ids(examples.batch(np.arange(40 * len(examples))))
    starts = (ids[:, 1] - FIRST) % 500
    assert len(set(starts.tolist())) > 10
    # The number cut in front is a sum of fair coins, around the half of what is cut.
    assert 200 < starts.mean() < 270


def test_the_share_of_random_pairs_is_known_beforehand():
    """It is that of the labels of epoch 0, but for the chunks that come again; weights count."""
    alone, sources = [[9]] * 500, [500, 100]
    mixed = SmallCorpus([*alone, *[[9] * 60] * 100], sources=sources, weights=(1.0, 5.0))
    examples = make(mixed)
    labels = examples.batch(np.arange(len(examples)))["next_sentence_labels"]
    assert examples.random_next_share is not None
    assert abs(examples.random_next_share - labels.mean()) < 0.02
    assert make(SmallCorpus(alone)).random_next_share == 1
    for input_format in set(FORMATS) - {"nsp"}:
        assert make(mixed, input_format=input_format).random_next_share is None


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"max_seq_length": 4}, "from 8 to 8192"),
        ({"max_seq_length": 8193}, "from 8 to 8192"),
        ({"short_seq_prob": 1.5}, "from 0 to 1"),
        ({"input_format": "pairs"}, "one of nsp, sop, full_sentences"),
        ({"dupe_factor": -1}, "0 or more"),
        ({"masking": "words"}, "one of token, whole_word, ngram, span"),
        ({"masked_lm_prob": float("nan")}, "between 0 and 1"),
        ({"max_predictions_per_seq": 0}, "at least 1"),
        ({"max_predictions_per_seq": 62}, "from 1 to .* = 61"),
        ({"span_geometric_p": 1.0}, "between 0 and 1"),
        ({"mask_replace_prob": 1.1}, "from 0 to 1"),
        ({"random_replace_prob": 0.3}, "a sum of at most 1"),
    ],
)
def test_impossible_settings_are_refused(change, expected):
    """The message names the setting, its value and its range."""
    (name, value), *_ = change.items()
    if name in MaskingSettings.__dataclass_fields__:
        change = {"masking": replace(SETTINGS.masking, **change)}
    with pytest.raises(ConfigError, match=f"{name}={value!r}.*: expected {expected}"):
        make(corpus_of(), **change)


def test_next_sentences_need_a_second_document():
    """There would be no other document for a random next sentence; other formats do without."""
    corpus = SmallCorpus([[5, 6, 7]])
    with pytest.raises(DataError, match=r"has 1 document, expected at least 2"):
        make(corpus)
    for name in set(FORMATS) - {"nsp"}:
        assert len(make(corpus, input_format=name)) > 0


def test_another_tokenizer_is_refused():
    """Ids of one vocabulary read with another would train on noise."""
    corpus = corpus_of()
    tokenizer = corpus.tokenizer()
    tokenizer.sha256 = "other"
    with pytest.raises(DataError, match="is not the one the corpus was encoded with"):
        PretrainingExamples(corpus, tokenizer, SETTINGS)
