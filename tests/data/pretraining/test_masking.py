"""What is masked: each strategy against its paper, and against its authors' loops in plain Python.

Statistics are compared with what the paper says, or with as many draws of the authors' algorithm,
at five standard errors.
"""

import random
from collections import Counter

import numpy as np
import pytest
from masking_reference import (
    TABLES,
    VOCABULARY,
    albert_ngrams,
    as_rows,
    assert_same_rates,
    bert_whole_words,
    draw,
    flat,
    joined,
    neighbours,
    one_hot,
    positions,
    random_example,
    spanbert_spans,
    words_of,
)
from small_corpus import CLS, FIRST, MASK, SEP, SmallCorpus, unmasked_ids

from ptft_jax.data.pretraining.examples import PretrainingExamples, PretrainingSettings
from ptft_jax.data.pretraining.masking import (
    STRATEGIES,
    Draws,
    MaskingSettings,
    choose,
    replace,
)

# Properties that hold for every draw.


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("masking", STRATEGIES)
def test_choices_are_sound_for_any_text(masking, table):
    """Ascending, no token twice, never over the budget, in the right example, whatever the text.

    And an example in a batch of many has what it has alone: choices depend on nothing else.
    """
    rng = np.random.default_rng(2)
    settings, continues_word = MaskingSettings(masking), TABLES[table]
    for _ in range(12):
        examples = [random_example(rng) for _ in range(rng.integers(1, 40))]
        text = flat(examples)
        sizes = np.diff(text.first)
        count = np.minimum(rng.integers(1, 40, len(examples)), sizes)
        visit, chunk = rng.integers(0, 2**40, (2, len(examples)))
        chosen = choose(settings, text, count, Draws(1, visit, chunk), continues_word)
        assert (np.diff(chosen.index) > 0).all()
        number = np.bincount(text.example[chosen.index], minlength=len(examples))
        assert (number <= count).all()
        if masking in ("token", "span"):
            np.testing.assert_array_equal(number, count)
        for alone in rng.choice(len(examples), min(4, len(examples)), replace=False):
            draws = Draws(1, visit[[alone]], chunk[[alone]])
            again = choose(settings, flat([examples[alone]]), count[[alone]], draws, continues_word)
            here = text.example[chosen.index] == alone
            np.testing.assert_array_equal(chosen.index[here] - text.first[alone], again.index)
            np.testing.assert_array_equal(chosen.unit[here], again.unit)


@pytest.mark.parametrize("table", ["wordpiece", "byte_level_bpe"])
def test_words_are_masked_whole_and_none_that_fits_is_left_out(table):
    """Words that exceed what is left of the budget are passed over, and the search goes on."""
    rng = np.random.default_rng(4)
    continues_word = TABLES[table]
    fewer = 0
    for _ in range(60):
        stretches = random_example(rng, longest=12)
        count = int(rng.integers(1, sum(map(len, stretches)) + 1))
        rows, _, _ = draw(MaskingSettings("whole_word"), stretches, count, 4, continues_word)
        for row in rows:
            masked = set(positions(stretches)[row].tolist())
            room = count - len(masked)
            fewer += room > 0
            for word in joined(words_of(stretches, continues_word)):
                taken = len(masked & set(word))
                assert taken == len(word) or (taken == 0 and len(word) > room)
    assert fewer > 10


@pytest.mark.parametrize("table", TABLES)
def test_spans_are_runs_of_words_of_one_stretch(table):
    """A unit is one run of tokens that begins with a word; only the last of all is cut in one."""
    rng = np.random.default_rng(6)
    continues_word = TABLES[table]
    settings = MaskingSettings("span", span_max_words=4)
    for _ in range(30):
        stretches = random_example(rng)
        count = sum(map(len, stretches)) // 4 + 1
        words = words_of(stretches, continues_word)
        starts = {word[0]: s for s, stretch in enumerate(words) for word in stretch}
        ends = {word[-1] for stretch in words for word in stretch}
        _, chosen, text = draw(settings, stretches, count, 6, continues_word)
        cut_short = Counter()
        example, position = text.example[chosen.index], text.position[chosen.index]
        for key in set(zip(example.tolist(), chosen.unit.tolist(), strict=True)):
            span = position[(example == key[0]) & (chosen.unit == key[1])]
            assert span[0] == key[1]
            assert (np.diff(span) == 1).all()
            assert span[0] in starts
            stretch = words[starts[span[0]]]
            assert span[-1] <= stretch[-1][-1]
            assert sum(token in starts for token in span.tolist()) <= 4
            cut_short[key[0]] += int(span[-1]) not in ends
        assert max(cut_short.values()) <= 1


def test_spans_reach_high_rates():
    """Where tokens are chosen is drawn again when they are taken: half of a text is no problem."""
    stretches = [list(range(FIRST, FIRST + 250)), list(range(FIRST, FIRST + 250))]
    rows, _, _ = draw(MaskingSettings("span"), stretches, 400, 20, TABLES["wordpiece"])
    assert (rows.sum(axis=1) == 400).all()


