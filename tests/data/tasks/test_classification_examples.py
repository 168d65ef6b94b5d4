"""Classification batches against Hugging Face's tokenizer; their order from (seed, epoch)."""

import numpy as np
import pytest
from tokenizer_checks import wordpiece

from ptft_jax.data.batches import Batches, evaluation_batches
from ptft_jax.data.tasks.classification import ClassificationExamples
from ptft_jax.data.tasks.table import Split, load_task
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
from ptft_jax.errors import ConfigError, DataError

TOKENIZER = wordpiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij"], lowercase=True)
PAD, CLS, SEP = TOKENIZER.pad_token_id, TOKENIZER.cls_token_id, TOKENIZER.sep_token_id


def split_of(texts_a, texts_b=None, labels=None):
    return Split(texts_a, texts_b, labels, "here")


def letters(count):
    """A text of `count` tokens."""
    return " ".join("abcdefghij"[i % 10] for i in range(count))


@pytest.mark.parametrize("max_seq_length", [9, 32, 33, 128])
@pytest.mark.parametrize("task", ["mrpc", "rte", "cola"])
def test_equal_to_hugging_face(shared_data, task, max_seq_length):
    """Ids, types, masks and truncation are those of BertTokenizerFast on real texts and pairs."""
    from transformers import BertTokenizerFast

    vocabulary = shared_data / "tokenizers" / "bert-base-uncased" / "vocab.txt"
    dev = load_task(task, shared_data / "glue").splits["dev"]
    texts_b = None if dev.texts_b is None else dev.texts_b[:300]
    split = split_of(dev.texts_a[:300], texts_b)
    ours = ClassificationExamples(
        split, TextTokenizer.load(vocabulary), max_seq_length, length_buckets=()
    )
    theirs = BertTokenizerFast(vocab=str(vocabulary))(
        split.texts_a,
        split.texts_b,
        truncation=True,
        max_length=max_seq_length,
        padding="max_length",
        return_tensors="np",
    )
    batch = ours.batch(np.arange(len(ours)))
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        assert batch[name].dtype == np.int32
        np.testing.assert_array_equal(batch[name], theirs[name], name)
    if max_seq_length == 32:  # the comparison covers truncation of both texts and of one
        assert ours.num_truncated > 0 or task == "cola"


def test_truncation_of_every_pair_of_lengths():
    """Every combination of short and long texts is cut as transformers cuts it."""
    from transformers import BertTokenizerFast

    lengths = [(a, b) for a in range(14) for b in range(14)]
    split = split_of([letters(a) for a, _ in lengths], [letters(b) for _, b in lengths])
    vocabulary = {TOKENIZER.token(index): index for index in range(TOKENIZER.vocab_size)}
    reference = BertTokenizerFast(vocab=vocabulary)
    for max_seq_length in range(5, 21):
        ours = ClassificationExamples(split, TOKENIZER, max_seq_length, length_buckets=())
        theirs = reference(
            split.texts_a,
            split.texts_b,
            truncation=True,
            max_length=max_seq_length,
            padding="max_length",
            return_tensors="np",
        )
        batch = ours.batch(np.arange(len(ours)))
        for name in ("input_ids", "attention_mask", "token_type_ids"):
            np.testing.assert_array_equal(batch[name], theirs[name], name)


