"""Host memory that a step frees stays with the process, for the next step to use.

XLA for CPU allocates the buffers of every step anew and frees them after it. glibc maps large
blocks straight from the kernel and hands them back, and memory of other threads' arenas too, so
each step pays for the same pages again: 34,000 page faults in a step of BERT-tiny, a third of its
CPU time (docs/performance.md).
"""

import ctypes
import os
import sys

# Parameters of mallopt(3), from glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8


def keep_freed_memory() -> bool:
    """Tells glibc to keep freed memory, blocks and heap top up to 2 GiB, in one arena.

    To be called before any thread has allocated. A person's own settings (MALLOC_ARENA_MAX and the
    like, GLIBC_TUNABLES) are left as they are.

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