# Statistics.


def test_tokens_are_drawn_evenly_without_replacement():
    """Each token with probability k / n, each pair with k (k - 1) / n (n - 1): exact values."""
    stretches, times, count = [[7] * 9, [8] * 4], 20_000, 5
    rows, _, _ = draw(MaskingSettings(), stretches, count, times, TABLES["wordpiece"])
    assert (rows.sum(axis=1) == count).all()
    pairs = rows.T.astype(int) @ rows / times
    size = 13
    single, both = count / size, count * (count - 1) / size / (size - 1)
    off = ~np.eye(size, dtype=bool)
    assert np.abs(np.diag(pairs) - single).max() < 5 * np.sqrt(single * (1 - single) / times)
    assert np.abs(pairs[off] - both).max() < 5 * np.sqrt(both * (1 - both) / times)


@pytest.mark.parametrize("table", ["wordpiece", "byte_level_bpe"])
def test_whole_words_are_those_of_bert(table):
    """How many tokens are masked, which, and which together, as the original masks them."""
    continues_word = TABLES[table]
    shapes, rng = np.random.default_rng(8), random.Random(0)
    for count in (3, 7):
        stretches = [shapes.integers(FIRST, VOCABULARY, n).tolist() for n in (23, 17)]
        words = words_of(stretches, continues_word)
        assert len({len(word) for stretch in words for word in stretch}) >= 3
        rows, _, _ = draw(MaskingSettings("whole_word"), stretches, count, 8000, continues_word)
        wanted = as_rows([bert_whole_words(words, count, rng) for _ in range(8000)], stretches)
        assert_same_rates(rows, wanted)
        assert_same_rates(neighbours(rows), neighbours(wanted))
        assert_same_rates(*(one_hot(x.sum(axis=1), count + 1) for x in (rows, wanted)))


@pytest.mark.parametrize("table", ["wordpiece", "all_words"])
def test_ngrams_are_those_of_albert(table):
    """How many tokens are masked, which, which together, and in runs of which length."""
    continues_word = TABLES[table]
    shapes, rng = np.random.default_rng(9), random.Random(0)
    for count, longest in ((4, 3), (9, 3), (8, 5)):
        stretches = [shapes.integers(FIRST, VOCABULARY, n).tolist() for n in (30, 12)]
        words = words_of(stretches, continues_word)
        settings = MaskingSettings("ngram", max_ngram=longest)
        rows, _, _ = draw(settings, stretches, count, 8000, continues_word)
        wanted = as_rows(
            [albert_ngrams(words, count, rng, longest) for _ in range(8000)], stretches
        )
        assert_same_rates(rows, wanted)
        assert_same_rates(neighbours(rows), neighbours(wanted))
        assert_same_rates(*(one_hot(x.sum(axis=1), count + 1) for x in (rows, wanted)))
        assert_same_rates(*(one_hot(neighbours(x).sum(axis=1), count) for x in (rows, wanted)))


@pytest.mark.parametrize("table", ["wordpiece", "byte_level_bpe"])
def test_spans_are_those_of_spanbert(table):
    """Which tokens are masked, which together, and how many spans they make up."""
    continues_word = TABLES[table]
    shapes, rng = np.random.default_rng(10), random.Random(0)
    for count, longest in ((5, 10), (12, 4)):
        stretches = [shapes.integers(FIRST, VOCABULARY, n).tolist() for n in (33, 20)]
        words = words_of(stretches, continues_word)
        settings = MaskingSettings("span", span_max_words=longest)
        rows, chosen, text = draw(settings, stretches, count, 8000, continues_word)
        spans = [spanbert_spans(words, count, rng, longest=longest) for _ in range(8000)]
        wanted = as_rows([joined(found) for found in spans], stretches)
        assert_same_rates(rows, wanted)
        assert_same_rates(neighbours(rows), neighbours(wanted))
        begins = chosen.unit == text.position[chosen.index]
        number = np.bincount(text.example[chosen.index][begins], minlength=8000)
        assert_same_rates(one_hot(number, count + 1), one_hot([len(s) for s in spans], count + 1))


# Replacement.


