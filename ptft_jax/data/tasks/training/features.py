"""Examples of a task with what an encoder made of them in place of their tokens.

Of an encoder that is not trained a row gives the same vectors in every epoch: those at its pooled
positions, or, where a head reads tokens, those of all its tokens. They lie one behind the other in
one array, row after row of the split, and `places_of` says which of them a batch has where.
"""

from typing import Any, Protocol, Self

import numpy as np

from ptft_jax.data.batches import Batch
from ptft_jax.data.ragged import firsts
from ptft_jax.data.tasks.training.packed import Unpacked


class Ordered(Unpacked, Protocol):
    """Examples of a kind of task; see `Unpacked` and `data.batches.InEpochs`."""

    def rows(self, indices: np.ndarray) -> np.ndarray: ...
    def in_order(self) -> Self: ...


class Numbered:
    """Examples whose batches say which row of the split each is, also where they are packed."""

    def __init__(self, examples: Ordered) -> None:
        self._examples = examples

    def __getattr__(self, name: str) -> Any:
        return getattr(self._examples, name)

    def __len__(self) -> int:
        return len(self._examples)

    def batch(self, indices: np.ndarray) -> Batch:
        """The examples at global `indices` (int64 `[B]`), with `rows` int32 `[B, 1]`."""
        rows = self._examples.rows(indices).astype(np.int32)
        return self._examples.batch(indices) | {"rows": rows[:, None]}


def starts_of(examples: Unpacked) -> np.ndarray:
    """Where the vectors of each row of the split begin, and where the last ones end: int64 [N+1].

    `examples` are numbered, perhaps packed.
    """
    first = examples.batch(np.arange(1))
    sizes = examples.lengths
    if "pooled_positions" in first:
        sizes = np.full(len(examples), first["pooled_positions"][0, 0].size)
    return np.append(firsts(sizes), sizes.sum())


def places_of(batch: Batch, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which vectors belong to the S places of each row of a batch of numbered examples.

    S are the pooled positions of a row, in order, or its tokens. Returns the vectors' numbers,
    int64 [R, S], and whether there is something at a place, bool [R, S].
    """
    if "pooled_positions" in batch:
        each = batch["pooled_positions"][0, 0].size
        numbers = starts[batch["rows"]][:, :, None] + np.arange(each)
        is_real = np.broadcast_to(batch["weights"][:, :, None] > 0, numbers.shape)
        return numbers.reshape(len(numbers), -1), is_real.reshape(len(numbers), -1)
    is_real = batch["attention_mask"] > 0
    if "segment_ids" not in batch:
        return starts[batch["rows"]] + np.arange(is_real.shape[1]), is_real
    example = np.maximum(batch["segment_ids"] - 1, 0)
    rows = np.take_along_axis(batch["rows"], example, axis=1)
    return starts[rows] + batch["position_ids"], is_real


class WithFeatures:
    """Numbered examples, perhaps packed, whose batches have features in place of tokens.

    What else there is to know of the examples, they know themselves. `features` are the vectors
    [starts[-1], D] of all rows; see `starts_of`.
    """

    def __init__(self, examples: Unpacked, starts: np.ndarray, features: np.ndarray) -> None:
        self._examples = examples
        self._starts = starts
        self.features = features

    def __getattr__(self, name: str) -> Any:
        return getattr(self._examples, name)

    def __len__(self) -> int:
        return len(self._examples)

    def batch(self, indices: np.ndarray) -> Batch:
        """The examples at global `indices` (int64 `[B]`), in the rows that they would have.

        `last_hidden_state` [R, S, D] stands for `input_ids`, `token_type_ids` and `position_ids`;
        pooled positions, and with them S, count the examples of a row, and not its tokens.
        """
        batch = self._examples.batch(indices)
        numbers, is_real = places_of(batch, self._starts)
        batch["last_hidden_state"] = self.features[np.where(is_real, numbers, 0)]
        gone = ["rows", "input_ids", "token_type_ids", "position_ids"]
        if "pooled_positions" in batch:
            shape = batch["pooled_positions"].shape
            places = np.arange(numbers.shape[1], dtype=np.int32).reshape(shape[1:])
            batch["pooled_positions"] = np.broadcast_to(places, shape)
            gone.append("segment_ids")
        return {name: values for name, values in batch.items() if name not in gone}
