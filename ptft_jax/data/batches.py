"""Batches of examples, made ahead of time by threads, in an order that no setting changes."""

import copy
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, Self

import numpy as np

from ptft_jax.data.randomness import shuffled_index
from ptft_jax.errors import ConfigError, DataError

Batch = dict[str, np.ndarray]


# From the number of rows of a global batch to those of this process, int64.
Rows = Callable[[int], np.ndarray]


class Examples(Protocol):
    """Random access to training examples: global index g is example g % len of epoch g // len.

    An implementation whose arrays have the same shape whatever rows are asked for may set a class
    attribute `fixed_shape = True`; then a process makes its own rows only. Otherwise the padding
    depends on the longest row of the whole batch, so the whole batch is made and then cut.

    A batch may have fewer rows than examples, where several share one.

    Every key that is `weights` or ends in `_weights` holds weights [B, …] by which a row counts in
    losses and metrics: where all of them are zero, the row counts nothing.

    An implementation whose rows differ in length may have `lengths`, the tokens of each row of
    epoch 0 without shuffling, int64 [len]: see `by_length`.
    """

    def __len__(self) -> int: ...

    def batch(self, indices: np.ndarray) -> Batch:
        """The examples at global `indices` (int64 [B]) as stacked arrays whose first axis is B."""
        ...


class InEpochs:
    """The order of the rows of one split: index g is row g % len of epoch g // len.

    With `_shuffle` each epoch has an order of its own, which depends on (`_seed`, epoch) alone;
    without it every epoch has that of the file.
    """

    _seed: int
    _shuffle: bool

    def __len__(self) -> int:
        raise NotImplementedError

    def in_order(self) -> Self:
        """The same examples, each once and in the order of the file."""
        found = copy.copy(self)
        found._shuffle = False
        return found

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """The rows of the split at global `indices` (int64 [B]), int64 [B]."""
        epochs, rows = np.divmod(np.asarray(indices, np.int64), len(self))
        return shuffled_index(rows, len(self), self._seed, epochs) if self._shuffle else rows


class Batches:
    """An endless iterator over batches that other threads prepare.

    Batch k holds the global examples start_index + [k * batch_size, (k + 1) * batch_size). Which
    examples those are, and what is in them, depends on the examples alone: `rows` cuts this
    process's rows out of the global batch, `workers` threads make up to `prefetch` batches ahead,
    and neither changes a value. NumPy lets go of the interpreter lock in its inner loops, so
    threads are enough.

    An exception in a thread is raised by the `next` whose batch it concerns. Use it as a context
    manager, or call `close`; both wait for batches in the making and leave no thread behind.
    """

    def __init__(
        self,
        examples: Examples,
        batch_size: int,
        start_index: int = 0,
        rows: Rows | None = None,
        prefetch: int = 2,
        workers: int = 1,
    ) -> None:
        """Start making batches.

        `start_index` counts examples, not batches, so that a run can be resumed with another batch
        size. `rows` None means all rows. Raises ConfigError for sizes below one, and DataError for
        an empty set of examples.
        """
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("start_index", start_index, 0),
            ("prefetch", prefetch, 1),
            ("workers", workers, 1),
        ):
            if value < least:
                raise ConfigError(f"{name}={value}: expected at least {least}")
        if len(examples) == 0:
            raise DataError("there are no examples to make batches of")
        self._examples = examples
        self._batch_size = batch_size
        self._rows = rows
        self._next_index = start_index
        self._submitted = start_index
        self._ahead = max(prefetch, workers)
        self._waiting: deque[Future[Batch]] = deque()
        self._closed = False
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="ptft-batches")
        self._fill()

    @property
    def next_index(self) -> int:
        """The global example index that follows the last batch handed out: where to resume."""
        return self._next_index

    def _fill(self) -> None:
        while len(self._waiting) < self._ahead:
            start, self._submitted = self._submitted, self._submitted + self._batch_size
            indices = np.arange(start, self._submitted, dtype=np.int64)
            self._waiting.append(self._pool.submit(make_rows, self._examples, indices, self._rows))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        if self._closed:
            raise StopIteration
        try:
            batch = self._waiting.popleft().result()
        except BaseException:
            self.close()
            raise
        self._next_index += self._batch_size
        self._fill()
        return batch

    def close(self) -> None:
        """Stop the threads: drop batches not yet begun, wait for those in the making."""
        self._closed = True
        self._waiting.clear()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def make_rows(examples: Examples, indices: np.ndarray, rows: Rows | None) -> Batch:
    """The `rows` (None: all) of the global batch made of the examples at `indices`."""
    if rows is None:
        return examples.batch(indices)
    if getattr(examples, "fixed_shape", False):
        return examples.batch(indices[rows(len(indices))])
    batch = examples.batch(indices)
    own = rows(len(next(iter(batch.values()))))
    return {name: array[own] for name, array in batch.items()}


def evaluation_batches(
    examples: Examples,
    batch_size: int,
    rows: Rows | None = None,
    max_batches: int | None = None,
    order: np.ndarray | None = None,
) -> Iterator[Batch]:
    """Yield every example of epoch 0 once, in ceil(len / batch_size) batches of equal size.

    The last batch is filled up by repeating the last example with all its weights zero (see
    `Examples`), so that every batch has one shape and sums over weights are right. `rows` cuts this
    process's rows out of each batch; all processes yield equally many. `max_batches` None means all
    of them. `order` (int64 [len]) is that of the examples, such as `by_length`'s; None: their own.
    Raises ValueError for batches without weights: their fillers would count.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size={batch_size}: expected at least 1")
    if len(examples) == 0:
        raise DataError("there are no examples to evaluate on")
    starts = range(0, len(examples), batch_size)
    for start in starts if max_batches is None else starts[:max_batches]:
        indices = np.arange(start, start + batch_size, dtype=np.int64)
        is_filler = indices >= len(examples)
        indices = np.minimum(indices, len(examples) - 1)
        batch = make_rows(examples, indices if order is None else order[indices], rows)
        is_filler = is_filler if rows is None else is_filler[rows(batch_size)]
        weights = [name for name in batch if name == "weights" or name.endswith("_weights")]
        if not weights:
            raise ValueError(
                f"a batch to evaluate has no weights among its keys {', '.join(batch)}: expected "
                "'weights' or a key that ends in '_weights', by which a row can be left out"
            )
        for name in weights if is_filler.any() else ():
            batch[name] = batch[name].copy()
            batch[name][is_filler] = 0
        yield batch


def by_length(examples: Examples) -> np.ndarray:
    """The order of the rows of epoch 0 by their `lengths`, the longest first: int64 [len].

    Rows of like length then share a batch, which needs little padding; the largest batch is the
    first, so that where memory is short it is known at once. Without `lengths` it is their own.
    """
    lengths = getattr(examples, "lengths", None)
    return np.arange(len(examples)) if lengths is None else np.argsort(-lengths, kind="stable")
