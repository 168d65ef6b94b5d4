"""Pretraining examples: BERT's statistics, exactly reproducible by (seed, epoch, index)."""

from dataclasses import replace
from itertools import chain, pairwise

import numpy as np
import pytest
from small_corpus import FIRST, SmallCorpus, random_documents, unmasked_ids
from tokenizer_checks import wordpiece

from ptft_jax.data.batches import Batches, evaluation_batches
from ptft_jax.data.corpus.prepare import prepare_corpus
from ptft_jax.data.corpus.settings import PrepareSettings
from ptft_jax.data.corpus.store import Corpus
from ptft_jax.data.pretraining.examples import PretrainingExamples, PretrainingSettings
from ptft_jax.data.pretraining.formats import FORMATS, PAIR_FORMATS
from ptft_jax.data.pretraining.masking import MaskingSettings
from ptft_jax.data.pretraining.pairs import truncated_lengths
from ptft_jax.data.tokenizer.models import SPECIAL_TOKENS
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
from ptft_jax.errors import ConfigError, DataError

DOCUMENTS = 60
SETTINGS = PretrainingSettings(
    seed=3, max_seq_length=64, masking=MaskingSettings(max_predictions_per_seq=10)
)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A corpus in which token "d<i>" appears in document i only, so that a text tells its origin.

    Documents 0, 20 and 40 have one sentence; one of document 1 has 500 tokens; all have "w" words.
    """
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    documents = []
    for number in range(DOCUMENTS):
        count = 1 if number % 20 == 0 else int(rng.integers(2, 40))
        lengths = rng.integers(1, 20, count)
        if number == 1:
            lengths[1] = 500
        documents.append("\n".join(make_sentence(rng, number, length) for length in lengths))
    (folder / "text.txt").write_text("\n\n".join(documents))
    words = [f"w{i}" for i in range(200)] + [f"d{i}" for i in range(DOCUMENTS)]
    (folder / "vocab.txt").write_text("\n".join([*SPECIAL_TOKENS, *words]))
    settings = PrepareSettings(
        (str(folder / "text.txt"),),
        vocab=str(folder / "vocab.txt"),
        dev_fraction=0.1,
        shard_tokens=3000,
    )
    prepare_corpus(settings, folder / "data")
    return folder / "data"


def make_sentence(rng, number, length):
    words = [f"w{i}" for i in rng.integers(0, 200, length)]
    return " ".join([f"d{number}", *words, f"d{number}"])


@pytest.fixture(scope="module")
def tokenizer(data_dir):
    return TextTokenizer.load(data_dir / "tokenizer")


@pytest.fixture(scope="module")
def corpus(data_dir):
    return Corpus.open(data_dir)


@pytest.fixture(scope="module")
def examples(corpus, tokenizer):
    return PretrainingExamples(corpus, tokenizer, SETTINGS)


@pytest.fixture(scope="module")
def epochs(examples):
    """Forty epochs, enough for statistics within a few percent."""
    return examples.batch(np.arange(40 * len(examples)))


def segments(batch, tokenizer):
    """The unmasked tokens of A and B of each row."""
    ids, kinds = unmasked_ids(batch), batch["token_type_ids"]
    lengths = batch["attention_mask"].sum(axis=1)
    pairs = []
    for row, kind, length in zip(ids, kinds, lengths, strict=True):
        end_a = int(np.argmax(kind)) - 1
        assert row[0] == tokenizer.cls_token_id
        assert row[end_a] == row[length - 1] == tokenizer.sep_token_id
        pairs.append((row[1:end_a], row[end_a + 1 : length - 1]))
    return pairs


def test_shapes_and_types(examples):
    """What the model and the objective are built for."""
    batch = examples.batch(np.arange(5))
    expected = {
        "input_ids": ((5, 64), np.int32),
        "attention_mask": ((5, 64), np.int32),
        "token_type_ids": ((5, 64), np.int32),
        "masked_lm_positions": ((5, 10), np.int32),
        "masked_lm_ids": ((5, 10), np.int32),
        "masked_lm_weights": ((5, 10), np.float32),
        "pooled_positions": ((5, 1), np.int32),
        "next_sentence_labels": ((5, 1), np.int32),
        "next_sentence_weights": ((5, 1), np.float32),
    }
    assert {name: (array.shape, array.dtype) for name, array in batch.items()} == expected
    assert set(examples[0]) == set(expected)


def test_layout(epochs, tokenizer):
    """[CLS] A [SEP] B [SEP], types 0 and 1, zeros after the end, neither segment empty."""
    length = epochs["attention_mask"].sum(axis=1)
    column = np.arange(64)
    np.testing.assert_array_equal(epochs["attention_mask"], column < length[:, None])
    padding = epochs["attention_mask"] == 0
    assert (epochs["input_ids"][padding] == tokenizer.pad_token_id).all()
    assert (epochs["token_type_ids"][padding] == 0).all()
    assert (np.diff(epochs["token_type_ids"], axis=1)[~padding[:, 1:]] >= 0).all()
    ids = unmasked_ids(epochs)
    assert (np.isin(ids, tokenizer.special_ids) & ~padding).sum(axis=1).tolist() == [3] * len(ids)
    for a, b in segments(epochs, tokenizer):
        assert len(a) >= 1
        assert len(b) >= 1


def test_masking_statistics(epochs, tokenizer):
    """15 % of the tokens: 80 % [MASK], 10 % unchanged, 10 % some ordinary token."""
    used = epochs["masked_lm_weights"] == 1
    length = epochs["attention_mask"].sum(axis=1)
    expected = np.clip(np.rint(0.15 * length), 1, 10)
    np.testing.assert_array_equal(used.sum(axis=1), expected)
    rows = np.broadcast_to(np.arange(len(used))[:, None], used.shape)[used]
    positions = epochs["masked_lm_positions"][used]
    shown, labels = epochs["input_ids"][rows, positions], epochs["masked_lm_ids"][used]
    is_mask, is_same = shown == tokenizer.mask_token_id, shown == labels
    error = 5 / np.sqrt(len(shown))
    assert abs(is_mask.mean() - 0.8) < 0.4 * error
    # A random token is the old one in 1 of 260 cases.
    assert abs(is_same.mean() - 0.1 - 0.1 / 260) < 0.3 * error
    replaced = shown[~is_mask & ~is_same]
    assert not np.isin(replaced, tokenizer.special_ids).any()
    assert len(np.unique(replaced)) == 260
    assert not np.isin(labels, tokenizer.special_ids).any()


def test_unused_places_are_zero_and_positions_ascend(epochs):
    """The head gathers by position: filler must be harmless, and no position repeats."""
    used = epochs["masked_lm_weights"] == 1
    assert (epochs["masked_lm_positions"][~used] == 0).all()
    assert (epochs["masked_lm_ids"][~used] == 0).all()
    for row, is_used in zip(epochs["masked_lm_positions"], used, strict=True):
        assert (np.diff(row[is_used]) > 0).all()
        assert (np.diff(is_used.astype(int)) <= 0).all()


def test_all_positions_are_masked_equally_often(epochs):
    """Of the sequences of full length, each text position is masked as often as any other."""
    full = epochs["attention_mask"].sum(axis=1) == 64
    positions = epochs["masked_lm_positions"][full][epochs["masked_lm_weights"][full] == 1]
    counts = np.bincount(positions, minlength=64)
    assert counts[0] == counts[63] == 0
    # A and B meet at different places, so any inner position may be a [SEP] now and then.
    inner = counts[1:63] / full.sum()
    assert inner.max() < 0.16 + 5 * np.sqrt(0.16 / full.sum())
    assert inner.min() > 0.12 - 5 * np.sqrt(0.16 / full.sum())


def document_of(segment, tokenizer):
    """Which document's marker tokens a segment holds, None when it was trimmed to plain words."""
    first = tokenizer.id_of("d0")
    found = {int(i) - first for i in segment if i >= first}
    assert len(found) <= 1
    return found.pop() if found else None


