"""The kind of device that a program is traced for: what decides between XLA and kernels."""

from typing import NamedTuple

import jax


class Device(NamedTuple):
    """One kind of device.

    Attributes:
        platform: "cpu", "gpu" or "tpu".
        kind: the maker's name, like "NVIDIA H200".
        capability: CUDA compute capability of an NVIDIA GPU, like (9, 0); None where unknown.
    """

    platform: str
    kind: str
    capability: tuple[int, int] | None = None


def current_device() -> Device:
    """Returns the devices of the mesh that is set, without one JAX's default device."""
    mesh = jax.sharding.get_abstract_mesh()
    described = None if mesh.empty else mesh.abstract_device
    platform = described.platform if described else jax.default_backend()
    if platform not in ("cuda", "gpu"):
        kind = described.device_kind if described else jax.devices()[0].device_kind
        return Device(platform, kind)
    # A mesh that only describes devices (to lower for them elsewhere) knows no capability.
    if jax.default_backend() != "gpu":
        return Device("gpu", described.device_kind if described else "GPU")
    device = jax.devices()[0]
    numbers = str(getattr(device, "compute_capability", "")).split(".")
    capability = (int(numbers[0]), int(numbers[1])) if len(numbers) == 2 else None
    return Device("gpu", device.device_kind, capability)
