"""Several examples of a task share a row, which attention keeps apart by their segments.

Short texts leave most of a padded row empty. A packed batch holds the same examples as a padded
one, in fewer rows: the loss and its gradient are the same (Krell et al. 2021, "Efficient Sequence
Packing without Cross-contamination").
"""

import math
from typing import Any, Protocol

import numpy as np

from ptft_jax.data.batches import Batch
from ptft_jax.data.pretraining.packing import best_fit_decreasing

# Rows hold so many tokens at least, also of shorter examples: in shorter rows more stays empty.
_LEAST = 128
# The number of rows of a batch goes up in so many steps, since each number is compiled anew.
_STEPS = 8
_PLACES = ("pooled_positions", "start_positions", "end_positions")


class Unpacked(Protocol):
    """Examples of a kind of task, a row each; see `data.batches.Examples`.

    Attributes:
        buckets: the lengths of rows, the longest last.
        lengths: the tokens of each example, int64 [N].
        num_truncated: how many did not fit.
        token_keys: the keys of a batch beside BERT's inputs that hold a value for each token,
            [B, T]. All others hold one for each example, [B, 1, …].
    """

    @property
    def buckets(self) -> tuple[int, ...]: ...
    @property
    def lengths(self) -> np.ndarray: ...
    @property
    def token_keys(self) -> tuple[str, ...]: ...
    def __len__(self) -> int: ...
    def batch(self, indices: np.ndarray) -> Batch: ...


class PackedExamples:
    """The examples of a task, several in a row; a batch of B examples has as many rows as it needs.

    `buckets` is the one length of all rows, `most` how many examples share one at most.
    """

    def __init__(
        self,
        examples: Unpacked,
        pad_token_id: int,
        batch_size: int,
        unit: int = 1,
        virtual_tokens: int = 0,
    ) -> None:
        """Chooses the length of the rows, and by how many rows a batch grows.

        `unit`: the rows of a batch are a multiple of it, as `batch_size` is, so that devices and
        micro-batches get equally many. `virtual_tokens`: how many the model puts in front of each
        text, for which rows have room left at their end.
        """
        self._examples = examples
        self._pad_token_id = pad_token_id
        self._room = 0
        if virtual_tokens:
            first = examples.batch(np.arange(1))
            texts = first["pooled_positions"][0, 0].size if "segment_ids" in first else 1
            self._room = virtual_tokens * texts
        lengths = examples.lengths + self._room
        self.length = max(_LEAST, 32 * math.ceil(int(lengths.max()) / 32))
        self.buckets = (self.length,)
        # Twice as many as fill a row in the mean: hardly ever too few.
        self.most = min(batch_size, math.ceil(2 * self.length / lengths.mean()))
        self._unit = unit
        self._step = unit * math.ceil(batch_size / _STEPS / unit)

    def __getattr__(self, name: str) -> Any:
        # What else there is to know of the examples, they know themselves.
        return getattr(self._examples, name)

    def __len__(self) -> int:
        return len(self._examples)

    def batch(self, indices: np.ndarray) -> Batch:
        """The examples at global `indices` (int64 `[B]`) in R rows, R at most B.

        Which of them share a row follows from their lengths alone. The arrays are those of the
        unpacked examples: `[R, T]` for each token, `[R, P, …]` for each example, with zero weights
        where there is none; `segment_ids` (from 1 in each row, 0 padding) and `position_ids` int32
        `[R, T]`. Where there is room for virtual tokens, `first_positions` int32 `[R, S]` are those
        of the first token of each text. Rows at the end may be empty.
        """
        padded = self._examples.batch(indices)
        lengths = padded["attention_mask"].sum(axis=1)
        taken = lengths.astype(np.int64) + self._room
        plan = best_fit_decreasing(taken, self.length, self.most)
        counts = np.diff(plan.first)
        row_of = np.repeat(np.arange(len(plan)), counts)
        order = plan.examples
        place_of = np.arange(len(order)) - plan.first[row_of]
        ends = np.cumsum(lengths[order])
        starts = ends - lengths[order]
        starts -= starts[plan.first[row_of]]
        rows = self._step * math.ceil(len(plan) / self._step)
        rows = min(rows, self._unit * math.ceil(len(indices) / self._unit))

        # Token k of example i goes to column starts[i] + k of its row.
        of_example, column = np.nonzero(padded["attention_mask"][order])
        to = row_of[of_example], starts[of_example] + column
        source = order[of_example], column
        batch: Batch = {}
        inner = padded.pop("segment_ids", None)
        positions = padded.pop("position_ids", None)
        token_keys = ("input_ids", "attention_mask", "token_type_ids", *self._examples.token_keys)
        for name in token_keys:
            if name in padded:
                values = padded.pop(name)
                empty = self._pad_token_id if name == "input_ids" else 0
                batch[name] = np.full((rows, self.length), empty, values.dtype)
                batch[name][to] = values[source]
        for name in ("segment_ids", "position_ids"):
            batch[name] = np.zeros((rows, self.length), np.int32)
        batch["position_ids"][to] = column if positions is None else positions[source]
        if inner is None:
            batch["segment_ids"][to] = place_of[of_example] + 1
        else:
            segments = inner.max(axis=1)
            before = np.cumsum(segments[order]) - segments[order]
            before -= before[plan.first[row_of]]
            batch["segment_ids"][to] = inner[source] + before[of_example]
        for name, values in padded.items():
            batch[name] = np.zeros((rows, self.most, *values.shape[2:]), values.dtype)
            found = values[order, 0]
            if name in _PLACES:
                found = found + starts.reshape(-1, *[1] * (found.ndim - 1)).astype(found.dtype)
            batch[name][row_of, place_of] = found
        if self._room and inner is not None:
            batch["first_positions"] = batch["pooled_positions"].reshape(rows, -1)
        elif self._room:
            batch["first_positions"] = np.zeros((rows, self.most), np.int32)
            batch["first_positions"][row_of, place_of] = starts
        return batch
