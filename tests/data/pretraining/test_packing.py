"""Rows of several examples, on the side of the data: each example stays itself, and none is lost.

That the model computes the same for them: tests/models/test_packed_rows.py.
"""

from collections import Counter

import numpy as np
import pytest
from small_corpus import FIRST, SmallCorpus, random_documents, unmasked_ids

from ptft_jax.data.batches import evaluation_batches
from ptft_jax.data.pretraining import packing
from ptft_jax.data.pretraining.examples import (
    FORMATS,
    PAIR_FORMATS,
    PretrainingExamples,
    PretrainingSettings,
)
from ptft_jax.data.pretraining.masking import STRATEGIES, MaskingSettings
from ptft_jax.data.pretraining.packing import best_fit_decreasing


def length_sets():
    """Sets of lengths with their capacity: random ones of several kinds, and edges."""
    rng = np.random.default_rng(0)
    for capacity in (8, 31, 128, 512):
        for count in (1, 2, 7, 100, 800):
            yield rng.integers(1, capacity + 1, count), capacity
            yield np.minimum(1 + rng.geometric(4 / capacity, count), capacity), capacity
            mostly_long = rng.random(count) < 0.8
            yield np.where(mostly_long, capacity - rng.integers(0, 3, count), 1), capacity
    yield np.full(40, 10), 64  # one length: six to a row
    yield np.full(12, 64), 64
    yield np.array([], np.int64), 64


def in_rows(plan, lengths):
    """The examples of each row, and the tokens of each row."""
    rows = [plan.examples[a:b].tolist() for a, b in zip(plan.first, plan.first[1:], strict=False)]
    return rows, [int(lengths[row].sum()) for row in rows]


def plain_best_fit_decreasing(lengths, capacity, most):
    """The tokens of each row, one example after another: into the fullest row that holds it."""
    rows = []
    for length in sorted(lengths, reverse=True):
        open_rows = [row for row in rows if row[0] + length <= capacity and row[1] < most]
        if open_rows:
            row = max(open_rows, key=lambda row: row[0])
            row[0] += length
            row[1] += 1
        else:
            rows.append([length, 1])
    return rows


@pytest.mark.parametrize("most", [1, 2, 5, 1000])
def test_plans_are_those_of_plain_best_fit_decreasing(most):
    """Each example is in one row, and none has too much; rows hold what they would one by one.

    The classes of equal lengths are a shortcut. Where rows are closed by their number of examples,
    too, it costs a row in fifty at most.
    """
    for lengths, capacity in length_sets():
        plan = best_fit_decreasing(lengths, capacity, most)
        rows, tokens = in_rows(plan, lengths)
        assert sorted(plan.examples.tolist()) == list(range(len(lengths)))
        assert all(1 <= len(row) <= most for row in rows)
        assert max(tokens, default=0) <= capacity
        lengths = lengths[:200]
        _, tokens = in_rows(best_fit_decreasing(lengths, capacity, most), lengths)
        wanted = [held for held, _ in plain_best_fit_decreasing(lengths.tolist(), capacity, most)]
        if most > capacity:
            assert sorted(tokens) == sorted(wanted)
        assert abs(len(tokens) - len(wanted)) <= 1 + len(wanted) // 50


# Rows of examples.

LENGTH = 48


def make_corpus(count=60, seed=3, **changes):
    documents = random_documents(np.random.default_rng(seed), count, longest=30)
    return SmallCorpus(documents, **changes)


def make(corpus, *, packing=True, max_seq_length=LENGTH, continues_word=None, **changes):
    masking = {"max_predictions_per_seq": 6}
    masking |= {key: changes.pop(key) for key in list(changes) if hasattr(MaskingSettings, key)}
    settings = PretrainingSettings(
        seed=2,
        max_seq_length=max_seq_length,
        packing=packing,
        masking=MaskingSettings(**masking),
        **changes,
    )
    return PretrainingExamples(corpus, corpus.tokenizer(continues_word), settings)


def as_key(text, content):
    return (tuple(text.tolist()), *((name, *content[name].tolist()) for name in sorted(content)))


def examples_alone(batch):
    """The examples of unpacked rows, counted: text and all that a row says of it, unpadded."""
    found = Counter()
    ids = unmasked_ids(batch)
    for row, length in enumerate(batch["attention_mask"].sum(axis=1)):
        used = batch["masked_lm_weights"][row] == 1
        content = {
            "input_ids": batch["input_ids"][row, :length],
            "token_type_ids": batch["token_type_ids"][row, :length],
            "position_ids": np.arange(length),
            "masked_lm_positions": batch["masked_lm_positions"][row, used],
            "masked_lm_ids": batch["masked_lm_ids"][row, used],
        }
        for name in ("next_sentence_labels", "next_sentence_weights"):
            if name in batch:
                content[name] = batch[name][row]
        found[as_key(ids[row, :length], content)] += 1
    return found


