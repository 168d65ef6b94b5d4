"""The order of an epoch, and how often each source is drawn from in it."""

import numpy as np

from ptft_jax.data.randomness import shuffled_index


class Sampler:
    """From a place in an epoch to a chunk: every chunk once, or `weight` times its source's.

    A weight of 2.5 gives each chunk of a source two places in every epoch, and a half of them,
    another half in each epoch, a third one. A source has at least one place in each epoch. `len`
    counts the places of an epoch, and `entries`, int64 [S], those of each source.
    """

    def __init__(self, first_chunks: np.ndarray, weights: np.ndarray, seed: int) -> None:
        """`first_chunks` int64 [S + 1]: where each source begins; `weights` float64 [S]."""
        self._first = np.asarray(first_chunks, np.int64)
        self._sizes = np.diff(self._first)
        entries = np.rint(self._sizes * weights).astype(np.int64)
        entries = np.maximum(entries, np.minimum(self._sizes, 1))
        self.entries = entries
        self._seed = seed
        self._bounds = np.concatenate([[0], np.cumsum(entries)])
        # Of each source by itself: counted alike for all, the visits of a source of weight 1 would
        # be all even beside one of weight 2, and meet every second duplicate only.
        self._copies = -(-entries // np.maximum(self._sizes, 1))

    def __len__(self) -> int:
        return int(self._bounds[-1])

    def draw(self, epoch: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The visits and chunks, int64 [E], at places [E] of epochs [E].

        A visit numbers the uses of a chunk; it is the epoch where no chunk has two places in one.
        """
        entry = shuffled_index(place, len(self), self._seed, epoch)
        source = np.searchsorted(self._bounds, entry, side="right") - 1
        copy, chunk = np.divmod(entry - self._bounds[source], self._sizes[source])
        # The last copy of a source may be a part of it only: a part that each epoch draws anew.
        entries = self._bounds[source + 1] - self._bounds[source]
        in_part = (copy + 1) * self._sizes[source] > entries
        for number in np.unique(source[in_part]):
            here = in_part & (source == number)
            key = epoch[here] * len(self._sizes) + number
            chunk[here] = shuffled_index(
                chunk[here], int(self._sizes[number]), self._seed, key, "part of a source"
            )
        return epoch * self._copies[source] + copy, chunk + self._first[source]
