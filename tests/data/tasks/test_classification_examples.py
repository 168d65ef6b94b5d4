"""Classification batches against Hugging Face's tokenizer; their order from (seed, epoch)."""

import numpy as np
import pytest
from tokenizer_checks import wordpiece
from transformers import BertTokenizerFast

from ptft_jax.data.batches import Batches
from ptft_jax.data.tasks.catalogue import load_task
from ptft_jax.data.tasks.classification import ClassificationExamples
from ptft_jax.data.tasks.table import Split
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
from ptft_jax.errors import ConfigError

TOKENIZER = wordpiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij"], lowercase=True)


def split_of(texts_a, texts_b=None, labels=None):
    return Split(texts_a, texts_b, labels, "here")


def letters(count):
    """A text of `count` tokens."""
    return " ".join("abcdefghij"[i % 10] for i in range(count))


def assert_equal_to_hugging_face(texts_a, texts_b, tokenizer, reference, length):
    """Ids, types and masks are those of BertTokenizerFast with `truncation=True`."""
    ours = ClassificationExamples(split_of(texts_a, texts_b), tokenizer, length, length_buckets=())
    batch = ours.batch(np.arange(len(ours)))
    theirs = reference(
        texts_a,
        texts_b,
        truncation=True,
        max_length=length,
        padding="max_length",
        return_tensors="np",
    )
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        assert batch[name].dtype == np.int32
        np.testing.assert_array_equal(batch[name], theirs[name], name)
    return batch


@pytest.mark.parametrize("max_seq_length", [9, 32, 33, 128])
@pytest.mark.parametrize("task", ["mrpc", "rte", "cola"])
def test_real_texts_and_pairs_are_cut_as_transformers_cuts_them(shared_data, task, max_seq_length):
    vocabulary = shared_data / "tokenizers" / "bert-base-uncased" / "vocab.txt"
    dev = load_task(task, shared_data / "glue").splits["dev"]
    assert_equal_to_hugging_face(
        dev.texts_a[:300],
        None if dev.texts_b is None else dev.texts_b[:300],
        TextTokenizer.load(vocabulary),
        BertTokenizerFast(vocab=str(vocabulary)),
        max_seq_length,
    )


@pytest.mark.parametrize("max_seq_length", range(5, 21))
def test_every_pair_of_lengths_is_cut_as_transformers_cuts_it(max_seq_length):
    """Empty texts too; a split without labels has none: made-up ones would be scored."""
    pairs = [(letters(a), letters(b)) for a in range(14) for b in range(14)]
    texts_a, texts_b = map(list, zip(*pairs, strict=True))
    vocabulary = {TOKENIZER.token(index): index for index in range(TOKENIZER.vocab_size)}
    reference = BertTokenizerFast(vocab=vocabulary)
    batch = assert_equal_to_hugging_face(texts_a, texts_b, TOKENIZER, reference, max_seq_length)
    assert not batch["pooled_positions"].any()
    assert batch["weights"].all()
    assert "labels" not in batch


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
    epochs = [examples.batch(np.arange(50) + 50 * e)["labels"][:, 0].tolist() for e in range(3)]
    for order in epochs:
        assert sorted(order) == list(range(50))
    assert len({tuple(order) for order in epochs}) == 3
    again = numbered(50, seed=3, shuffle=True).batch(np.arange(45, 55))["labels"][:, 0].tolist()
    assert again == epochs[0][45:] + epochs[1][:5]
    other_seed = numbered(50, seed=4, shuffle=True).batch(np.arange(50))["labels"][:, 0].tolist()
    assert other_seed != epochs[0]


def test_processes_agree_on_the_padding():
    """Each process's rows have the width of the global batch, else their arrays do not fit."""
    examples = numbered(40, seed=1, shuffle=True)
    with (
        Batches(examples, 8) as whole,
        Batches(examples, 8, rows=lambda n: np.arange(0, n // 2)) as first,
        Batches(examples, 8, rows=lambda n: np.arange(n // 2, n)) as second,
    ):
        for _ in range(12):
            expected, upper, lower = next(whole), next(first), next(second)
            for name, array in expected.items():
                np.testing.assert_array_equal(np.concatenate([upper[name], lower[name]]), array)


def test_lengths_that_cannot_be_are_refused():
    with pytest.raises(ConfigError, match="max_seq_length=4: expected at least 5"):
        ClassificationExamples(split_of(["a"]), TOKENIZER, 4)
    with pytest.raises(ConfigError, match="positive lengths"):
        ClassificationExamples(split_of(["a"]), TOKENIZER, 8, length_buckets=(0, 4))