def examples_packed(batch):
    """The same of packed rows, taken apart by `segment_ids`; checks each row as a whole, too."""
    found, ids = Counter(), unmasked_ids(batch)
    for row, segments in enumerate(batch["segment_ids"]):
        used = batch["masked_lm_weights"][row] == 1
        masked = batch["masked_lm_positions"][row, used]
        assert (np.diff(masked) > 0).all()
        assert (np.diff(used.astype(int)) <= 0).all()
        for name in ("masked_lm_positions", "masked_lm_ids"):
            assert not batch[name][row, ~used].any()
        # Examples stand one behind the other, then padding.
        real = batch["attention_mask"][row] == 1
        np.testing.assert_array_equal(real, segments > 0)
        np.testing.assert_array_equal(real, np.arange(len(real)) < real.sum())
        assert not batch["input_ids"][row, ~real].any()
        assert not batch["token_type_ids"][row, ~real].any()
        assert not batch["position_ids"][row, ~real].any()
        count = int(segments.max())
        assert (np.diff(segments[real]) >= 0).all()
        assert sorted(set(segments[real].tolist())) == list(range(1, count + 1))
        for number in range(count):
            here = np.flatnonzero(segments == number + 1)
            of_this = (masked >= here[0]) & (masked <= here[-1])
            content = {
                "input_ids": batch["input_ids"][row, here],
                "token_type_ids": batch["token_type_ids"][row, here],
                "position_ids": batch["position_ids"][row, here],
                "masked_lm_positions": masked[of_this] - here[0],
                "masked_lm_ids": batch["masked_lm_ids"][row, used][of_this],
            }
            if "pooled_positions" in batch:
                assert batch["pooled_positions"][row, number] == here[0]
                for name in ("next_sentence_labels", "next_sentence_weights"):
                    content[name] = batch[name][row, [number]]
            found[as_key(ids[row, here], content)] += 1
        if "pooled_positions" in batch:
            for name in ("pooled_positions", "next_sentence_labels", "next_sentence_weights"):
                assert not batch[name][row, count:].any()
    return found


def epoch_of(examples, epoch):
    return examples.batch(np.arange(epoch * len(examples), (epoch + 1) * len(examples)))


# Every format, and every strategy: masking does not know the format.
@pytest.mark.parametrize(
    ("name", "masking"),
    [*((name, "token") for name in FORMATS), *(("nsp", masking) for masking in STRATEGIES[1:])],
)
@pytest.mark.parametrize("window", [1 << 17, 20])
def test_packed_examples_are_the_unpacked_ones(monkeypatch, name, masking, window):
    """Ids, types, positions, masks and labels of each are the same, and each is there once.

    Packing changes where an example stands and nothing else; windows of 20 examples or one for all.
    """
    monkeypatch.setattr(packing, "WINDOW", window)
    # Room for rows that a later window needs more: nothing may be missing here.
    monkeypatch.setattr(packing, "_SPARE_ROWS", 0.5)
    corpus = make_corpus(sources=[20, 40], weights=(2.5, 0.5))
    continues_word = np.random.default_rng(0).random(corpus.vocab_size) < 0.3
    common = {"input_format": name, "masking": masking, "continues_word": continues_word}
    common["dupe_factor"] = 3
    packed, alone = make(corpus, **common), make(corpus, packing=False, **common)
    assert (packed.windows.count > 2) == (window == 20)
    for epoch in (0, 5):
        assert examples_packed(epoch_of(packed, epoch)) == examples_alone(epoch_of(alone, epoch))