@pytest.mark.parametrize(("mask", "other"), [(0.8, 0.1), (0.5, 0.5)])
@pytest.mark.parametrize("masking", STRATEGIES)
def test_replacement_shares_are_as_set(masking, mask, other):
    """mask_replace_prob become [MASK], random_replace_prob an even draw of the ordinary tokens.

    The defaults are the 80, 10 and 10 % of Devlin et al. 2019; of spans as a whole in SpanBERT.
    """
    settings = MaskingSettings(masking, mask_replace_prob=mask, random_replace_prob=other)
    label, ordinary = 7, np.arange(FIRST, 105, dtype=np.int32)
    stretches, times, count = [[label] * 40, [label] * 30], 3000, 10
    _, chosen, text = draw(settings, stretches, count, times, TABLES["all_words"])
    draws = Draws(0, np.arange(times), np.full(times, 17))
    shown = replace(settings, text, chosen, draws, MASK, ordinary)
    assert shown.dtype == np.int32
    # Independent draws: one for each token, or for each span.
    example = text.example[chosen.index]
    units = len(np.unique(np.stack([example, chosen.unit]), axis=1).T)
    expected = {MASK: mask, label: 1 - mask - other + other / 100}
    for token, share in expected.items():
        # Spans have up to 10 tokens of one fate: a variance of at most ten times that of a unit.
        spread = 10 if masking == "span" else 1
        error = np.sqrt(spread * share * max(0, 1 - share) / units)
        assert abs((shown == token).mean() - share) <= 5 * error + 1e-12
    others = shown[(shown != MASK) & (shown != label)]
    counts = np.delete(np.bincount(others, minlength=105)[FIRST:], label - FIRST)
    assert np.abs(counts - counts.mean()).max() < 5 * np.sqrt(counts.mean())


def test_a_span_is_replaced_as_one():
    """All tokens of a span become [MASK], or all random, or all stay (Joshi et al. 2019, 3.1)."""
    settings = MaskingSettings("span", mask_replace_prob=0.4, random_replace_prob=0.3)
    stretches, times, count = [list(range(FIRST, 205))], 400, 30
    _, chosen, text = draw(settings, stretches, count, times, TABLES["all_words"])
    # Random tokens that no text has: which fate a token met can be read off.
    ordinary = np.arange(1000, 2000, dtype=np.int32)
    draws = Draws(0, np.arange(times), np.full(times, 17))
    shown = replace(settings, text, chosen, draws, MASK, ordinary)
    fate = np.where(shown == MASK, 0, np.where(shown >= 1000, 1, 2))
    np.testing.assert_array_equal(shown[fate == 2], text.ids[chosen.index[fate == 2]])
    span = text.example[chosen.index] * 1000 + chosen.unit
    assert len(set(zip(span.tolist(), fate.tolist(), strict=True))) == len(set(span.tolist()))
    # Random tokens of a span differ from each other: they are drawn one by one.
    assert len(np.unique(shown[fate == 1])) > 500


# Through the examples.


@pytest.mark.parametrize("masking", STRATEGIES)
def test_no_special_token_is_masked_in_examples(masking):
    """Labels are the text's tokens at their positions, as many as the formula of the original says.

    round(0.15 * length with [CLS] and [SEP]), at least 1, at most max_predictions_per_seq.
    """
    rng = np.random.default_rng(1)
    documents = [rng.integers(1, 25, rng.integers(1, 9)).tolist() for _ in range(40)]
    corpus = SmallCorpus(documents)
    settings = PretrainingSettings(
        max_seq_length=48, masking=MaskingSettings(masking, max_predictions_per_seq=6)
    )
    continues_word = rng.random(corpus.vocab_size) < 0.3
    examples = PretrainingExamples(corpus, corpus.tokenizer(continues_word), settings)
    batch = examples.batch(np.arange(3 * len(examples)))
    length = batch["attention_mask"].sum(axis=1)
    used = batch["masked_lm_weights"] == 1
    most = np.clip([round(0.15 * size) for size in length.tolist()], 1, 6)
    if masking in ("token", "span"):
        np.testing.assert_array_equal(used.sum(axis=1), most)
    else:
        assert (used.sum(axis=1) <= most).all()
        assert used.sum() > 0.97 * most.sum()
    assert batch["masked_lm_ids"][used].min() >= FIRST
    # Ids tell where a token stood: with the labels put back, A and B are runs of the corpus.
    for ids, size, types in zip(unmasked_ids(batch), length, batch["token_type_ids"], strict=True):
        begin_b = int(np.argmax(types))
        assert (ids[0], ids[begin_b - 1], ids[size - 1]) == (CLS, SEP, SEP)
        for run in (ids[1 : begin_b - 1], ids[begin_b : size - 1]):
            np.testing.assert_array_equal(run, run[0] + np.arange(len(run)))
            assert run[0] >= FIRST


def test_rates_of_masking_are_settable():
    """40 % as in Wettig et al. 2023, and so high that short texts have not enough tokens."""
    corpus = SmallCorpus([[3, 4], [5, 9], [1], [2]])
    for rate in (0.4, 0.99):
        settings = PretrainingSettings(
            max_seq_length=24,
            masking=MaskingSettings(masked_lm_prob=rate, max_predictions_per_seq=21),
        )
        examples = PretrainingExamples(corpus, corpus.tokenizer(), settings)
        batch = examples.batch(np.arange(200))
        length = batch["attention_mask"].sum(axis=1)
        expected = np.minimum(np.clip(np.rint(rate * length), 1, 21), length - 3)
        np.testing.assert_array_equal(batch["masked_lm_weights"].sum(axis=1), expected)
