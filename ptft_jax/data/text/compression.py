"""Compressed streams, unpacked in bounded memory.

A file says itself how much memory its unpacking takes: the dictionary of xz, of which more than
the strongest usual setting needs is refused, and the window of zstd, of which all is taken that the
format can say (2 GiB: dumps of Reddit are made so).
"""

import gzip
import io
import lzma
import sys
import zlib
from typing import Any, BinaryIO, cast

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

SUFFIXES = (".gz", ".xz", ".zst")

# What reading a damaged compressed file raises.
DAMAGE = (OSError, EOFError, lzma.LZMAError, zlib.error, zstd.ZstdError)

# `xz -9` needs 65 MiB.
_MEMORY = 1 << 28
_ZSTD_OPTIONS = {int(zstd.DecompressionParameter.window_log_max): 31}
_HEAD = 512


def unpacked_head(compression: str, head: bytes) -> bytes:
    """Returns the first bytes that a stream unpacks to, b"" for a damaged one."""
    if not compression:
        return head
    try:
        return _decompressor(compression).decompress(head, _HEAD)
    except DAMAGE:
        return b""


def decompressed(compression: str, raw: "io.BufferedReader[Any]") -> BinaryIO:
    """Returns the stream that `raw` unpacks to; `compression` is one of SUFFIXES or ""."""
    if compression == ".gz":
        return cast(BinaryIO, gzip.open(raw, "rb"))
    if compression == ".xz":
        return cast(BinaryIO, io.BufferedReader(_XzReader(raw), 1 << 16))
    if compression == ".zst":
        return cast(BinaryIO, zstd.open(raw, "rb", options=_ZSTD_OPTIONS))
    return cast(BinaryIO, raw)


def _decompressor(compression: str) -> Any:
    if compression == ".gz":
        return zlib.decompressobj(wbits=31)
    if compression == ".xz":
        return lzma.LZMADecompressor(memlimit=_MEMORY)
    return zstd.ZstdDecompressor(options=_ZSTD_OPTIONS)


class _XzReader(io.RawIOBase):
    """Unpacks xz streams that follow each other; unlike lzma.open with a bound on its memory."""

    def __init__(self, raw: "io.BufferedReader[Any]") -> None:
        self._raw = raw
        self._decompressor = _decompressor(".xz")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            if self._decompressor.eof:
                rest = self._decompressor.unused_data or self._raw.read1()
                # Zeros may follow a stream, four at a time.
                while rest and not (rest := rest.lstrip(b"\0")):
                    rest = self._raw.read1()
                if not rest:
                    return 0
                self._decompressor = _decompressor(".xz")
            elif self._decompressor.needs_input:
                rest = self._raw.read1()
                if not rest:
                    raise EOFError("the file ends before its last stream does")
            else:
                rest = b""
            data = self._decompressor.decompress(rest, len(buffer))
            if data:
                buffer[: len(data)] = data
                return len(data)
