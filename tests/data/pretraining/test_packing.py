"""Rows of several examples, on the side of the data: each example stays itself, and none is lost.

That the model computes the same for them: tests/models/test_packed_rows.py. Which share a row:
tests/data/pretraining/test_packing_plans.py.
"""

import lzma
from collections import Counter

import numpy as np
import pytest
from scipy.stats import chi2
from small_corpus import FIRST, SmallCorpus, random_documents, unmasked_ids

from ptft_jax.data.batches import Batches, evaluation_batches
from ptft_jax.data.corpus.prepare import prepare_corpus
from ptft_jax.data.corpus.settings import PrepareSettings
from ptft_jax.data.corpus.store import Corpus
from ptft_jax.data.pretraining import examples as pretraining_module
from ptft_jax.data.pretraining.examples import PretrainingExamples, PretrainingSettings
from ptft_jax.data.pretraining.formats import FORMATS, PAIR_FORMATS
from ptft_jax.data.pretraining.masking import STRATEGIES, MaskingSettings
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer


def in_rows(plan, lengths):
    """The examples of each row, and the tokens of each row."""
    rows = [plan.examples[a:b].tolist() for a, b in zip(plan.first, plan.first[1:], strict=False)]
    return rows, [int(lengths[row].sum()) for row in rows]


# Rows of examples.

LENGTH = 48
SPARE = pretraining_module._SPARE_ROWS


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
    monkeypatch.setattr(pretraining_module, "WINDOW", window)
    # Room for rows that a later window needs more: nothing may be missing here.
    monkeypatch.setattr(pretraining_module, "_SPARE_ROWS", 0.5)
    corpus = make_corpus()
    continues_word = np.random.default_rng(0).random(corpus.vocab_size) < 0.3
    common = {"input_format": name, "masking": masking, "continues_word": continues_word}
    packed, alone = make(corpus, **common), make(corpus, packing=False, **common)
    assert (packed._windows > 2) == (window == 20)
    for epoch in (0, 1, 5):
        assert examples_packed(epoch_of(packed, epoch)) == examples_alone(epoch_of(alone, epoch))


def test_shapes_and_types():
    """What the model and the objective are built for: P examples and M predictions in a row."""
    examples = make(make_corpus(), max_sequences_per_pack=3, masked_lm_prob=0.15)
    batch = examples.batch(np.arange(4))
    # Rounding gives each of three examples one prediction more than its share of a row, at most.
    predictions = int(np.ceil(0.15 * LENGTH)) + 3
    expected = {
        **dict.fromkeys(
            ("input_ids", "attention_mask", "token_type_ids", "segment_ids", "position_ids"),
            ((4, LENGTH), np.int32),
        ),
        "masked_lm_positions": ((4, predictions), np.int32),
        "masked_lm_ids": ((4, predictions), np.int32),
        "masked_lm_weights": ((4, predictions), np.float32),
        "pooled_positions": ((4, 3), np.int32),
        "next_sentence_labels": ((4, 3), np.int32),
        "next_sentence_weights": ((4, 3), np.float32),
    }
    assert {name: (array.shape, array.dtype) for name, array in batch.items()} == expected
    without_pairs = make(make_corpus(), input_format="doc_sentences").batch(np.arange(4))
    assert set(expected) - set(without_pairs) == {
        "pooled_positions",
        "next_sentence_labels",
        "next_sentence_weights",
    }


def test_a_row_does_not_depend_on_its_batch(monkeypatch):
    """Alone, shuffled, across windows and epochs, long after the beginning: the same bytes."""
    monkeypatch.setattr(pretraining_module, "WINDOW", 20)
    corpus = make_corpus()
    examples = make(corpus)
    size = len(examples)
    assert examples._windows > 4  # more than there are plans kept
    rng = np.random.default_rng(4)
    index = np.concatenate([np.arange(2 * size), 10**12 + np.arange(20), [2**45]])
    whole = examples.batch(index)
    for _ in range(3):
        some = rng.choice(len(index), 30)
        batch = make(corpus).batch(index[some])
        for name, array in whole.items():
            np.testing.assert_array_equal(batch[name], array[some])
    for row in range(0, len(index), 7):
        for name, array in examples[int(index[row])].items():
            np.testing.assert_array_equal(array, whole[name][row])


