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
    mixed = state >> np.uint64(30)
    mixed ^= state
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    shifted = mixed >> np.uint64(27)
    mixed ^= shifted
    mixed *= np.uint64(0x94D049BB133111EB)
    np.right_shift(mixed, np.uint64(31), out=shifted)
    mixed ^= shifted
    return mixed


def random_uint64(seed: int, stream: str, *counters: ArrayLike) -> np.ndarray:
    """uint64 values that depend on nothing but the arguments.

    `stream` names the purpose ("masking", "next sentence"), so that two purposes never share
    numbers. `counters` are integer arrays that broadcast against each other; the result has their
    common shape. Put the largest array last: earlier counters are mixed at their own, smaller
    shape.
    """
    with np.errstate(over="ignore"):
        state = _mix(np.atleast_1d(_as_uint64(seed)) + _GOLDEN)
    for counter in (_stream_number(stream), *counters):
        state = extended(state, counter)
    return state.reshape(np.broadcast_shapes(*map(np.shape, counters)))


def extended(state: np.ndarray, counter: ArrayLike) -> np.ndarray:
    """The values of `random_uint64` with one more counter: extended(random_uint64(…, a), b).

    For ragged arrays: the state of each group is computed once and spread over its members.
    """
    # Wrapping around 2**64 is the point of the arithmetic; NumPy warns about it for scalars only.
    with np.errstate(over="ignore"):
        mixed = np.asarray(state ^ _as_uint64(counter))
        mixed *= _GOLDEN
        mixed += _GOLDEN
        return _mix(mixed)


def as_uniform(bits: np.ndarray) -> np.ndarray:
    """float64 values in [0, 1), uniform on the 2**53 multiples of 2**-53, from random bits."""
    return (bits >> np.uint64(11)) * 2.0**-53


def as_below(bound: ArrayLike, bits: np.ndarray) -> np.ndarray:
    """int64 values in [0, bound), from random bits; `bound` is 1 … 2**53."""
    return (as_uniform(bits) * np.asarray(bound)).astype(np.int64)


def uniform(seed: int, stream: str, *counters: ArrayLike) -> np.ndarray:
    """float64 values in [0, 1), uniform on the 2**53 multiples of 2**-53."""
    return as_uniform(random_uint64(seed, stream, *counters))


def random_below(bound: ArrayLike, seed: int, stream: str, *counters: ArrayLike) -> np.ndarray:
    """int64 values in [0, bound); `bound` (1 … 2**53) broadcasts against the counters."""
    return as_below(bound, random_uint64(seed, stream, *counters))


def shuffled_index(
    index: ArrayLike, size: int, seed: int, epoch: ArrayLike, stream: str = "permutation"
) -> np.ndarray:
    """The entry at `index` of the random permutation of range(size) of (seed, epoch), as int64.

    Random access in constant memory: a Feistel network permutes the smallest power of two that
    holds `size`, and values that land outside are sent through again ("cycle walking", Black and
    Rogaway 2002), which leaves a permutation of range(size). `index` (in [0, size)) and `epoch`
    broadcast. Permutations for two purposes need two names of `stream`.
    """
    index, epoch = np.broadcast_arrays(np.asarray(index, np.int64), np.asarray(epoch, np.int64))
    if index.size and (index.min() < 0 or index.max() >= size):
        raise IndexError(f"index outside [0, {size})")
    bits = max(2, (size - 1).bit_length())
    value = index.astype(np.uint64).ravel()
    # Of each round and entry; the walk below needs them again and again.
    keys = random_uint64(seed, stream, np.arange(_FEISTEL_ROUNDS)[:, None], epoch.ravel())
    outside = np.arange(value.size)
    while outside.size:
        value[outside] = _feistel(value[outside], bits, keys[:, outside])
        outside = outside[value[outside] >= size]
    return value.astype(np.int64).reshape(index.shape)


def _feistel(value: np.ndarray, bits: int, keys: np.ndarray) -> np.ndarray:
    """A permutation of the integers below 2**bits (bits >= 2) by keys [rounds, entries]."""
    low_bits = bits // 2
    high_bits = bits - low_bits
    for key in keys:
        low = value & np.uint64((1 << low_bits) - 1)
        high = value >> np.uint64(low_bits)
        high = (high ^ extended(key, low)) & np.uint64((1 << high_bits) - 1)
        # The halves change places, and with them their widths.
        value = (low << np.uint64(high_bits)) | high
        low_bits, high_bits = high_bits, low_bits
    return value
