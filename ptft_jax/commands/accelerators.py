"""The accelerators that `ptft plan` knows, with the figures of their makers' data sheets.

Bandwidths of links are what one device can send, in one direction; data sheets mostly give both
directions together. Peaks are of dense products. float32 is computed as TF32 on NVIDIA GPUs and in
one bfloat16 pass on TPUs, which is what JAX does unless `jax_default_matmul_precision` says
otherwise.
"""

import dataclasses

# JAX takes three quarters of a GPU's memory unless XLA_PYTHON_CLIENT_MEM_FRACTION is set.
_GPU_FRACTION, _TPU_FRACTION = 0.75, 0.95

_NVIDIA = "NVIDIA data sheet"
_GOOGLE = "Cloud TPU system architecture pages"


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """One kind of device.

    Attributes:
        bfloat16_tflops, float32_tflops: peak TFLOP/s of matrix products as JAX computes them.
        memory_gb: memory, in 10⁹ bytes.
        memory_gbs: bandwidth of that memory, 10⁹ bytes/s.
        link_gbs: what a device sends to others of its host, 10⁹ bytes/s.
        network_gbs: what a device sends to other hosts, 10⁹ bytes/s, in a typical machine.
        links: what the links are, and which machine's network is meant.
        source: where the figures are from.
        memory_fraction: share of the memory that JAX uses by default.
    """

    bfloat16_tflops: float
    float32_tflops: float
    memory_gb: float
    memory_gbs: float
    link_gbs: float
    network_gbs: float
    links: str
    source: str
    memory_fraction: float = _GPU_FRACTION

    @property
    def memory_fraction_source(self) -> str:
        """Where `memory_fraction` is from."""
        if self.memory_fraction == _GPU_FRACTION:
            return "JAX's default; XLA_PYTHON_CLIENT_MEM_FRACTION"
        return "assumed"

    def peak_tflops(self, dtype: str) -> float:
        """Returns the peak for a model's dtype."""
        return self.bfloat16_tflops if dtype == "bfloat16" else self.float32_tflops


def _tpu(
    tflops: float, memory: float, memory_gbs: float, link_gbs: float, name: str
) -> Accelerator:
    return Accelerator(
        bfloat16_tflops=tflops,
        float32_tflops=tflops,
        memory_gb=memory,
        memory_gbs=memory_gbs,
        link_gbs=link_gbs,
        # All hosts of a slice are joined by the chips' own interconnect.
        network_gbs=link_gbs,
        links="ICI, all hosts in one slice",
        source=f"{_GOOGLE}, {name}",
        memory_fraction=_TPU_FRACTION,
    )


ACCELERATORS = {
    # V100 has no bfloat16 units: XLA computes such a model in float32.
    "v100": Accelerator(
        15.7, 15.7, 32, 900, 150, 6.25, "NVLink 2; DGX-1: 4 x 100 Gb/s", f"{_NVIDIA}, V100 SXM2"
    ),
    "a100-40g": Accelerator(
        312, 156, 40, 1555, 300, 25, "NVLink 3; DGX A100: 8 x 200 Gb/s", f"{_NVIDIA}, A100 SXM"
    ),
    "a100-80g": Accelerator(
        312, 156, 80, 2039, 300, 25, "NVLink 3; DGX A100: 8 x 200 Gb/s", f"{_NVIDIA}, A100 SXM"
    ),
    "l4": Accelerator(
        121, 60, 24, 300, 32, 1.56, "PCIe 4 x16; 8 L4 with 100 Gb/s", f"{_NVIDIA}, L4"
    ),
    "l40s": Accelerator(
        362, 183, 48, 864, 32, 6.25, "PCIe 4 x16; 8 L40S with 400 Gb/s", f"{_NVIDIA}, L40S"
    ),
    "h100": Accelerator(
        989, 494, 80, 3350, 450, 50, "NVLink 4; DGX H100: 8 x 400 Gb/s", f"{_NVIDIA}, H100 SXM"
    ),
    "h200": Accelerator(
        989, 494, 141, 4800, 450, 50, "NVLink 4; DGX H200: 8 x 400 Gb/s", f"{_NVIDIA}, H200 SXM"
    ),
    "b200": Accelerator(
        2250, 1100, 180, 8000, 900, 50, "NVLink 5; DGX B200: 8 x 400 Gb/s", f"{_NVIDIA}, HGX B200"
    ),
    "tpu-v4": _tpu(275, 32, 1200, 300, "v4"),
    "tpu-v5e": _tpu(197, 16, 819, 200, "v5e"),
    "tpu-v5p": _tpu(459, 95, 2765, 600, "v5p"),
    "tpu-v6e": _tpu(918, 32, 1640, 400, "v6e"),
}
