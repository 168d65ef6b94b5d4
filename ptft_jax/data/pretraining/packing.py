"""Which examples share a row: best-fit-decreasing packing, planned over a window at a time.

Follows Krell et al. 2021, "Efficient Sequence Packing without Cross-contamination", in packing by
length classes: examples of one length are interchangeable, so the work depends on the number of
different lengths and not on the number of examples.
"""

from bisect import bisect_left, insort
from typing import NamedTuple

import numpy as np

from ptft_jax.data.ragged import spread


class Plan(NamedTuple):
    """The rows of a window.

    Attributes:
        examples: numbers of the examples, row after row, int64 [E].
        first: where each row begins in `examples`, and the end, int64 [R + 1].
    """

    examples: np.ndarray
    first: np.ndarray

    def __len__(self) -> int:
        return len(self.first) - 1

    def rows(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The examples of some rows, row after row, and which of `rows` each lies in."""
        count = self.first[rows + 1] - self.first[rows]
        of_row = np.repeat(np.arange(len(rows)), count)
        return self.examples[spread(self.first[rows], count)], of_row

    def without_emptiest(self, surplus: int, lengths: np.ndarray) -> "Plan":
        """The plan without the `surplus` rows that hold the least; `lengths` as `examples`."""
        filled = np.add.reduceat(lengths, self.first[:-1])
        kept = np.sort(np.argsort(-filled, kind="stable")[: len(self) - surplus])
        count = np.diff(self.first)[kept]
        return Plan(self.rows(kept)[0], np.concatenate([[0], np.cumsum(count)]))


class _OpenRows:
    """Rows that take more examples, by the room they have left: arrays of row numbers."""

    def __init__(self) -> None:
        self._by_room: dict[int, list[np.ndarray]] = {}
        self._rooms: list[int] = []  # the keys, ascending

    def add(self, room: int, rows: np.ndarray) -> None:
        if room not in self._by_room:
            self._by_room[room] = []
            insort(self._rooms, room)
        self._by_room[room].append(rows)

    def pop_fullest(self, length: int) -> tuple[int, np.ndarray] | None:
        """The least room that is enough for `length`, and some rows that have it."""
        place = bisect_left(self._rooms, length)
        if place == len(self._rooms):
            return None
        room = self._rooms[place]
        rows = self._by_room[room].pop()
        if not self._by_room[room]:
            del self._by_room[room], self._rooms[place]
        return room, rows


def best_fit_decreasing(lengths: np.ndarray, capacity: int, most_per_row: int) -> Plan:
    """Pack examples of these lengths (int64 [E], each from 1 to `capacity`) into rows.

    The longest come first, and each goes into the row with the least room that still holds it; a
    row with `most_per_row` examples is closed. The order of rows and examples is a function of the
    arguments alone: equal lengths stay in their order.
    """
    if len(lengths) and not 1 <= lengths.min() <= lengths.max() <= capacity:
        raise ValueError(f"lengths from {lengths.min()} to {lengths.max()}, capacity {capacity}")
    by_length = np.argsort(-lengths, kind="stable")
    row_of = np.empty(len(lengths), np.int64)
    used = np.zeros(len(lengths), np.int64)  # examples in each row; at most as many rows
    rows = 0
    open_rows = _OpenRows()
    different, counts = np.unique(-lengths, return_counts=True)
    done = 0
    for length, count in zip((-different).tolist(), counts.tolist(), strict=True):
        examples = by_length[done : done + count]
        done += count
        while len(examples):
            found = open_rows.pop_fullest(length)
            if found is None:
                per_row = min(capacity // length, most_per_row)
                new = rows + np.arange(-(-len(examples) // per_row))
                rows += len(new)
                found = capacity, new
            room, candidates = found
            # A row that has taken one is now the fullest that holds another: it takes all it can.
            fits = np.minimum(room // length, most_per_row - used[candidates])
            reached = np.cumsum(fits)
            needed = int(np.searchsorted(reached, len(examples))) + 1
            chosen, fits = candidates[:needed], fits[:needed]
            fits[-1] -= max(0, int(reached[len(chosen) - 1]) - len(examples))
            placed = int(fits.sum())
            row_of[examples[:placed]] = np.repeat(chosen, fits)
            examples = examples[placed:]
            used[chosen] += fits
            if needed < len(candidates):
                open_rows.add(room, candidates[needed:])
            for number in np.unique(fits).tolist():
                left = room - number * length
                unclosed = chosen[(fits == number) & (used[chosen] < most_per_row)]
                if left and len(unclosed):
                    open_rows.add(left, unclosed)
    order = np.argsort(row_of, kind="stable")
    return Plan(order, np.searchsorted(row_of[order], np.arange(rows + 1)))
