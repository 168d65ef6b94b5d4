"""Random numbers by counter: all that is random in the data rests on these."""

import numpy as np
import pytest

from ptft_jax.data.randomness import (
    extended,
    random_below,
    random_uint64,
    shuffled_index,
    uniform,
)


def test_values_do_not_depend_on_how_they_are_asked_for():
    """A batch of counters gives what the counters give one by one: batches can be cut anywhere."""
    whole = random_uint64(7, "masking", np.arange(5)[:, None], np.arange(9))
    single = [[int(random_uint64(7, "masking", i, j)) for j in range(9)] for i in range(5)]
    assert whole.tolist() == single
    later = extended(random_uint64(7, "masking", np.arange(5)[:, None]), np.arange(9))
    assert later.tolist() == single


def test_values_are_pinned():
    """A change of the mixing would change every run's data order: it must not happen unnoticed."""
    assert random_uint64(0, "masking", 0).item() == 2237327843223135417
    assert random_uint64(-1, "masking", 2**40, 3).item() == 2751539235878679756
    assert shuffled_index(np.arange(10), 10, 5, 1).tolist() == [1, 9, 0, 2, 3, 4, 7, 6, 8, 5]


def test_seed_stream_and_counters_all_matter():
    """Purposes and examples must not share random numbers."""
    values = {
        random_uint64(seed, stream, i, j).item()
        for seed in range(4)
        for stream in ("a", "b")
        for i in range(10)
        for j in range(10)
    }
    assert len(values) == 4 * 2 * 100


def test_uniform_is_uniform_and_uncorrelated():
    """Means, bins and neighbouring counters, within five standard errors."""
    values = uniform(3, "test", np.arange(200)[:, None], np.arange(1000))
    assert values.dtype == np.float64
    assert 0 <= values.min() < values.max() < 1
    below = random_below(np.array([[1], [3], [10]]), 0, "test", np.arange(1000))
    assert [sorted(set(row.tolist())) for row in below] == [[0], [0, 1, 2], list(range(10))]
    bins = np.bincount((values * 20).astype(int).ravel(), minlength=20)
    assert np.abs(bins - 10_000).max() < 5 * np.sqrt(10_000)
    assert abs(np.corrcoef(values[1:].ravel(), values[:-1].ravel())[0, 1]) < 5 / np.sqrt(2e5)
    assert abs(np.corrcoef(values[:, 1:].ravel(), values[:, :-1].ravel())[0, 1]) < 5 / np.sqrt(2e5)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 31, 32, 33, 1000, 4097])
def test_shuffled_index_is_a_permutation(size):
    """An epoch has every example exactly once, whatever the number of examples."""
    for epoch in range(3):
        order = shuffled_index(np.arange(size), size, 11, epoch)
        assert sorted(order.tolist()) == list(range(size))
