"""The batch pipeline: its order is part of the result, so no setting of speed may change it."""

import threading
import time
from functools import partial

import numpy as np
import pytest

from ptft_jax.data.batches import Batches, evaluation_batches
from ptft_jax.errors import ConfigError, DataError


class Numbers:
    """Examples whose content is their global index; odd ones take longer, to shake up the order."""

    fixed_shape = True

    def __init__(self, size: int, bad: int | None = None):
        self.size = size
        self.bad = bad

    def __len__(self):
        return self.size

    def batch(self, indices):
        if self.bad is not None and self.bad in indices:
            raise DataError(f"example {self.bad} is bad")
        time.sleep(0.002 * (indices[0] % 3))
        return {
            "index": indices.copy(),
            "position": indices % self.size,
            "weights": np.ones(len(indices), np.float32),
        }


class Padded(Numbers):
    """Examples padded to the longest of the batch."""

    fixed_shape = False

    def batch(self, indices):
        return {"ids": np.ones((len(indices), int(indices.max()) + 1), np.int32)}


def take(batches, count):
    return [next(batches)["index"].tolist() for _ in range(count)]


def our_threads():
    return [t for t in threading.enumerate() if t.name.startswith("ptft-batches")]


@pytest.mark.parametrize(("workers", "prefetch"), [(1, 1), (4, 2), (4, 8)])
def test_order_does_not_depend_on_workers_or_prefetch(workers, prefetch):
    """Batch k holds the indices after batch k-1's, across epochs; a resumed run goes on there."""
    with Batches(Numbers(10), 4, workers=workers, prefetch=prefetch) as batches:
        assert take(batches, 6) == [list(range(4 * k, 4 * k + 4)) for k in range(6)]
        resume_at = batches.next_index
    with Batches(Numbers(10), 3, start_index=resume_at, workers=workers) as batches:
        assert take(batches, 2) == [[24, 25, 26], [27, 28, 29]]


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("kind", [Numbers, Padded])
def test_rows_of_all_processes_make_the_global_batch(processes, kind):
    """The number of processes changes neither content nor order nor padding."""
    with Batches(kind(10), 8) as batches:
        expected = [next(batches) for _ in range(3)]
    share = 8 // processes
    parts = []
    for process in range(processes):
        own = np.arange(process * share, (process + 1) * share)
        with Batches(kind(10), 8, rows=partial(lambda own, count: own, own)) as batches:
            parts.append([next(batches) for _ in range(3)])
    for k, whole in enumerate(expected):
        for name, array in whole.items():
            np.testing.assert_array_equal(np.concatenate([p[k][name] for p in parts]), array)


def test_an_exception_surfaces_at_its_batch_and_leaves_no_thread():
    """Good batches before the bad one still arrive; afterwards the iterator is over."""
    batches = Batches(Numbers(100, bad=9), 4, workers=3, prefetch=4)
    take(batches, 2)
    with pytest.raises(DataError, match="example 9 is bad"):
        next(batches)
    assert not our_threads()
    assert next(batches, None) is None


def test_close_leaves_no_thread():
    """A run that ends must not hang on its data threads; closing twice is harmless."""
    batches = Batches(Numbers(100), 4, workers=4, prefetch=16)
    next(batches)
    batches.close()
    batches.close()
    assert not our_threads()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 2, "workers": 0}, "workers=0"),
        ({"batch_size": 2, "prefetch": 0}, "prefetch=0"),
        ({"batch_size": 2, "start_index": -1}, "start_index=-1"),
    ],
)
def test_refuses_impossible_settings(settings, message):
    """The message names the setting, its value and what was expected."""
    with pytest.raises(ConfigError, match=f"{message}: expected at least"):
        Batches(Numbers(3), **settings)


def test_refuses_no_examples():
    """An empty set of examples would otherwise divide by zero deep inside."""
    with pytest.raises(DataError, match="no examples"):
        Batches(Numbers(0), 2)
    with pytest.raises(DataError, match="no examples"):
        next(evaluation_batches(Numbers(0), 2))


class Weighed(Numbers):
    """Examples of an objective that nobody knows here: a weight per row, and one per token."""

    def batch(self, indices):
        ones = np.ones((len(indices), 3), np.float32)
        return {
            "position": indices % self.size,
            "contrastive_weights": ones[:, 0],
            "token_weights": ones * (1 + indices[:, None]),
            "weights_of_nothing": ones,
        }


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_fillers_count_nothing_by_any_weight(processes):
    """Fillers counted in every objective whose weights had other names than three known ones."""
    share = 4 // processes
    shares = [np.arange(process * share, (process + 1) * share) for process in range(processes)]
    owns = [partial(lambda own, count: own, share) for share in shares]
    parts = [list(evaluation_batches(Weighed(5), 4, own)) for own in owns]
    whole = [
        {name: np.concatenate([part[name] for part in batch]) for name in batch[0]}
        for batch in zip(*parts, strict=True)
    ]
    assert [batch["contrastive_weights"].tolist() for batch in whole] == [[1] * 4, [1, 0, 0, 0]]
    expected = [[[1] * 3, [2] * 3, [3] * 3, [4] * 3], [[5] * 3, [0] * 3, [0] * 3, [0] * 3]]
    assert [batch["token_weights"].tolist() for batch in whole] == expected
    assert whole[1]["weights_of_nothing"].all()
    assert [batch["position"].tolist() for batch in whole] == [[0, 1, 2, 3], [4] * 4]


def test_batches_without_weights_are_not_evaluated():
    """Nothing could take their fillers out; it is said at the first batch, with or without any."""
    with pytest.raises(ValueError, match="no weights among its keys ids: expected 'weights' or"):
        next(evaluation_batches(Padded(8), 4))


def test_evaluation_can_be_cut_short():
    """max_batches bounds the time of an evaluation in the middle of training."""
    assert len(list(evaluation_batches(Numbers(10), 4, max_batches=2))) == 2