def test_next_sentences(epochs, tokenizer):
    """Label 0: B is from the document of A; label 1: from another one. Half and half."""
    labels = epochs["next_sentence_labels"][:, 0]
    random_pairs = 0
    for label, (a, b) in zip(labels, segments(epochs, tokenizer), strict=True):
        from_a, from_b = document_of(a, tokenizer), document_of(b, tokenizer)
        if from_a is not None and from_b is not None:
            assert (from_a != from_b) == label
            random_pairs += label
    assert random_pairs > 1000
    # Single-sentence chunks are always random, so a little more than half.
    assert 0.5 < labels.mean() < 0.6
    assert epochs["next_sentence_weights"].all()


def test_true_pairs_are_the_text(examples, corpus, epochs, tokenizer):
    """Untrimmed true pairs, put together, are a stretch of consecutive sentences."""
    text = [corpus.sentence(number).tolist() for number in range(corpus.num_sentences)]
    whole = {
        tuple(chain.from_iterable(text[start:end]))
        for first, last in pairwise(corpus.document_offsets.tolist())
        for start in range(first, last)
        for end in range(start + 2, min(start + 40, last) + 1)
    }
    labels = epochs["next_sentence_labels"][:, 0]
    short = epochs["attention_mask"].sum(axis=1) < 64
    checked = 0
    for label, is_short, (a, b) in zip(labels, short, segments(epochs, tokenizer), strict=True):
        if label == 0 and is_short:
            assert (*a.tolist(), *b.tolist()) in whole
            checked += 1
    assert checked > 100


