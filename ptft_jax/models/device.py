"""The kind of device that a program is traced for: what decides between XLA and kernels."""

from typing import NamedTuple

import jax

# The oldest GPUs that Triton and cuDNN's fused attention compile bfloat16 for: Ampere.
_CAPABILITY = (8, 0)


class Device(NamedTuple):
    """One kind of device.

    Attributes:
        platform: "cpu", "gpu" (NVIDIA), "rocm" (AMD) or "tpu".
        kind: the maker's name, like "NVIDIA H200".
        capability: CUDA compute capability of an NVIDIA GPU, like (9, 0); None for a described one.
    """

    platform: str
    kind: str
    capability: tuple[int, int] | None = None

    def refuses_kernels(self) -> str | None:
        """Returns why no kernel for NVIDIA GPUs runs on it, None if they do."""
        if self.platform != "gpu":
            return f"it runs on NVIDIA GPUs, and this is a {self.platform} ({self.kind})"
        if self.capability is not None and self.capability < _CAPABILITY:
            found, needed = (".".join(map(str, pair)) for pair in (self.capability, _CAPABILITY))
            return f"{self.kind} has compute capability {found}, and it needs {needed}"
        return None


def current_device() -> Device:
    """Returns the devices of the mesh that is set, without one JAX's default device."""
    mesh = jax.sharding.get_abstract_mesh()
    described = None if mesh.empty else mesh.abstract_device
    here = jax.devices()[0]
    if described is not None and described.device_kind != here.device_kind:
        # A mesh that only describes devices, to lower for them elsewhere.
        platform = "gpu" if described.platform == "cuda" else described.platform
        return Device(platform, described.device_kind)
    if here.platform != "gpu":
        return Device(here.platform, here.device_kind)
    capability = str(getattr(here, "compute_capability", ""))
    if "rocm" in here.client.platform_version.lower() or capability.startswith("gfx"):
        return Device("rocm", here.device_kind)
    major, _, minor = capability.partition(".")
    numbers = (int(major), int(minor)) if major.isdigit() and minor.isdigit() else None
    return Device("gpu", here.device_kind, numbers)
