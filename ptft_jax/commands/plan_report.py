"""A plan on screen and as JSON."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ptft_jax.commands.describe import describe_model
from ptft_jax.commands.plan_work import PlannedPhase, PlannedRun
from ptft_jax.commands.screen import count, facts, say
from ptft_jax.models.build import build_model
from ptft_jax.training.cost import Assumptions, Memory, Seconds, StepCost, Traffic

# A first step compiles, and checkpoints and evaluations take time as well.
_LEFT_OUT = "without compiling, evaluations and checkpoints"


@dataclasses.dataclass(frozen=True)
class PhasePlan:
    """One phase with what it costs.

    Attributes:
        phase: what is planned.
        cost: of one update on one device, from the compiled program.
        traffic: what a device sends in one update, by kind and axes.
        seconds: the expected time of one update.
        model_flops: of one update on all devices, by the formula.
        recomputed_flops: what `remat` adds to them.
        fill: share of positions that are no padding; None if it is not known.
        compiled: the mesh that the program was compiled for.
    """

    phase: PlannedPhase
    cost: StepCost
    traffic: tuple[Traffic, ...]
    seconds: Seconds
    model_flops: int
    recomputed_flops: int
    fill: float | None
    compiled: Mapping[str, int]

    @property
    def tokens_per_second(self) -> float:
        """Tokens on all devices, padding included."""
        return self.phase.batch_size * self.phase.tokens / self.seconds.step

    @property
    def hours(self) -> float | None:
        """The time of the phase's updates."""
        updates = self.phase.updates
        return None if updates is None else updates * self.seconds.step / 3600

    def flops_of_program(self, devices: int) -> float:
        """FLOPs that the compiled program does on all devices, over what the formula says."""
        return self.cost.matrix_flops * devices / (self.model_flops + self.recomputed_flops)


def show(
    console: Console,
    work: PlannedRun,
    plans: Sequence[PhasePlan],
    *,
    topology: str,
    devices: int,
    mesh: Mapping[str, int],
    assumed: Assumptions,
    sources: Mapping[str, str],
    links: str,
    price: float | None,
) -> None:
    """Prints a plan."""
    sizes = ", ".join(f"{name} {size}" for name, size in mesh.items())
    facts(
        console,
        {
            "model": describe_model(build_model(work.model)),
            "topology": f"{topology}: {count(devices)} devices ({links})",
            "mesh": sizes,
        },
    )
    compiled = plans[0].compiled
    if dict(compiled) != dict(mesh):
        say(
            console,
            f"compiled for data {compiled['data']} instead of {mesh['data']}: what a device does "
            "is the same, and groups are counted at their full size",
        )
    for note in work.notes:
        say(console, f"assumed: {note}")
    for number, plan in enumerate(plans, start=1):
        phase = plan.phase
        which = f"phase {number}: " if len(plans) > 1 else ""
        updates = "" if phase.updates is None else f"{count(phase.updates)} updates of "
        micro = f", in {phase.accumulate} micro-batches" if phase.accumulate > 1 else ""
        console.print(
            f"\n[bold]{which}{updates}{phase.batch_size} x {phase.tokens} tokens{micro}[/bold]"
        )
        console.print(_memory_table(plan.cost.memory, assumed))
        say(console, fit_sentence(plan, assumed, mesh, work.model.remat))
        console.print(_traffic_table(plan.traffic))
        console.print(_time_table(plan, devices, assumed))
    console.print(_assumption_table(assumed, sources))
    facts(console, _totals(plans, devices, price))


def _memory_table(memory: Memory, assumed: Assumptions) -> Table:
    table = Table("on each device", "MiB", "", box=SIMPLE_HEAD)
    table.columns[1].justify = "right"
    for name, size, remark in (
        ("parameters", memory.params, ""),
        ("optimizer state", memory.opt_state, ""),
        ("batch", memory.batch, ""),
        ("temporaries", memory.temporaries, "as the CPU compiler reserves them"),
        ("  gradients", memory.gradients, "among them"),
        ("  kept for the backward pass", memory.kept, "among them, as the model's dtypes say"),
        ("total", memory.total, f"of {assumed.memory * assumed.memory_fraction / 2**20:,.0f}"),
    ):
        table.add_row(name, f"{size / 2**20:,.1f}", remark)
    return table


def fit_sentence(
    plan: PhasePlan, assumed: Assumptions, mesh: Mapping[str, int], remat: bool
) -> str:
    """Says whether a step fits the memory, and what to raise if it does not."""
    memory = plan.cost.memory
    usable = assumed.memory * assumed.memory_fraction
    share = memory.total / usable
    if share <= 1:
        return f"fits: {share:.0%} of the usable memory"
    state = memory.params + memory.opt_state + memory.gradients
    phase = plan.phase
    rows = phase.batch_size // (phase.accumulate * mesh["data"] * mesh["fsdp"])
    if state > usable / 2:
        hint = f"the state alone takes {state / usable:.0%}: raise mesh.fsdp (now {mesh['fsdp']})"
    elif rows > 1:
        hint = (
            f"raise accumulate (now {phase.accumulate}; {rows} rows at once on a device), or set "
            "model.remat=True"
            if not remat
            else f"raise accumulate (now {phase.accumulate}; {rows} rows at once on a device)"
        )
    elif not remat:
        hint = "set model.remat=True"
    else:
        hint = f"raise mesh.tensor (now {mesh['tensor']}) or mesh.fsdp (now {mesh['fsdp']})"
    return f"does not fit: {share:.0%} of the usable memory; {hint}"


