"""Freed memory is kept, the fullest device counts, and full devices are told from full disks."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from ptft_jax.errors import DeviceMemoryError
from ptft_jax.training.resources.memory import fitting, peak_memory_gib
from ptft_jax.training.resources.storage import refusal

FAULTS = """
import resource, threading
from ptft_jax.training.resources.memory import keep_freed_memory
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


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
@pytest.mark.parametrize("settings", [{}, {"MALLOC_ARENA_MAX": "4"}], ids=["kept", "a person's"])
def test_freed_memory_is_used_again_unless_a_person_has_tuned_malloc(settings):
    """Without it a third of a CPU step went into page faults: each buffer paid for its pages."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    # NumPy asks for huge pages by itself, which would hide most of the faults.
    env = {**env, "NUMPY_MADVISE_HUGEPAGE": "0", **settings}
    command = [sys.executable, "-c", FAULTS]
    said = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    done, faults = said.split()
    assert done == str(not settings)
    assert int(faults) > 10_000 if settings else int(faults) < 1000


class Device:
    def __init__(self, stats):
        self.stats = stats

    def memory_stats(self):
        return self.stats


@pytest.mark.parametrize(
    ("stats", "gib"),
    [
        ([{"peak_bytes_in_use": 3 << 30, "bytes_in_use": 9 << 30}, {"peak_bytes_in_use": 1}], 3),
        ([None, {}], None),
    ],
)
def test_the_fullest_device_counts(stats, gib):
    """It is the one that runs out; a CPU counts nothing."""
    assert peak_memory_gib(map(Device, stats)) == gib


def test_what_does_not_fit_is_one_error():
    """More than a process can address: what JAX itself raises, with what to change behind it."""
    with pytest.raises(DeviceMemoryError) as caught, fitting(["raise accumulate", "wait"]):
        jax.block_until_ready(jax.jit(lambda: jnp.zeros(1 << 50))())
    assert "Out of memory" in str(caught.value)
    assert str(caught.value).endswith("Expected what fits: raise accumulate, or wait.")
    assert refusal(caught.value.__cause__) is None


@pytest.mark.parametrize(
    "message", ["INTERNAL: ptxas failed", "RESOURCE_EXHAUSTED: /x/y.pb; No space left on device"]
)
def test_other_failures_keep_their_meaning(message):
    """A full disk would not be mended by smaller batches, nor would a broken compiler."""
    with pytest.raises(jax.errors.JaxRuntimeError), fitting(["raise accumulate"]):
        raise jax.errors.JaxRuntimeError(message)