def test_rows_that_do_not_fit_are_the_only_ones_missing(monkeypatch):
    """A window with more rows than there is room for loses its emptiest, and nothing else.

    With one trial, no spare row and windows as small as these, that happens all the time.
    """
    monkeypatch.setattr(packing, "WINDOW", 30)
    monkeypatch.setattr(packing, "_SPARE_ROWS", 0.0)
    monkeypatch.setattr(packing, "_TRIALS", 1)
    corpus = make_corpus(150)
    packed, alone = make(corpus), make(corpus, packing=False)
    missing_rows = 0
    for epoch in range(4):
        every = examples_alone(epoch_of(alone, epoch))
        found = examples_packed(epoch_of(packed, epoch))
        assert found <= every
        lost = Counter(len(text) for text, *_ in (every - found).elements())
        expected = Counter()
        first = 0
        for window in range(packed.windows.count):
            plan = packed.windows.plan(epoch, window)
            lengths = packed.lengths(epoch, first, first + len(plan.examples))
            first += len(plan.examples)
            rows, tokens = in_rows(plan, lengths)
            surplus = max(0, len(rows) - packed.windows.rows)
            missing_rows += surplus
            for row in sorted(range(len(rows)), key=lambda row: (tokens[row], -row))[:surplus]:
                expected.update(lengths[rows[row]].tolist())
        assert lost == expected
    assert missing_rows > 20


def test_an_empty_row_is_padding_and_weighs_nothing():
    """Rows that a window does not need come alone in a batch, too, and count for nothing."""
    for name in FORMATS:
        examples = make(make_corpus(), input_format=name)
        real = np.array([examples[i]["attention_mask"].sum() for i in range(len(examples))])
        empty = np.flatnonzero(real == 0)
        assert len(empty) > 0
        row = examples[int(empty[0])]
        for name, array in row.items():
            assert not array.any(), name


@pytest.mark.parametrize("most", [0, 40])
@pytest.mark.parametrize("rate", [0.01, 0.15, 0.99])
@pytest.mark.parametrize("longest", [1, 6, 60])
def test_predictions_of_a_row_always_have_room(rate, longest, most):
    """Rows of many tiny examples, each with at least one prediction, and of long ones."""
    rng = np.random.default_rng(6)
    corpus = SmallCorpus([rng.integers(1, longest + 1, 3).tolist() for _ in range(80)])
    packed, alone = (
        make(
            corpus,
            packing=packing,
            masked_lm_prob=rate,
            max_predictions_per_seq=LENGTH - 3,
            max_sequences_per_pack=most,
        )
        for packing in (True, False)
    )
    counts = [epoch_of(examples, 0)["masked_lm_weights"].sum() for examples in (packed, alone)]
    assert counts[0] == counts[1]


def test_evaluation_sees_every_example_once():
    """A held-out loss on packed rows is over the same examples as on unpacked ones."""
    corpus = make_corpus(split="dev")
    packed, alone = make(corpus), make(corpus, packing=False)
    totals = [
        [
            sum(batch[name].sum() for batch in evaluation_batches(examples, 7))
            for name in ("masked_lm_weights", "next_sentence_weights")
        ]
        for examples in (packed, alone)
    ]
    assert totals[0] == totals[1]
    assert totals[0][1] == len(alone)


def test_rows_and_examples_are_not_shuffled_by_the_same_numbers():
    """With one example to a row and as many rows, row i would hold example i in two epochs of n."""
    size, epochs = 20, 700
    examples = make(SmallCorpus([[LENGTH - 2]] * size), input_format="single_segment")
    rows = len(examples)
    assert rows == size + 1  # an empty one
    ids = [unmasked_ids(epoch_of(examples, epoch))[:, 1] for epoch in range(epochs)]
    which = np.where(np.equal(ids, 0), size, (np.array(ids) - FIRST) // (LENGTH - 2))
    assert (np.sort(which, axis=1) == np.arange(rows)).all()
    assert abs((which == np.arange(rows)).sum() - epochs) < 5 * np.sqrt(epochs)


@pytest.mark.parametrize("name", PAIR_FORMATS)
def test_rows_of_prose_like_lengths_are_full(name):
    """At least 99 % of positions are real at 512 (ModernBERT's best-fit packing: "over 99 %").

    Sentences of 26 tokens and documents of 138 sentences in the mean, both skewed, as the chapters
    of novels and textbooks have them.
    """
    rng = np.random.default_rng(7)
    sizes = rng.lognormal(4.5, 0.9, 1000).astype(int) + 1
    corpus = SmallCorpus([rng.lognormal(3.05, 0.65, n).astype(int) + 1 for n in sizes])
    examples = make(corpus, max_seq_length=512, max_predictions_per_seq=77, input_format=name)
    tokens = examples.lengths(0, 0, examples.num_examples).sum()
    assert tokens / len(examples.windows.plan(0, 0)) / 512 > 0.99
    # Of `nsp`, 6,000 examples need half a percent more or fewer rows from epoch to epoch.
    assert tokens / len(examples) / 512 > (0.985 if name == "nsp" else 0.99)
