"""Freed memory is kept: without it a third of a CPU step went into page faults."""

import os
import subprocess
import sys

import pytest

FAULTS = """
import resource, threading
from ptft_jax.training.host_memory import keep_freed_memory
print(keep_freed_memory())
import numpy as np

def work():
    np.ones(25_000_000, np.float32)  # 100 MB, 24,400 pages
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        np.ones(25_000_000, np.float32)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 5)

# In a thread, as XLA's allocations are.
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


def run(**environment: str) -> tuple[str, int]:
    command = [sys.executable, "-c", FAULTS]
    env = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    # NumPy asks for huge pages by itself, which would hide most of the faults.
    env = {**env, "NUMPY_MADVISE_HUGEPAGE": "0", **environment}
    done, faults = subprocess.run(
        command, env=env, capture_output=True, text=True, check=True
    ).stdout.split()
    return done, int(faults)


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_freed_memory_is_used_again():
    """The pages of a buffer are paid for once, not at every step."""
    done, faults = run()
    assert done == "True"
    assert faults < 1000


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_settings_of_the_environment_win():
    """A person who has tuned malloc keeps what they have set."""
    done, faults = run(MALLOC_ARENA_MAX="4")
    assert done == "False"
    assert faults > 10_000
