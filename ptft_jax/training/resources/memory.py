"""Memory of the host and of the devices: kept, counted, and full. Nothing here loads JAX."""

import ctypes
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ptft_jax.errors import DeviceMemoryError
from ptft_jax.training.resources.storage import refusal

# Parameters of mallopt(3), from glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8


def keep_freed_memory() -> bool:
    """Tells glibc to keep freed memory, blocks and heap top up to 2 GiB, in one arena.

    XLA for CPU allocates the buffers of every step anew and frees them after it; glibc hands them
    back to the kernel, so each step pays for the same pages again: a third of the CPU time of
    BERT-tiny (docs/performance.md). To be called before any thread has allocated. A person's own
    settings (MALLOC_ARENA_MAX and the like, GLIBC_TUNABLES) are left as they are.

    Returns:
        Whether it was done; false without glibc, or where the environment has settings.
    """
    settings = ("MALLOC_ARENA_MAX", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")
    if sys.platform != "linux" or any(name in os.environ for name in settings):
        return False
    if "malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False  # another C library
    most = (1 << 31) - 1  # the parameters are C ints
    wanted = {_M_ARENA_MAX: 1, _M_MMAP_THRESHOLD: most, _M_TRIM_THRESHOLD: most}
    done = [mallopt(parameter, value) for parameter, value in wanted.items()]  # each of them
    return all(done)


def peak_memory_gib(devices: Iterable[Any]) -> float | None:
    """Returns the most bytes that were in use at once on the fullest device, in GiB.

    None where a backend does not count them.
    """
    stats = [device.memory_stats() or {} for device in devices]
    peaks = [one["peak_bytes_in_use"] for one in stats if "peak_bytes_in_use" in one]
    return max(peaks) / 2**30 if peaks else None


@contextmanager
def fitting(remedies: Sequence[str]) -> Iterator[None]:
    """Turns what full devices answer into DeviceMemoryError.

    Args:
        remedies: what needs less memory, each in words with its present value.
    """
    from jax.errors import JaxRuntimeError

    try:
        yield
    except JaxRuntimeError as error:
        # A full disk is RESOURCE_EXHAUSTED as well; it says so.
        if "RESOURCE_EXHAUSTED" not in str(error) or refusal(error):
            raise
        raise DeviceMemoryError(
            f"the devices have no memory left: {str(error).splitlines()[0]}\n"
            f"Expected what fits: {', or '.join(remedies)}."
        ) from error