@pytest.mark.parametrize("workers", [1, 4])
def test_threads_and_resuming_change_nothing(monkeypatch, workers):
    """Plans are shared by threads; a run that goes on at any row goes on with the same rows."""
    monkeypatch.setattr(pretraining_module, "WINDOW", 20)
    corpus = make_corpus()
    size = len(make(corpus))
    start = size - 13
    whole = make(corpus).batch(np.arange(start, start + 2 * size))
    with Batches(make(corpus), 9, start_index=start, workers=workers, prefetch=6) as batches:
        for number in range(2 * size // 9):
            for name, array in next(batches).items():
                np.testing.assert_array_equal(array, whole[name][9 * number : 9 * number + 9])
    with Batches(make(corpus), 8, start_index=start, rows=slice(2, 6), workers=workers) as batches:
        for name, array in next(batches).items():
            np.testing.assert_array_equal(array, whole[name][2:6])


@pytest.mark.parametrize("spare", [0.0, SPARE])
def test_rows_that_do_not_fit_are_the_only_ones_missing(monkeypatch, spare):
    """A window with more rows than there is room for loses its emptiest, and nothing else.

    With one trial, no spare row and windows as small as these, that happens all the time.
    """
    monkeypatch.setattr(pretraining_module, "WINDOW", 30)
    monkeypatch.setattr(pretraining_module, "_SPARE_ROWS", spare)
    monkeypatch.setattr(pretraining_module, "_TRIALS", 1)
    corpus = make_corpus(150)
    packed, alone = make(corpus), make(corpus, packing=False)
    missing_rows = 0
    for epoch in range(4):
        every = examples_alone(epoch_of(alone, epoch))
        found = examples_packed(epoch_of(packed, epoch))
        assert found <= every
        lost = Counter(len(text) for text, *_ in (every - found).elements())
        expected = Counter()
        for window in range(packed._windows):
            plan = packed.plan_window(epoch, window)
            first, end = packed._window_bounds(window)
            lengths = packed._lengths(epoch, first, end)
            rows, tokens = in_rows(plan, lengths)
            surplus = max(0, len(rows) - packed._rows_per_window)
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


@pytest.mark.parametrize("rate", [0.01, 0.15, 0.5, 0.99])
@pytest.mark.parametrize("longest", [1, 6, 60])
def test_predictions_of_a_row_always_have_room(rate, longest):
    """Rows of many tiny examples, each with at least one prediction, and of long ones."""
    rng = np.random.default_rng(6)
    documents = [rng.integers(1, longest + 1, 3).tolist() for _ in range(80)]
    corpus = SmallCorpus(documents)
    for name in ("nsp", "single_segment"):
        for most in (0, 40):
            packed, alone = (
                make(
                    corpus,
                    packing=packing,
                    input_format=name,
                    masked_lm_prob=rate,
                    max_predictions_per_seq=LENGTH - 3,
                    max_sequences_per_pack=most,
                )
                for packing in (True, False)
            )
            count = sum(
                epoch_of(examples, 0)["masked_lm_weights"].sum() for examples in (packed, alone)
            )
            assert count == 2 * epoch_of(alone, 0)["masked_lm_weights"].sum()


def test_every_example_comes_in_every_row():
    """The order of rows is even over many epochs, also where rows stand as the examples do.

    With one example to a row and as many rows as examples, two permutations by the same numbers
    would come to one applied twice: row i would hold example i in two epochs instead of one.
    """
    size, epochs = 20, 700
    corpus = SmallCorpus([[LENGTH - 2]] * size)
    examples = make(corpus, input_format="single_segment")
    rows = len(examples)
    assert rows == size + 1  # an empty one
    first = np.concatenate(
        [unmasked_ids(epoch_of(examples, epoch))[:, 1] for epoch in range(epochs)]
    )
    which = np.where(first == 0, size, (first - FIRST) // (LENGTH - 2)).reshape(epochs, rows)
    assert (np.sort(which, axis=1) == np.arange(rows)).all()
    key = np.arange(rows) * rows + which
    counts = np.bincount(key.ravel(), minlength=rows * rows).reshape(rows, rows)
    # As in tests/data/pretraining/test_sampling.py.
    statistic = ((counts - epochs / rows) ** 2).sum() / (epochs / (rows - 1))
    freedom = (rows - 1) ** 2
    assert chi2.ppf(1e-6, freedom) < statistic < chi2.ppf(1 - 1e-6, freedom)
    # The diagonal by itself, where two equal permutations would show.
    diagonal = np.trace(counts)
    assert abs(diagonal - epochs) < 5 * np.sqrt(epochs)


def test_weights_and_duplicates_go_through_packing():
    """Visits of a weighted source are packed like others: the same examples as unpacked."""
    corpus = make_corpus(sources=[20, 40], weights=(2.5, 0.5))
    common = {"input_format": "single_segment", "dupe_factor": 5}
    packed, alone = make(corpus, **common), make(corpus, packing=False, **common)
    assert packed.num_examples == len(alone)
    for epoch in range(2):
        both = [
            Counter(
                tuple(ids[here].tolist())
                for ids, segments in zip(
                    batch["input_ids"],
                    batch.get("segment_ids", batch["attention_mask"]),
                    strict=True,
                )
                for number in range(1, segments.max() + 1)
                for here in [segments == number]
            )
            for batch in (epoch_of(packed, epoch), epoch_of(alone, epoch))
        ]
        assert both[0] == both[1]


def test_evaluation_sees_every_example_once():
    """A held-out loss on packed rows is over the same examples as on unpacked ones."""
    corpus = make_corpus(split="dev")
    packed, alone = make(corpus), make(corpus, packing=False)
    totals = []
    for examples in (packed, alone):
        batches = list(evaluation_batches(examples, 7))
        totals.append(
            [
                sum(batch[name].sum() for batch in batches)
                for name in ("masked_lm_weights", "next_sentence_weights")
            ]
        )
    assert totals[0] == totals[1]
    assert totals[0][1] == len(alone)


# How full rows are.


def share_of_real_positions(examples):
    real = 0
    for start in range(0, len(examples), 256):
        rows = np.arange(start, min(start + 256, len(examples)))
        real += examples.batch(rows)["attention_mask"].sum()
    return real / len(examples) / examples.settings.max_seq_length


def share_of_used_rows(examples):
    """The share of real positions in the rows that the first epoch needs, the spare ones aside."""
    tokens = examples._lengths(0, 0, examples.num_examples).sum()
    return tokens / len(examples.plan_window(0, 0)) / examples.settings.max_seq_length


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
    assert share_of_used_rows(examples) > 0.99
    # Of `nsp`, 6,000 examples need half a percent more or fewer rows from epoch to epoch.
    assert share_of_real_positions(examples) > (0.985 if name == "nsp" else 0.99)


def test_rows_of_real_text_are_full(shared_data, tmp_path):
    """The same of novels and textbooks.

    This part has 1,500 examples, so that the number of rows that they need varies by a percent
    from epoch to epoch, and the room for the fullest epoch costs that much; the rows that are used
    are full. All of the text fills 99.4 % with its 57,000 examples (`ptft bench input`).
    """
    for name in ("eltec_eng", "openstax_ccby"):
        with lzma.open(shared_data / "text" / f"{name}.txt.xz", "rt", encoding="utf-8") as file:
            (tmp_path / f"{name}.txt").write_text(file.read(1_500_000), encoding="utf-8")
    settings = PrepareSettings(
        (f"{tmp_path}/*.txt",), vocab=str(shared_data / "tokenizers" / "bert-base-uncased")
    )
    prepare_corpus(settings, tmp_path / "data")
    corpus = Corpus.open(tmp_path / "data")
    settings = PretrainingSettings(
        max_seq_length=512, packing=True, masking=MaskingSettings(max_predictions_per_seq=77)
    )
    examples = PretrainingExamples(corpus, TextTokenizer.load(corpus.tokenizer_dir), settings)
    assert share_of_used_rows(examples) > 0.99
    assert share_of_real_positions(examples) > 0.975