def _traffic_table(exchanged: Sequence[Traffic]) -> Table:
    table = Table(
        "each update",
        "along",
        "times",
        "MiB exchanged",
        "MiB sent inside",
        "MiB sent across",
        box=SIMPLE_HEAD,
    )
    for column in table.columns[2:]:
        column.justify = "right"
    for one in exchanged:
        table.add_row(
            one.kind,
            ", ".join(one.axes),
            count(one.count),
            f"{one.bytes / 2**20:,.2f}",
            f"{one.inside / 2**20:,.2f}",
            f"{one.across / 2**20:,.2f}",
        )
    if not exchanged:
        table.add_row("nothing", "", "", "", "", "")
    return table


def _time_table(plan: PhasePlan, devices: int, assumed: Assumptions) -> Table:
    seconds = plan.seconds
    per_device = plan.model_flops / devices
    table = Table("one update", "ms", "", box=SIMPLE_HEAD)
    table.columns[1].justify = "right"
    agreement = (
        f"{plan.cost.matrix_flops / 1e12:,.3g} TFLOP on each device in the compiled program, "
        f"{plan.flops_of_program(devices):.0%} of the formula's"
    )
    for name, value, remark in (
        ("matrix products", seconds.compute, agreement),
        ("activations to memory and back", seconds.activations, "in the time of the products"),
        ("optimizer", seconds.update, ""),
        ("communication inside hosts", seconds.inside, ""),
        ("communication across hosts", seconds.across, ""),
        (
            "all",
            seconds.step,
            f"{per_device / seconds.step / assumed.peak_flops:.0%} of the peak in model FLOPs",
        ),
    ):
        table.add_row(name, f"{value * 1e3:,.2f}", remark)
    return table


def _assumption_table(assumed: Assumptions, sources: Mapping[str, str]) -> Table:
    table = Table("assumption", "value", "source", box=SIMPLE_HEAD)
    table.columns[1].justify = "right"
    for name, value in flag_values(assumed).items():
        table.add_row(f"--{name}", f"{value:g}", sources[name])
    return table


def flag_values(assumed: Assumptions) -> dict[str, float]:
    """Returns assumptions in the units of the flags that change them."""
    return {
        "peak_tflops": assumed.peak_flops / 1e12,
        "memory_gb": assumed.memory / 1e9,
        "memory_fraction": assumed.memory_fraction,
        "memory_gbs": assumed.memory_bandwidth / 1e9,
        "link_gbs": assumed.link_bandwidth / 1e9,
        "network_gbs": assumed.network_bandwidth / 1e9,
        "utilisation": assumed.utilisation,
        "memory_utilisation": assumed.memory_utilisation,
        "link_utilisation": assumed.link_utilisation,
        "overlap": assumed.overlap,
    }


def _totals(plans: Sequence[PhasePlan], devices: int, price: float | None) -> dict[str, str]:
    rates = []
    for plan in plans:
        rate = f"{plan.tokens_per_second:,.0f}"
        if plan.fill is not None:
            rate += f" ({plan.tokens_per_second * plan.fill:,.0f} without padding)"
        rates.append(rate)
    lines = {"tokens/s": "; ".join(rates)}
    hours = total_hours(plans)
    if hours is None:
        return {**lines, "hours": "the number of updates is not known"}
    lines["hours"] = f"{hours:,.3g} {_LEFT_OUT}"
    lines["device-hours"] = f"{hours * devices:,.4g}"
    if price is None:
        lines["cost"] = "give --price_per_device_hour"
    else:
        lines["cost"] = f"{hours * devices * price:,.2f} at {price:g} for a device and hour"
    return lines


def total_hours(plans: Sequence[PhasePlan]) -> float | None:
    """Returns the time of all updates; None where their number is not known."""
    hours = [plan.hours for plan in plans if plan.hours is not None]
    return sum(hours) if len(hours) == len(plans) else None


def as_json(
    work: PlannedRun,
    plans: Sequence[PhasePlan],
    topology: str,
    devices: int,
    mesh: Mapping[str, int],
    assumed: Assumptions,
    price: float | None,
) -> dict[str, Any]:
    """Returns a plan as JSON values: bytes and seconds of one update on one device, by phase."""
    hours = total_hours(plans)
    device_hours = None if hours is None else hours * devices
    return {
        "topology": topology,
        "devices": devices,
        "mesh": dict(mesh),
        "model": dataclasses.asdict(work.model),
        "assumptions": flag_values(assumed),
        "notes": list(work.notes),
        "phases": [
            {
                "updates": plan.phase.updates,
                "batch_size": plan.phase.batch_size,
                "accumulate": plan.phase.accumulate,
                "tokens": plan.phase.tokens,
                "fill": plan.fill,
                "compiled_mesh": dict(plan.compiled),
                "bytes": {**dataclasses.asdict(plan.cost.memory), "total": plan.cost.memory.total},
                "fits": plan.cost.memory.total <= assumed.memory * assumed.memory_fraction,
                "traffic": [dataclasses.asdict(one) for one in plan.traffic],
                "matrix_flops": plan.cost.matrix_flops,
                "model_flops": plan.model_flops,
                "recomputed_flops": plan.recomputed_flops,
                "seconds": dataclasses.asdict(plan.seconds),
                "tokens_per_second": plan.tokens_per_second,
                "hours": plan.hours,
            }
            for plan in plans
        ],
        "hours": hours,
        "device_hours": device_hours,
        "cost": None if price is None or device_hours is None else device_hours * price,
    }