def test_every_epoch_has_every_example_once_in_another_order(examples, monkeypatch):
    """Coverage is exact; order and masking are new in each epoch."""
    size = len(examples)
    seen = []
    original = examples._format.segments
    monkeypatch.setattr(
        examples._format,
        "segments",
        lambda visit, chunk: (seen.append(chunk), original(visit, chunk))[1],
    )
    first, second = (examples.batch(np.arange(k * size, (k + 1) * size)) for k in (0, 1))
    assert sorted(seen[0].tolist()) == sorted(seen[1].tolist()) == list(range(size))
    assert (seen[0] != seen[1]).mean() > 0.9
    by_chunk = [np.argsort(chunk) for chunk in seen]
    positions = [
        batch["masked_lm_positions"][order]
        for batch, order in zip((first, second), by_chunk, strict=True)
    ]
    assert (positions[0] != positions[1]).any(axis=1).mean() > 0.9
    labels = [
        batch["next_sentence_labels"][order]
        for batch, order in zip((first, second), by_chunk, strict=True)
    ]
    assert 0.2 < (labels[0] != labels[1]).mean() < 0.8


def test_an_example_does_not_depend_on_its_batch(examples):
    """Alone, in another order, across epochs, on one of several processes: the same bytes."""
    size = len(examples)
    indices = np.concatenate([np.arange(size - 8, size + 8), [10**9, 2**40]])
    together = examples.batch(indices)
    for order in (indices[::-1], np.roll(indices, 5)):
        batch = examples.batch(order)
        at = [int(np.flatnonzero(order == index)[0]) for index in indices]
        for name, array in together.items():
            np.testing.assert_array_equal(batch[name][at], array)
    for row, index in enumerate(indices):
        for name, array in examples[int(index)].items():
            np.testing.assert_array_equal(array, together[name][row])
    with Batches(examples, 8, start_index=size - 8, rows=slice(4, 8), workers=3) as batches:
        parts = [next(batches), next(batches)]
    for name, array in together.items():
        np.testing.assert_array_equal(parts[0][name], array[4:8])
        np.testing.assert_array_equal(parts[1][name], array[12:16])


@pytest.mark.parametrize("packing", [False, True])
def test_a_run_goes_on_from_any_place(packing):
    """A new process, in the middle of any epoch, makes what the old one would have made.

    What is kept of an epoch is made again when it is asked for again, by several threads at once;
    a source is visited more often than once in an epoch.
    """
    rng = np.random.default_rng(0)
    corpus = SmallCorpus(random_documents(rng, 60), sources=[20, 0, 40], weights=(2.5, 1.0, 0.5))
    settings = replace(SETTINGS, packing=packing)

    def make():
        return PretrainingExamples(corpus, corpus.tokenizer(), settings)

    first = make()
    size = len(first)
    whole = first.batch(np.arange(5 * size))
    for start in (size - 5, 2 * size + 7, 4 * size - 3):
        with Batches(make(), 10, start_index=start, workers=3) as batches:
            resumed = [next(batches) for _ in range(4)]
        for name, array in whole.items():
            found = np.concatenate([batch[name] for batch in resumed])
            np.testing.assert_array_equal(found, array[start : start + 40])
    for epoch in (4, 0, 3, 0):
        index = epoch * size + np.arange(size)[::-1]
        for name, array in first.batch(index).items():
            np.testing.assert_array_equal(array, whole[name][index])


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


