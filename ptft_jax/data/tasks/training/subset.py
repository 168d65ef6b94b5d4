"""Which training examples a run uses where it is not to use all: a function of the seed alone.

All come from one shuffled order of the split, so that a smaller subset lies within a larger one
of the same seed.
"""

from collections.abc import Sequence

import numpy as np

from ptft_jax.data.randomness import shuffled_index
from ptft_jax.errors import ConfigError

# Apart from the orders of the epochs.
_STREAM = "subset of training"


def first_rows(count: int, seed: int, most: int) -> np.ndarray:
    """`most` of `count` rows (0, or more than there are: all), ascending, int64."""
    return np.sort(_order(count, seed)[: most or count])


def rows_of_each_class(
    labels: np.ndarray, names: Sequence[str], seed: int, each: int
) -> np.ndarray:
    """`each` rows of every class of int labels `[N]`, ascending, int64.

    Raises ConfigError for a class that has fewer.
    """
    order = _order(len(labels), seed)
    chosen = []
    for index, name in enumerate(names):
        rows = order[labels[order] == index][:each]
        if len(rows) < each:
            raise ConfigError(
                f"examples_per_class={each}: the class {name!r} has {len(rows)} training examples; "
                f"expected at most {len(rows)}, or 0 for all examples"
                if len(rows)
                else f"examples_per_class={each}: the class {name!r} has no training example; "
                "expected 0, all examples"
            )
        chosen.append(rows)
    return np.sort(np.concatenate(chosen))


def _order(count: int, seed: int) -> np.ndarray:
    return shuffled_index(np.arange(count), count, seed, 0, _STREAM)
