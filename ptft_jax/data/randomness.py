"""Random numbers as a pure function of (seed, stream, counters), computed for whole arrays at once.

A generator with a hidden position would tie every random choice to the order in which examples
are made; a hash of counters gives example i of epoch e the same choices in any batch, on any
process and in any worker. The mixing function is the finaliser of SplitMix64 (Steele, Lea and
Flood 2014, "Fast splittable pseudorandom number generators"), applied once for each counter.
"""

import hashlib
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FEISTEL_ROUNDS = 8


@lru_cache(maxsize=256)
def _stream_number(stream: str) -> int:
    return int.from_bytes(hashlib.blake2b(stream.encode(), digest_size=8).digest(), "little")


def _as_uint64(value: ArrayLike) -> np.ndarray:
    """Integers of any sign and size as uint64: negative ones and longer Python ints wrap."""
    if isinstance(value, int):
        return np.asarray(value & 0xFFFFFFFFFFFFFFFF, dtype=np.uint64)
    return np.asarray(value).astype(np.uint64)


def _mix(state: np.ndarray) -> np.ndarray:
    """The SplitMix64 finaliser: an input bit flips each output bit with probability near 1/2."""
    state = state ^ (state >> np.uint64(30))
    state = state * np.uint64(0xBF58476D1CE4E5B9)
    state = state ^ (state >> np.uint64(27))
    state = state * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def random_uint64(seed: int, stream: str, *counters: ArrayLike) -> np.ndarray:
    """uint64 values that depend on nothing but the arguments.

    `stream` names the purpose ("masking", "next sentence"), so that two purposes never share
    numbers. `counters` are integer arrays that broadcast against each other; the result has their
    common shape. Put the largest array last: earlier counters are mixed at their own, smaller
    shape.
    """
    # Wrapping around 2**64 is the point of the arithmetic; NumPy warns about it for scalars only.
    with np.errstate(over="ignore"):
        state = _mix(_as_uint64(seed) + _GOLDEN)
        for counter in (_stream_number(stream), *counters):
            state = _mix((state ^ _as_uint64(counter)) * _GOLDEN + _GOLDEN)
    return state


def uniform(seed: int, stream: str, *counters: ArrayLike) -> np.ndarray:
    """float64 values in [0, 1), uniform on the 2**53 multiples of 2**-53."""
    return (random_uint64(seed, stream, *counters) >> np.uint64(11)) * 2.0**-53


def random_below(bound: ArrayLike, seed: int, stream: str, *counters: ArrayLike) -> np.ndarray:
    """int64 values in [0, bound); `bound` (1 … 2**53) broadcasts against the counters."""
    return (uniform(seed, stream, *counters) * np.asarray(bound)).astype(np.int64)


def shuffled_index(index: ArrayLike, size: int, seed: int, epoch: ArrayLike) -> np.ndarray:
    """The entry at `index` of the (seed, epoch)'s random permutation of range(size), as int64.

    Random access in constant memory: a Feistel network permutes the smallest power of two that
    holds `size`, and values that land outside are sent through again ("cycle walking", Black and
    Rogaway 2002), which leaves a permutation of range(size). `index` (in [0, size)) and `epoch`
    broadcast.
    """
    index, epoch = np.broadcast_arrays(np.asarray(index, np.int64), np.asarray(epoch, np.int64))
    if index.size and (index.min() < 0 or index.max() >= size):
        raise IndexError(f"index outside [0, {size})")
    bits = max(2, (size - 1).bit_length())
    value = index.astype(np.uint64).ravel()
    epoch = epoch.ravel()
    outside = np.arange(value.size)
    while outside.size:
        value[outside] = _feistel(value[outside], bits, seed, epoch[outside])
        outside = outside[value[outside] >= size]
    return value.astype(np.int64).reshape(index.shape)


def _feistel(value: np.ndarray, bits: int, seed: int, epoch: np.ndarray) -> np.ndarray:
    """A keyed permutation of the integers below 2**bits (bits >= 2)."""
    low_bits = bits // 2
    high_bits = bits - low_bits
    for round_number in range(_FEISTEL_ROUNDS):
        low = value & np.uint64((1 << low_bits) - 1)
        high = value >> np.uint64(low_bits)
        noise = random_uint64(seed, "permutation", round_number, epoch, low)
        high = (high ^ noise) & np.uint64((1 << high_bits) - 1)
        # The halves change places, and with them their widths.
        value = (low << np.uint64(high_bits)) | high
        low_bits, high_bits = high_bits, low_bits
    return value
