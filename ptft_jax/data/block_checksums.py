"""Check sums of the blocks of a corpus's files: they say where a file has changed.

The manifest's SHA-256 says whether a file is still what was written, and nothing else. A CRC-32 of
every 64 KiB says which block is not, and where exactly if a single bit of it was flipped: each
bit of a block changes the sum in a way of its own.
"""

import hashlib
import zlib
from pathlib import Path

import numpy as np

from ptft_jax.data.corpus import FileRecord

# The file in a corpus folder that holds the sums (uint32, little-endian) of all other files, in
# the order of their names in the manifest.
BLOCK_CHECKSUMS = "checksums.bin"
BLOCK_BYTES = 1 << 16
_READ_BYTES = 1 << 20
_POLYNOMIAL = 0xEDB88320  # of CRC-32, reflected as in zlib


def measure(path: Path) -> tuple[FileRecord, np.ndarray]:
    """Size and SHA-256 of a file, and the CRC-32 of each block, uint32 [blocks], in one reading."""
    sha256 = hashlib.sha256()
    size = 0
    sums: list[int] = []
    with path.open("rb") as file:
        while chunk := file.read(_READ_BYTES):
            sha256.update(chunk)
            size += len(chunk)
            view = memoryview(chunk)
            sums += [
                zlib.crc32(view[start : start + BLOCK_BYTES])
                for start in range(0, len(view), BLOCK_BYTES)
            ]
    return FileRecord(size, sha256.hexdigest()), np.array(sums, "<u4")


def block_count(size: int) -> int:
    """The number of blocks of a file of `size` bytes."""
    return -(-size // BLOCK_BYTES)


def flipped_bit(found: int, expected: int, size: int) -> int | None:
    """The bit whose flip turns the CRC-32 of a block of `size` bytes from `expected` to `found`.

    Bits count from 0, and in each byte from the lowest. None when no single bit does it.
    """
    difference = found ^ expected
    if difference == 0:
        return None
    # A flip of the last bit shows as the polynomial itself; of each bit before, as one step more of
    # the division.
    sign = _POLYNOMIAL
    for bit in range(8 * size - 1, -1, -1):
        if sign == difference:
            return bit
        sign = (sign >> 1) ^ (_POLYNOMIAL if sign & 1 else 0)
    return None


def sha256_with_flips(path: Path, bits: list[int]) -> str:
    """SHA-256 (hex) that a file would have if these bits of it were flipped."""
    sha256 = hashlib.sha256()
    start = 0
    with path.open("rb") as file:
        while chunk := file.read(_READ_BYTES):
            here = [bit - 8 * start for bit in bits if 0 <= bit - 8 * start < 8 * len(chunk)]
            if here:
                changed = bytearray(chunk)
                for bit in here:
                    changed[bit // 8] ^= 1 << bit % 8
                chunk = bytes(changed)
            sha256.update(chunk)
            start += len(chunk)
    return sha256.hexdigest()
