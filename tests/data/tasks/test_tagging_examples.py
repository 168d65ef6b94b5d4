"""Batches of tagged words: labels on tokens as transformers' run_ner.py puts them, and windows."""

import numpy as np
import pytest
from tokenizer_checks import wordpiece
from transformers import BertTokenizerFast

from ptft_jax.data.tasks.files.conll import read_tagged
from ptft_jax.data.tasks.tagging.examples import TaggingExamples, TaggingSplit
from ptft_jax.data.tasks.tagging.splits import inside_ids, tag_ids, tag_names
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TOKENIZER = wordpiece([*SPECIAL, *"abcdefghij", *(f"##{letter}" for letter in "abcdefghij")])
UNK = 1


def split_of(sentences, tags=None):
    ids = None if tags is None else [np.array(some, np.int32) for some in tags]
    return TaggingSplit(sentences, ids, "here")


def whole(examples):
    return examples.batch(np.arange(len(examples)))


def outputs_of(examples):
    """What a model would say that tags every token with its id and scores it by its place."""
    batch = whole(examples)
    places = np.arange(batch["input_ids"].shape[1]) + 0.01 * np.arange(len(examples))[:, None]
    return {"tags": batch["input_ids"], "scores": places.astype(np.float32)}


@pytest.mark.parametrize("label_all", [False, True])
def test_labels_are_those_of_run_ner(shared_data, label_all):
    """Its `tokenize_and_align_labels`, with and without `--label_all_tokens`, on WNUT-17."""
    folder, vocabulary = shared_data / "wnut17", shared_data / "tokenizers" / "bert-base-uncased"
    if not (folder.exists() and vocabulary.exists()):
        pytest.skip(f"needs {folder} and {vocabulary}")
    train = read_tagged(folder / "wnut17train.conll")
    names = tag_names(train)
    chosen = [i for i, words in enumerate(train.words) if len(words) < 30][:400]
    words, tags = [train.words[i] for i in chosen], [train.tags[i] for i in chosen]
    split = TaggingSplit(words, [tag_ids(train, names)[i] for i in chosen], "here")
    examples = TaggingExamples(
        split,
        TextTokenizer.load(vocabulary / "vocab.txt"),
        128,
        label_all_subwords=label_all,
        inside=inside_ids(names),
        length_buckets=(),
    )
    assert (len(examples), examples.num_truncated, examples.num_unknown) == (400, 0, 0)
    tokenizer = BertTokenizerFast(vocab=str(vocabulary / "vocab.txt"))
    encoded = tokenizer(words, is_split_into_words=True, padding="max_length", max_length=128)
    batch = whole(examples)
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        np.testing.assert_array_equal(batch[name], encoded[name])
    for row, their_tags in enumerate(tags):
        expected, before = [], None
        for number in encoded.word_ids(row):
            if number is None:
                expected.append(-100)
            elif number != before:
                expected.append(names.index(their_tags[number]))
            else:
                inside = their_tags[number].replace("B-", "I-")
                expected.append(names.index(inside) if label_all else -100)
            before = number
        is_read = np.array(expected) != -100
        np.testing.assert_array_equal(batch["label_weights"][row], is_read)
        np.testing.assert_array_equal(batch["labels"][row], np.where(is_read, expected, 0))


@pytest.mark.parametrize("length", [5, 6, 8, 12, 33])
def test_each_word_of_a_long_sentence_is_labelled_once(length):
    """In the window with most context; decoding takes one tag for each word from there."""
    rng = np.random.default_rng(0)
    sentences = [
        ["".join(rng.choice([*"abcdefghij"], rng.integers(1, 5))) for _ in range(n)]
        for n in (1, 3, 40, 2, 17, 100)
    ]
    # The tag of a word is the id of its first token: a wrong place would show.
    tags = [[5 + "abcdefghij".index(word[0]) for word in words] for words in sentences]
    examples = TaggingExamples(split_of(sentences, tags), TOKENIZER, length)
    assert examples.num_truncated == sum(sum(map(len, words)) > length - 2 for words in sentences)
    batch = whole(examples)
    is_read = batch["label_weights"] > 0
    assert is_read.sum() == sum(map(len, sentences))
    np.testing.assert_array_equal(batch["labels"][is_read], batch["input_ids"][is_read])
    decoded = examples.decode(outputs_of(examples))
    assert [[tag for tag, _ in some] for some in decoded] == tags


