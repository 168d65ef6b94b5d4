"""What a measurement ran on: devices, cores, versions, and the memory that it took.

JAX is imported by those functions alone that need it: a process of PyTorch's asks here, too.
"""

import contextlib
import importlib.metadata
import os
import platform
import re
import resource
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ptft_jax.training.resources.memory import peak_memory_gib


def hardware() -> dict[str, Any]:
    """Returns processor, cores that this process may use, and JAX's devices."""
    import jax

    devices = jax.devices()
    names = re.findall(r"^model name\s*: (.*)$", _cpuinfo(), re.MULTILINE)
    return {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "cores": cores(),
        "devices": len(devices),
        "device_kind": devices[0].device_kind,
        "platform": devices[0].platform,
        "system": platform.platform(),
    }


def _cpuinfo() -> str:
    with contextlib.suppress(OSError):
        return Path("/proc/cpuinfo").read_text(encoding="utf-8")
    return ""


def cores() -> int:
    """Returns how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def versions() -> dict[str, str | None]:
    """Returns the versions of what computes; None for what is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in ("ptft_jax", "jax", "jaxlib", "numpy", "torch", "transformers"):
        found[name] = None
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def peak_memory(devices: Iterable[Any]) -> tuple[int, str]:
    """Returns the most bytes that a device has held, "device"; on a CPU the process, "process"."""
    held = peak_memory_gib(devices)
    return (peak_of_process(), "process") if held is None else (int(held * 2**30), "device")


def peak_of_process() -> int:
    """Returns the most bytes that this process has had in memory."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # kilobytes on Linux
