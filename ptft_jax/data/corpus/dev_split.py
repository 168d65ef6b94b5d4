"""Which documents are held out as the dev split: a threshold on the hash of their text."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from ptft_jax.errors import DataError

# Each split needs two documents, or there would be no other document for a random next sentence.
_LEAST = 2


@dataclass
class HashEnds:
    """The smallest and the largest different hashes seen, a few of each: constant memory."""

    smallest: list[int] = field(default_factory=list)
    largest: list[int] = field(default_factory=list)

    def add(self, hashes: np.ndarray) -> None:
        """Take up hashes, uint64 [N]."""
        unique = np.unique(hashes).tolist()
        self.smallest = sorted({*self.smallest, *unique[: 2 * _LEAST]})[: 2 * _LEAST]
        self.largest = sorted({*self.largest, *unique[-2 * _LEAST :]})[-2 * _LEAST :]

    def threshold(self, fraction: float, names: Iterable[str]) -> int:
        """Documents with a hash below this are held out: about `fraction` of them.

        Equal documents fall into the same split, and a document stays in its split when others
        are added. At least two different documents are in each split. Raises DataError, naming the
        inputs, when there are fewer than four.
        """
        different = len({*self.smallest, *self.largest})
        if different < 2 * _LEAST:
            shown = list(names)
            inputs = ", ".join(shown[:3]) + (", …" if len(shown) > 3 else "")
            if not different:
                raise DataError(f"the corpus is empty: there is no text in {inputs}")
            raise DataError(
                f"{different} documents (copies not counted) in {inputs}, expected at least "
                f"{2 * _LEAST} (two for training, two held out); separate documents by blank "
                "lines, or give more files"
            )
        wanted = round(fraction * (1 << 64))
        return max(self.smallest[_LEAST - 1] + 1, min(wanted, self.largest[-_LEAST]))
