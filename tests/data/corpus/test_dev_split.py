"""The dev split and the vocabulary's sample: fair, deterministic, in constant memory."""

from pathlib import Path

import numpy as np
import pytest

from ptft_jax.data.corpus.dev_split import HashEnds
from ptft_jax.data.corpus.journal import AppendFile
from ptft_jax.data.randomness import random_uint64
from ptft_jax.data.tokenizer.sample import VocabularySample
from ptft_jax.errors import DataError


def threshold_of(hashes: np.ndarray, fraction: float) -> int:
    ends = HashEnds()
    for part in np.array_split(hashes, 3):
        ends.add(part)
    return ends.threshold(fraction, ["text.txt"])


@pytest.mark.parametrize("fraction", [1e-9, 0.3, 1 - 1e-9])
@pytest.mark.parametrize("count", [4, 5, 30])
def test_both_splits_have_two_documents(fraction, count):
    """The random next sentence needs another document in each split."""
    hashes = random_uint64(0, "test", np.arange(count))
    # Copies do not count: they are in one split with the first.
    hashes = np.concatenate([hashes, np.repeat(hashes.min(), 20), np.repeat(hashes.max(), 20)])
    threshold = threshold_of(hashes, fraction)
    assert 0 < threshold < 1 << 64
    is_dev = np.unique(hashes) < np.uint64(threshold)
    assert is_dev.sum() >= 2
    assert (~is_dev).sum() >= 2


def test_the_share_is_as_asked_and_documents_stay_in_their_split():
    """Text that is added later must not move what was held out into the training data."""
    hashes = random_uint64(0, "test", np.arange(100_000))
    few, many = (threshold_of(hashes[:count], 0.02) for count in (1000, 100_000))
    assert few == many == round(0.02 * 2**64)
    # Three standard deviations of a binomial share.
    share = (hashes < np.uint64(many)).mean()
    assert abs(share - 0.02) < 3 * np.sqrt(0.02 * 0.98 / 100_000)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_too_few_documents_are_an_error(count):
    """Counted are different ones, and the message names the inputs."""
    hashes = np.repeat(random_uint64(0, "test", np.arange(count)), 5)
    message = (
        f"{count} documents .copies not counted. in text.txt" if count else "the corpus is empty"
    )
    with pytest.raises(DataError, match=message):
        threshold_of(hashes, 0.5)


def sample(path: Path, documents: list[tuple[str, ...]], limit: int, block: int) -> list[str]:
    """The sampled lines; the sample is closed and opened again after every block."""
    counts: list[int] = []
    size = 0
    for first in range(0, len(documents), block):
        some = documents[first : first + block]
        file = AppendFile(path, size)
        drawn = VocabularySample(file, limit, 0, counts)
        drawn.add(first, some, np.ones(len(some), bool))
        counts, size = drawn.counts, file.size
        file.sync()
        file.close()
    file = AppendFile(path, size)
    lines = list(VocabularySample(file, limit, 0, counts).lines())
    file.close()
    return lines


def test_the_sample_is_bounded_and_does_not_depend_on_blocks(tmp_path):
    """It uses most of what it may, keeps the order of the text, and its file stays small."""
    rng = np.random.default_rng(0)
    documents = [
        (f"document {number}", "x" * int(rng.integers(1, 200))) for number in range(20_000)
    ]
    one = sample(tmp_path / "one", documents, 20_000, 7000)
    two = sample(tmp_path / "two", documents, 20_000, 611)
    assert one == two
    characters = sum(map(len, one)) + len(one) // 2
    assert 0.9 * 20_000 < characters <= 20_000
    numbers = [int(line.split()[1]) for line in one[::2]]
    assert numbers == sorted(numbers)
    # Over the whole text, not from its beginning.
    assert 7000 < np.mean(numbers) < 13_000
    # A limit times (1 + ln(text / limit)), as of any sample drawn from a stream.
    total = sum(len("\n".join(lines)) for lines in documents)
    assert (tmp_path / "one").stat().st_size < 1.5 * 20_000 * (1 + np.log(total / 20_000))


def test_everything_is_sampled_if_it_fits_and_one_document_in_any_case(tmp_path):
    """Short texts are learned from whole, and a limit that is too small still gives a sample."""
    documents = [(f"a{number}", "b") for number in range(100)]
    whole = sample(tmp_path / "whole", documents, 10_000, 30)
    assert whole == [line for lines in documents for line in lines]
    least = sample(tmp_path / "least", documents, 1, 30)
    assert len(least) == 2


def test_documents_that_are_left_out_are_not_sampled(tmp_path):
    """A thousand copies of a licence text should not make its words common."""
    file = AppendFile(tmp_path / "sample")
    drawn = VocabularySample(file, 1000, 0)
    drawn.add(0, [("kept",), ("copy",), ("kept too",)], np.array([True, False, True]))
    assert list(drawn.lines()) == ["kept", "kept too"]
    file.close()
