"""Which examples share a row: best-fit-decreasing packing, planned over a window at a time.

Follows Krell et al. 2021, "Efficient Sequence Packing without Cross-contamination", in packing by
length classes: examples of one length are interchangeable, so the work depends on the number of
different lengths and not on the number of examples.
"""

import threading
from bisect import bisect_left, insort
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ptft_jax.data.ragged import spread
from ptft_jax.data.randomness import shuffled_index

# Examples that are packed together: enough for rows to be full, few enough to be planned in a
# fraction of a second and kept in a few megabytes.
WINDOW = 1 << 17
# A window has this share of rows more than a trial needed, since their number varies a little.
_SPARE_ROWS = 0.001
_TRIALS = 3


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


class Windows:
    """The rows of epochs: windows of examples that are packed together, of as many rows each.

    So any row can be made without planning those before it. The few rows that a window needs less
    stay empty, and the emptiest ones are left out where it needs more. `len` counts the rows of an
    epoch.

    Attributes:
        count: windows of an epoch; they differ by one example at most.
        examples: the most examples of a window.
        rows: rows of a window.
        most_per_row: examples that share a row.
    """

    def __init__(
        self,
        examples: int,
        lengths: Callable[[int, int, int], np.ndarray],
        capacity: int,
        most_per_row: int,
        seed: int,
    ) -> None:
        """Plan a few windows, to see how many rows they need.

        `examples` of an epoch; their tokens, `lengths(epoch, first, end)`; tokens that a row holds;
        `most_per_row` 0: twice as many as the mean example leaves room for.
        """
        self._all, self._lengths, self._capacity, self._seed = examples, lengths, capacity, seed
        self.count = -(-examples // WINDOW)
        self.examples = -(-examples // self.count)
        if not most_per_row:
            sample = lengths(0, 0, min(examples, 1 << 14))
            most_per_row = 2 * int(np.ceil(capacity / sample.mean()))
        self.most_per_row = most_per_row
        needed = max(len(self.plan(*divmod(trial, self.count))) for trial in range(_TRIALS))
        self.rows = needed + int(np.ceil(_SPARE_ROWS * needed))
        self._lock = threading.Lock()
        self._kept = lru_cache(maxsize=4)(self._cut_to_rows)

    def __len__(self) -> int:
        return self.count * self.rows

    def _bounds(self, window: int) -> tuple[int, int]:
        """The places of an epoch that a window holds."""
        return window * self._all // self.count, (window + 1) * self._all // self.count

    def plan(self, epoch: int, window: int) -> Plan:
        """Pack a window into as many rows as its examples need."""
        lengths = self._lengths(epoch, *self._bounds(window))
        return best_fit_decreasing(lengths, self._capacity, self.most_per_row)

    def _cut_to_rows(self, epoch: int, window: int) -> Plan:
        """The plan of a window, of at most `rows` rows."""
        plan = self.plan(epoch, window)
        if (surplus := len(plan) - self.rows) > 0:
            lengths = self._lengths(epoch, *self._bounds(window))
            plan = plan.without_emptiest(surplus, lengths[plan.examples])
        return plan

    def examples_in(
        self, epoch: np.ndarray, entry: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What is in the rows `entry` [B] of epochs [B], example after example.

        Epoch, place in the epoch and number of its row, from 0 to B, of each: int64 [E], by row.
        """
        window, row = np.divmod(entry, self.rows)
        # A plan has its rows sorted by what they hold; an epoch must not.
        key = epoch * self.count + window
        row = shuffled_index(row, self.rows, self._seed, key, "row of a window")
        found = []
        for one_epoch, one_window in sorted(set(zip(epoch.tolist(), window.tolist(), strict=True))):
            with self._lock:  # threads that want one plan wait for it
                plan = self._kept(one_epoch, one_window)
            here = (epoch == one_epoch) & (window == one_window) & (row < len(plan))
            here = np.flatnonzero(here)
            examples, of_row = plan.rows(row[here])
            first, _ = self._bounds(one_window)
            one = np.full(len(examples), one_epoch)
            found.append(np.stack([one, first + examples, here[of_row]]))
        epoch, place, row = np.concatenate(found, axis=1).astype(np.int64)
        order = np.argsort(row, kind="stable")  # the examples of a row keep their order
        return epoch[order], place[order], row[order]