@pytest.mark.parametrize("length", [10, 11, 40])
def test_a_word_is_read_in_the_window_with_most_context(length):
    """Every window that shows a word is tried; where a sentence ends its context is complete."""
    tokenizer = wordpiece([*SPECIAL, *(f"w{place}" for place in range(50))])
    examples = TaggingExamples(
        split_of([[f"w{place}" for place in range(50)]], [np.zeros(50)]),
        tokenizer,
        length,
    )
    batch = whole(examples)
    windows = (batch["input_ids"][:, 1:-1] - len(SPECIAL)).tolist()
    for place in range(50):
        contexts = []
        for window in windows:
            if place not in window:
                contexts.append(-1)
                continue
            left = place - window[0] if window[0] > 0 else 50
            right = window[-1] - place if window[-1] < 49 else 50
            contexts.append(min(left, right))
        read = [row for row, window in enumerate(windows) if place in window]
        read = [row for row in read if batch["label_weights"][row, 1 + windows[row].index(place)]]
        assert len(read) == 1
        assert contexts[read[0]] == max(contexts)


def test_words_without_a_token_stand_as_the_unknown_one():
    """A zero-width space has a line, and so a tag, of its own in published files."""
    sentences = [["\u200b", "ab", " "], ["a", "\ufeff", "b"]]
    examples = TaggingExamples(split_of(sentences, [[1, 2, 3], [4, 5, 6]]), TOKENIZER, 8)
    assert examples.num_unknown == 3
    batch = whole(examples)
    a, b, ab = (TOKENIZER.id_of(token) for token in ("a", "b", "##b"))
    cls_id, sep_id, pad_id = TOKENIZER.cls_token_id, TOKENIZER.sep_token_id, TOKENIZER.pad_token_id
    assert batch["input_ids"].tolist() == [
        [cls_id, UNK, a, ab, UNK, sep_id, pad_id, pad_id],
        [cls_id, a, UNK, b, sep_id, pad_id, pad_id, pad_id],
    ]
    assert batch["labels"].tolist() == [[0, 1, 2, 0, 3, 0, 0, 0], [0, 4, 5, 6, 0, 0, 0, 0]]
    decoded = examples.decode(outputs_of(examples))
    assert [[tag for tag, _ in some] for some in decoded] == [[UNK, a, UNK], [a, UNK, b]]


def test_texts_without_tags_and_without_words():
    examples = TaggingExamples(split_of([[], ["a", "b"], []]), TOKENIZER, 16, length_buckets=(4, 8))
    assert examples.batch(np.array([0]))["input_ids"].shape == (1, 4)
    assert sorted(whole(examples)) == [
        "attention_mask",
        "input_ids",
        "token_type_ids",
        "weights",
    ]
    assert [len(some) for some in examples.decode(outputs_of(examples))] == [0, 2, 0]


def test_epochs_are_shuffled_and_batches_have_the_smallest_bucket():
    sentences = [["a"] * size for size in (3, 40, 60, 10, 90)]
    split = split_of(sentences, [[0] * len(words) for words in sentences])
    examples = TaggingExamples(split, TOKENIZER, 64, seed=3, shuffle=True)
    assert (len(examples), examples.buckets) == (6, (32, 64))
    epochs = [
        [int(examples.batch(np.array([6 * epoch + i]))["attention_mask"].sum()) for i in range(6)]
        for epoch in (0, 1)
    ]
    assert sorted(epochs[0]) == sorted(epochs[1]) == [5, 12, 42, 62, 64, 64]
    assert epochs[0] != epochs[1]


def test_the_fingerprint_tells_words_and_tags_apart():
    splits = [
        split_of([["a", "b"]], [[0, 1]]),
        split_of([["a", "b"]], [[1, 0]]),
        split_of([["a"], ["b"]], [[0], [1]]),
        split_of([["ab"]], [[0]]),
        split_of([["a", "b"]]),
    ]
    assert len({split.fingerprint() for split in splits}) == len(splits)
    assert splits[0].fingerprint() == split_of([["a", "b"]], [[0, 1]]).fingerprint()
