"""Whether and how long an update runs on an accelerator, from assumptions that can be changed."""

import dataclasses
from collections.abc import Iterable, Mapping

from ptft_jax.training.accelerators import ACCELERATORS
from ptft_jax.training.cost import Memory

ASSUMPTIONS = {
    "peak_tflops": "Peak of matrix products in the model's dtype, TFLOP/s.",
    "memory_gb": "Memory of a device, 10^9 bytes.",
    "memory_fraction": "Share of the memory that a program may use.",
    "memory_gbs": "Memory bandwidth of a device, 10^9 bytes/s.",
    "link_gbs": "What a device can send inside its host, 10^9 bytes/s.",
    "network_gbs": "What a device can send to other hosts, 10^9 bytes/s.",
    "utilisation": "Share of the peak that is got while a device computes; 0.38 by default.",
    "bandwidth_utilisation": "Share of the three bandwidths that is got; 0.7 by default.",
}
_UTILISATION_SOURCE = (
    "measured: 0.40 of the peak at 256 x 128 and 0.35 at 64 x 512 (BERT-base, bfloat16, one H200)"
)
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
    utilisation: float = 0.38
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
    known = {"peak_tflops": device.peak_tflops(dtype), **device._asdict()}
    figures = {name: known[name] for name in ASSUMPTIONS if name in known}
    sources = dict.fromkeys(ASSUMPTIONS, device.source) | dict.fromkeys(SHARES, "assumed")
    sources["utilisation"] = _UTILISATION_SOURCE
    replaced = {name: value for name, value in given.items() if value is not None}
    sources |= {name: f"--{name}" for name in replaced}
    return Assumptions(**figures | replaced), sources


def estimate_seconds(
    flops: float, memory: Memory, sent: Iterable[tuple[float, float]], assumed: Assumptions
) -> dict[str, float]:
    """Returns the time of an update by what it is spent on; `step` is the sum.

    Nothing hides the rest; latencies and the host are left out. `flops`: of matrix products on one
    device, recomputed ones too; `sent`: what `Exchange.sent` says of all exchanges.
    """
    inside, across = (sum(part) for part in zip((0.0, 0.0), *sent, strict=True))
    # Parameters, moments and gradients are read and written once.
    state = 2 * (2 * memory.params + memory.opt_state)
    got = 1e9 * assumed.bandwidth_utilisation
    seconds = {
        "compute": flops / (1e12 * assumed.peak_tflops * assumed.utilisation),
        "optimizer": state / (got * assumed.memory_gbs),
        "traffic_inside": inside / (got * assumed.link_gbs),
        "traffic_across": across / (got * assumed.network_gbs),
    }
    return {**seconds, "step": sum(seconds.values())}


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
