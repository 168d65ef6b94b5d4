"""The accelerators that `ptft plan` knows, and whether and how long an update runs on one.

Figures are those of the makers' data sheets. Links and networks are what one device can send in one
direction, networks those of a typical machine (a DGX: 4 x 100 Gb/s for V100, 8 x 200 for A100, 8 x
400 from H100 on). Peaks are of dense products as JAX computes them: float32 as TF32 on NVIDIA GPUs,
in one bfloat16 pass on TPUs.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ptft_jax.training.cost import Memory


class Accelerator(NamedTuple):
    """One kind of device: peaks in TFLOP/s, memory in 10⁹ bytes, rates in 10⁹ bytes/s.

    `memory_fraction` is the share of the memory that JAX takes: three quarters of a GPU's unless
    XLA_PYTHON_CLIENT_MEM_FRACTION is set.
    """

    bfloat16_tflops: float
    float32_tflops: float
    memory_gb: float
    memory_gbs: float
    link_gbs: float
    network_gbs: float
    memory_fraction: float = 0.75
    source: str = "NVIDIA data sheet"


def _tpu(tflops: float, memory_gb: float, memory_gbs: float, link_gbs: float) -> Accelerator:
    # All hosts of a slice are joined by the chips' own interconnect.
    links = (link_gbs, link_gbs)
    source = "Cloud TPU system architecture pages"
    return Accelerator(tflops, tflops, memory_gb, memory_gbs, *links, 0.95, source)


ACCELERATORS = {
    # V100 has no bfloat16 units: XLA computes such a model in float32.
    "v100": Accelerator(15.7, 15.7, 32, 900, 150, 6.25),
    "a100-40g": Accelerator(312, 156, 40, 1555, 300, 25),
    "a100-80g": Accelerator(312, 156, 80, 2039, 300, 25),
    "l4": Accelerator(121, 60, 24, 300, 32, 1.56),
    "l40s": Accelerator(362, 183, 48, 864, 32, 6.25),
    "h100": Accelerator(989, 494, 80, 3350, 450, 50),
    "h200": Accelerator(989, 494, 141, 4800, 450, 50),
    "b200": Accelerator(2250, 1100, 180, 8000, 900, 50),
    "tpu-v4": _tpu(275, 32, 1200, 300),
    "tpu-v5e": _tpu(197, 16, 819, 200),
    "tpu-v5p": _tpu(459, 95, 2765, 600),
    "tpu-v6e": _tpu(918, 32, 1640, 400),
}


ASSUMPTIONS = {
    "peak_tflops": "Peak of matrix products in the model's dtype, TFLOP/s.",
    "memory_gb": "Memory of a device, 10^9 bytes.",
    "memory_fraction": "Share of the memory that a program may use.",
    "memory_gbs": "Memory bandwidth of a device, 10^9 bytes/s.",
    "link_gbs": "What a device can send inside its host, 10^9 bytes/s.",
    "network_gbs": "What a device can send to other hosts, 10^9 bytes/s.",
    "utilisation": "Share of the peak that is got while a device computes; 0.35 by default.",
    "bandwidth_utilisation": "Share of the three bandwidths that is got; 0.7 by default.",
}
SHARES = ("memory_fraction", "utilisation", "bandwidth_utilisation")


@dataclasses.dataclass(frozen=True)
class Assumptions:
    """What a device and its links can do, and how much of it is got: see `ASSUMPTIONS`."""

    peak_tflops: float
    memory_gb: float
    memory_fraction: float
    memory_gbs: float
    link_gbs: float
    network_gbs: float
    utilisation: float = 0.35
    bandwidth_utilisation: float = 0.7

    @property
    def usable_memory(self) -> float:
        """Bytes that a program may use."""
        return self.memory_gb * 1e9 * self.memory_fraction


def assume(
    kind: str, dtype: str, given: Mapping[str, float | None]
) -> tuple[Assumptions, dict[str, str]]:
    """Returns the figures of an accelerator for a model's dtype, and where each is from.

    `given` replaces those that are not None.
    """
    device = ACCELERATORS[kind]
    peak = device.bfloat16_tflops if dtype == "bfloat16" else device.float32_tflops
    known = {"peak_tflops": peak, **device._asdict()}
    figures = {name: known[name] for name in ASSUMPTIONS if name in known}
    sources = dict.fromkeys(ASSUMPTIONS, device.source) | dict.fromkeys(SHARES, "assumed")
    replaced = {name: value for name, value in given.items() if value is not None}
    sources |= {name: f"--{name}" for name in replaced}
    return Assumptions(**figures | replaced), sources


@dataclasses.dataclass(frozen=True)
class Seconds:
    """The time of one update by what it is spent on: `step` is the sum, nothing hides the rest."""

    compute: float
    optimizer: float
    traffic_inside: float
    traffic_across: float

    @property
    def step(self) -> float:
        """The whole update."""
        return self.compute + self.optimizer + self.traffic_inside + self.traffic_across


def estimate_seconds(
    flops: float, memory: Memory, sent: Iterable[tuple[float, float]], assumed: Assumptions
) -> Seconds:
    """Returns the time of an update; latencies, the host and overlap are left out.

    Args:
        flops: of matrix products on one device, recomputed ones too.
        memory: of one device.
        sent: what `Exchange.sent` says of all exchanges.
        assumed: the figures of a device.
    """
    inside, across = (sum(part) for part in zip((0.0, 0.0), *sent, strict=True))
    # Parameters, moments and gradients are read and written once.
    state = 2 * (2 * memory.params + memory.opt_state)
    got = 1e9 * assumed.bandwidth_utilisation
    return Seconds(
        compute=flops / (1e12 * assumed.peak_tflops * assumed.utilisation),
        optimizer=state / (got * assumed.memory_gbs),
        traffic_inside=inside / (got * assumed.link_gbs),
        traffic_across=across / (got * assumed.network_gbs),
    )


def advice(
    memory: Memory,
    assumed: Assumptions,
    sizes: Mapping[str, int],
    *,
    batch_size: int,
    accumulate: int,
    remat: bool,
) -> str:
    """Says whether a step fits the usable memory on a mesh, and what to change if it does not."""
    share = memory.total / assumed.usable_memory
    if share <= 1:
        return f"fits: {share:.0%} of the usable memory"
    state = (2 * memory.params + memory.opt_state) / assumed.usable_memory
    rows = batch_size // (accumulate * sizes["data"] * sizes["fsdp"])
    hints = []
    if state > 0.5:
        hints.append(f"raise mesh.fsdp (now {sizes['fsdp']}): the state alone takes {state:.0%}")
    elif rows > 1:
        hints.append(f"raise accumulate (now {accumulate}; {rows} rows at once on a device)")
    if state <= 0.5 and not remat:
        hints.append("set model.remat=True")
    hints = hints or [f"raise mesh.tensor (now {sizes['tensor']})"]
    return f"does not fit: {share:.0%} of the usable memory; {', or '.join(hints)}"
