"""The accelerators that are known, and their peaks.

Figures are those of the makers' data sheets. Links and networks are what one device can send in one
direction, networks those of a typical machine (a DGX: 4 x 100 Gb/s for V100, 8 x 200 for A100, 8 x
400 from H100 on). Peaks are of dense products as JAX computes them: float32 as TF32 on NVIDIA GPUs,
in one bfloat16 pass on TPUs.
"""

import re
from typing import NamedTuple


class Accelerator(NamedTuple):
    """One kind of device: peaks in TFLOP/s, memory in 10⁹ bytes, rates in 10⁹ bytes/s.

    `memory_fraction` is the share of the memory that JAX takes: three quarters of a GPU's unless
    XLA_PYTHON_CLIENT_MEM_FRACTION is set. `capability` is CUDA's, None of a TPU.
    """

    bfloat16_tflops: float
    float32_tflops: float
    memory_gb: float
    memory_gbs: float
    link_gbs: float
    network_gbs: float
    capability: tuple[int, int] | None
    memory_fraction: float = 0.75
    source: str = "NVIDIA data sheet"

    def peak_tflops(self, dtype: str) -> float:
        """Returns the peak for a model of a dtype."""
        return self.bfloat16_tflops if dtype == "bfloat16" else self.float32_tflops


def _tpu(tflops: float, memory_gb: float, memory_gbs: float, link_gbs: float) -> Accelerator:
    # All hosts of a slice are joined by the chips' own interconnect.
    links = (link_gbs, link_gbs)
    source = "Cloud TPU system architecture pages"
    return Accelerator(tflops, tflops, memory_gb, memory_gbs, *links, None, 0.95, source)


ACCELERATORS = {
    # V100 has no bfloat16 units: XLA computes such a model in float32.
    "v100": Accelerator(15.7, 15.7, 32, 900, 150, 6.25, (7, 0)),
    "a100-40g": Accelerator(312, 156, 40, 1555, 300, 25, (8, 0)),
    "a100-80g": Accelerator(312, 156, 80, 2039, 300, 25, (8, 0)),
    "l4": Accelerator(121, 60, 24, 300, 32, 1.56, (8, 9)),
    "l40s": Accelerator(362, 183, 48, 864, 32, 6.25, (8, 9)),
    "h100": Accelerator(989, 494, 80, 3350, 450, 50, (9, 0)),
    "h200": Accelerator(989, 494, 141, 4800, 450, 50, (9, 0)),
    "b200": Accelerator(2250, 1100, 180, 8000, 900, 50, (10, 0)),
    "tpu-v4": _tpu(275, 32, 1200, 300),
    "tpu-v5e": _tpu(197, 16, 819, 200),
    "tpu-v5p": _tpu(459, 95, 2765, 600),
    "tpu-v6e": _tpu(918, 32, 1640, 400),
}

# `jax.Device.device_kind` in full: cards of the same name with other clocks (H100 PCIe), and a part
# of a card (MIG), have other peaks.
_DEVICE_KINDS = {
    r"Tesla V100-SXM\d.*": "v100",
    r"NVIDIA A100-(SXM4|PCIE)-40GB": "a100-40g",
    r"NVIDIA A100(-SXM4-80GB| 80GB PCIe)": "a100-80g",
    r"NVIDIA L4": "l4",
    r"NVIDIA L40S": "l40s",
    r"NVIDIA H100 80GB HBM3": "h100",
    r"NVIDIA H200": "h200",
    r"NVIDIA B200": "b200",
    r"TPU v4": "tpu-v4",
    r"TPU v5( lite|e)": "tpu-v5e",
    r"TPU v5p?": "tpu-v5p",
    r"TPU v6( lite|e)": "tpu-v6e",
}


def accelerator_of(device_kind: str) -> Accelerator | None:
    """Returns what is known of the accelerator that JAX calls `device_kind`; None for a CPU."""
    for pattern, name in _DEVICE_KINDS.items():
        if re.fullmatch(pattern, device_kind):
            return ACCELERATORS[name]
    return None