def test_seeds_give_other_examples(corpus, tokenizer, examples):
    """Two seeds are two runs; the same seed is the same run."""
    again = PretrainingExamples(corpus, tokenizer, SETTINGS)
    other = PretrainingExamples(corpus, tokenizer, replace(SETTINGS, seed=4))
    index = np.arange(20)
    same, different = again.batch(index)["input_ids"], other.batch(index)["input_ids"]
    np.testing.assert_array_equal(same, examples.batch(index)["input_ids"])
    assert (different != same).any()


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


def test_a_long_sentence_is_trimmed_on_both_sides(examples, epochs, corpus, tokenizer):
    """Of 502 tokens at most 61 fit; which ones changes from epoch to epoch."""
    offsets = corpus.sentence_offsets
    longest = int(np.argmax(np.diff(offsets)))
    text = corpus.sentence(longest).tolist()
    assert len(text) == 502
    starts = set()
    for pair in segments(epochs, tokenizer):
        for segment in pair:
            piece = segment.tolist()
            if len(piece) < 30:
                continue
            for start in range(len(text) - len(piece) + 1):
                if text[start : start + len(piece)] == piece:
                    starts.add(start)
    assert len(starts) > 10
    # The number cut in front is a sum of fair coins, around the half of what is cut.
    assert 150 < np.mean(list(starts)) < 300


def test_one_sentence_documents_give_random_pairs(examples, corpus):
    """A document of one sentence has no true next sentence, and is used all the same."""
    single = np.flatnonzero(np.diff(corpus.document_offsets) == 1)
    assert len(single) > 0
    bounds = corpus.sentence_offsets[corpus.document_offsets]
    found = 0
    size = len(examples)
    for epoch in range(5):
        pairs = examples._format.segments(np.full(size, epoch), np.arange(size))
        assert (pairs.lengths > 0).all()
        first = pairs.starts.reshape(-1, 2)[:, 0]
        is_single = np.isin(np.searchsorted(bounds, first, side="right") - 1, single)
        found += is_single.sum()
        assert (pairs.labels[is_single] == 1).all()
    assert found >= 4 * len(single)


def test_the_share_of_random_pairs_is_known_beforehand(corpus, tokenizer, examples):
    """It is that of the labels of epoch 0, but for the chunks that come again; weights count."""
    labels = examples.batch(np.arange(len(examples)))["next_sentence_labels"]
    assert examples.random_next_share is not None
    assert abs(examples.random_next_share - labels.mean()) < 0.03
    for input_format in set(FORMATS) - {"nsp"}:
        settings = replace(SETTINGS, input_format=input_format)
        assert PretrainingExamples(corpus, tokenizer, settings).random_next_share is None
    alone, sources = [[9]] * 500, [500, 100]
    mixed = SmallCorpus([*alone, *[[9] * 60] * 100], sources=sources, weights=(1.0, 5.0))
    made = PretrainingExamples(mixed, mixed.tokenizer(), SETTINGS)
    labels = made.batch(np.arange(len(made)))["next_sentence_labels"]
    assert abs(made.random_next_share - labels.mean()) < 0.02
    alone = SmallCorpus(alone)
    assert PretrainingExamples(alone, alone.tokenizer(), SETTINGS).random_next_share == 1


def test_evaluation_on_the_dev_split(data_dir, tokenizer):
    """One pass with a full last batch whose filler rows weigh nothing."""
    examples = PretrainingExamples(Corpus.open(data_dir, "dev"), tokenizer, SETTINGS)
    batches = list(evaluation_batches(examples, 7))
    weights = np.concatenate([batch["next_sentence_weights"] for batch in batches])
    assert weights.sum() == len(examples)
    filler = weights[:, 0] == 0
    assert 0 < filler.sum() < 7
    masked = np.concatenate([batch["masked_lm_weights"] for batch in batches])
    assert masked[filler].sum() == 0
    assert (masked[~filler].sum(axis=1) > 0).all()


