"""Arrays of sequences of different lengths that lie one behind the other."""

import numpy as np


def firsts(lengths: np.ndarray) -> np.ndarray:
    """Where each of several sequences begins when they lie one behind the other."""
    return np.cumsum(lengths) - lengths


def spread(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The concatenation of range(start, start + length) for every start and length, int64."""
    return np.repeat(starts - firsts(lengths), lengths) + np.arange(int(lengths.sum()))