def test_format_by_hand():
    """[CLS] A [SEP] B [SEP], type 1 from B to the last [SEP]; empty texts are fine."""
    labels = np.array([1, 0], np.int32)
    examples = ClassificationExamples(
        split_of(["a b", ""], ["c", ""], labels), TOKENIZER, 8, length_buckets=(7,)
    )
    a, b, c = (TOKENIZER.id_of(token) for token in "abc")
    batch = examples.batch(np.array([0, 1]))
    assert batch["input_ids"].tolist() == [
        [CLS, a, b, SEP, c, SEP, PAD],
        [CLS, SEP, SEP, PAD, PAD, PAD, PAD],
    ]
    assert batch["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1, 0], [0, 0, 1, 0, 0, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0, 0]]
    assert batch["pooled_positions"].tolist() == [[0], [0]]
    assert batch["labels"].tolist() == [1, 0]
    assert batch["labels"].dtype == np.int32
    assert batch["weights"].tolist() == [1.0, 1.0]


def test_smallest_bucket_that_holds_the_longest():
    """Short batches are short: padding to the full length would waste most of the computation."""
    examples = ClassificationExamples(
        split_of([letters(n) for n in (10, 30, 31, 62, 98, 500)]), TOKENIZER, 100
    )
    assert examples.buckets == (32, 64, 96, 100)
    widths = [examples.batch(np.array([i]))["input_ids"].shape[1] for i in range(6)]
    assert widths == [32, 32, 64, 64, 100, 100]
    assert examples.batch(np.array([0, 3]))["input_ids"].shape == (2, 64)
    assert examples.num_truncated == 1


def numbered(count, **settings):
    """Examples whose label is their number."""
    labels = np.arange(count, dtype=np.float32)
    texts = [letters(1 + 7 * (n % 9)) for n in range(count)]
    return ClassificationExamples(split_of(texts, None, labels), TOKENIZER, 96, **settings)


def test_every_epoch_is_a_permutation_of_its_own():
    """Order depends on (seed, epoch) only: every example once per epoch, other epochs otherwise."""
    examples = numbered(50, seed=3, shuffle=True)
    epochs = [examples.batch(np.arange(50) + 50 * e)["labels"].tolist() for e in range(3)]
    for order in epochs:
        assert sorted(order) == list(range(50))
    assert len({tuple(order) for order in epochs}) == 3
    again = numbered(50, seed=3, shuffle=True).batch(np.arange(45, 55))["labels"].tolist()
    assert again == epochs[0][45:] + epochs[1][:5]
    other_seed = numbered(50, seed=4, shuffle=True).batch(np.arange(50))["labels"].tolist()
    assert other_seed != epochs[0]


def test_processes_agree_on_the_padding():
    """Each process's rows have the width of the global batch, else their arrays do not fit."""
    examples = numbered(40, seed=1, shuffle=True)
    with (
        Batches(examples, 8) as whole,
        Batches(examples, 8, rows=slice(0, 4)) as first,
        Batches(examples, 8, rows=slice(4, 8)) as second,
    ):
        for _ in range(12):
            expected, upper, lower = next(whole), next(first), next(second)
            for name, array in expected.items():
                np.testing.assert_array_equal(np.concatenate([upper[name], lower[name]]), array)


def test_evaluation_covers_the_split_once_in_order():
    """Filler rows of the last batch weigh nothing; the others are the split, in its order."""
    batches = list(evaluation_batches(numbered(11), 4))
    weights = np.concatenate([batch["weights"] for batch in batches])
    labels = np.concatenate([batch["labels"] for batch in batches])
    assert weights.tolist() == [1.0] * 11 + [0.0]
    assert labels[weights > 0].tolist() == list(range(11))
    assert labels.dtype == np.float32


def test_a_split_without_labels_has_none_in_its_batches():
    """Made-up labels would be scored by mistake."""
    examples = ClassificationExamples(split_of(["a"]), TOKENIZER, 8)
    assert "labels" not in examples.batch(np.array([0]))


def test_bad_settings_and_texts():
    """Lengths that cannot be and texts that are none are named before any work is done."""
    with pytest.raises(ConfigError, match="max_seq_length=4: expected at least 5"):
        ClassificationExamples(split_of(["a"]), TOKENIZER, 4)
    with pytest.raises(ConfigError, match="positive lengths"):
        ClassificationExamples(split_of(["a"]), TOKENIZER, 8, length_buckets=(0, 4))
    with pytest.raises(DataError, match="here: example 2 is 3; expected a text"):
        ClassificationExamples(split_of(["a", 3]), TOKENIZER, 8)