@pytest.mark.parametrize("name", FORMATS)
def test_text_is_read_from_several_token_files(corpus, tokenizer, name):
    """Whatever file a stretch lies in, an example has the tokens that stand there."""
    assert len(corpus.manifest.splits["train"].shard_tokens) > 2
    # The whole text, sentence by sentence: another way to the same tokens.
    text = np.concatenate([corpus.sentence(number) for number in range(corpus.num_sentences)])
    assert len(text) == corpus.num_tokens
    examples = PretrainingExamples(corpus, tokenizer, replace(SETTINGS, input_format=name))
    batch = examples.batch(np.arange(len(examples)))
    visit, chunk = examples._draw(np.zeros(len(examples), int), np.arange(len(examples)))
    stretches = examples._format.segments(visit, chunk)
    wanted = [[tokenizer.cls_token_id] for _ in range(len(examples))]
    for row, start, length in zip(
        stretches.example, stretches.starts, stretches.lengths, strict=True
    ):
        wanted[row] += [*text[start : start + length].tolist(), tokenizer.sep_token_id]
    lengths = batch["attention_mask"].sum(axis=1)
    for ids, length, row in zip(unmasked_ids(batch), lengths, wanted, strict=True):
        assert ids[:length].tolist() == row
    assert ("next_sentence_labels" in batch) == (name in PAIR_FORMATS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_seq_length": 4}, "max_seq_length=4: expected from 8 to 8192"),
        ({"max_seq_length": 8193}, "max_seq_length=8193: expected from 8 to 8192"),
        ({"max_predictions_per_seq": 0}, "max_predictions_per_seq=0: expected at least 1"),
        ({"max_predictions_per_seq": 62}, "max_predictions_per_seq=62: expected from 1 to .* = 61"),
        ({"masked_lm_prob": 0.0}, "masked_lm_prob=0.0"),
        ({"short_seq_prob": 1.5}, "short_seq_prob=1.5"),
        ({"input_format": "pairs"}, "input_format='pairs': expected one of nsp, sop, full_sente"),
        ({"dupe_factor": -1}, "dupe_factor=-1: expected 0 or more"),
        ({"max_sequences_per_pack": -1}, "max_sequences_per_pack=-1: expected 0 or more"),
    ],
)
def test_impossible_settings_are_refused(corpus, tokenizer, change, message):
    """The message names the setting, its value and its range."""
    of_masking = {name: value for name, value in change.items() if hasattr(MaskingSettings, name)}
    others = {name: value for name, value in change.items() if name not in of_masking}
    settings = replace(SETTINGS, masking=replace(SETTINGS.masking, **of_masking), **others)
    with pytest.raises(ConfigError, match=message):
        PretrainingExamples(corpus, tokenizer, settings)


def test_next_sentences_need_a_second_document(tokenizer):
    """There would be no other document for a random next sentence; other formats do without."""
    corpus = SmallCorpus([[5, 6, 7]], ids=np.full(18, 9))
    corpus.manifest.tokenizer_sha256 = tokenizer.sha256
    with pytest.raises(DataError, match=r"has 1 document, expected at least 2"):
        PretrainingExamples(corpus, tokenizer, SETTINGS)
    for name in set(FORMATS) - {"nsp"}:
        assert len(PretrainingExamples(corpus, tokenizer, replace(SETTINGS, input_format=name))) > 0


def test_high_masking_rates_never_exceed_the_text(corpus, tokenizer):
    """With 90 % masked and room for all, short examples have fewer tokens than would be asked."""
    masking = MaskingSettings(masked_lm_prob=0.9, max_predictions_per_seq=61)
    batch = PretrainingExamples(corpus, tokenizer, replace(SETTINGS, masking=masking)).batch(
        np.arange(500)
    )
    count = batch["masked_lm_weights"].sum(axis=1)
    assert (count <= batch["attention_mask"].sum(axis=1) - 3).all()
    assert not np.isin(batch["masked_lm_ids"][batch["masked_lm_weights"] == 1], [2, 3]).any()


def test_another_tokenizer_is_refused(corpus):
    """Ids of one vocabulary read with another would train on noise."""
    other = wordpiece([*SPECIAL_TOKENS, "a"], lowercase=True)
    with pytest.raises(DataError, match=r"tokenizer \(6 tokens\) is not the one .* \(265 tokens"):
        PretrainingExamples(corpus, other, SETTINGS)
