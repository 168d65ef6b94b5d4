"""ptft plan --config=configs/pretrain/bert_base.py --topology=64x8:h200 [--price_per_device_hour=3]

Says what a run would need and take on machines that are not at hand: memory, traffic and time.

The topology is HOSTS x DEVICES PER HOST : KIND. The real train step is compiled on this machine's
CPU for as many devices as that, in seconds and without an accelerator; bytes, collectives and FLOPs
are counted in the result. Times follow from assumptions, which are printed and can be changed by
flags. Configs of `ptft pretrain` and `ptft finetune` are understood, with or without their data.
"""

import dataclasses
import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from jax.sharding import AxisType, Mesh

from ptft_jax.commands import defaults
from ptft_jax.commands.accelerators import ACCELERATORS, Accelerator
from ptft_jax.commands.plan_report import PhasePlan, as_json, show
from ptft_jax.commands.plan_work import (
    PlannedPhase,
    PlannedRun,
    is_finetuning,
    planned_finetuning,
    planned_pretraining,
)
from ptft_jax.commands.screen import make_console
from ptft_jax.commands.settings import Config, config_of, load_config, nearest
from ptft_jax.commands.training_flags import check_numbers
from ptft_jax.errors import ConfigError
from ptft_jax.models.build import build_model
from ptft_jax.training.cost import (
    Assumptions,
    estimate_seconds,
    model_flops,
    recomputed_flops,
    step_cost,
    traffic,
)
from ptft_jax.training.mesh import AXES, MeshConfig, check_batch, check_model, make_mesh
from ptft_jax.training.optimizer import OptimizerConfig, ScheduleConfig, make_optimizer

# The most devices that JAX makes of one CPU; ids of a second process begin here.
_MOST_DEVICES = 2048

_ASSUMPTIONS = {
    "peak_tflops": "Peak of matrix products in the model's dtype, TFLOP/s.",
    "memory_gb": "Memory of a device, 10^9 bytes.",
    "memory_fraction": "Share of the memory that a program may use.",
    "memory_gbs": "Memory bandwidth of a device, 10^9 bytes/s.",
    "link_gbs": "What a device can send inside its host, 10^9 bytes/s.",
    "network_gbs": "What a device can send to other hosts, 10^9 bytes/s.",
    "utilisation": "Share of the peak that is got while a device computes.",
    "memory_utilisation": "Share of the memory bandwidth that is got.",
    "link_utilisation": "Share of the links' bandwidths that is got.",
    "overlap": "Share of the computing time behind which communication is hidden.",
}
# Where the figure that is no device's comes from. docs/distributed.md has the published ones.
_DEFAULTS = {
    "utilisation": (0.35, "between published BERTs: 0.2 to 0.5, docs/distributed.md"),
    "memory_utilisation": (0.8, "assumed"),
    "link_utilisation": (0.7, "assumed"),
    "overlap": (0.0, "assumed: nothing is hidden"),
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """Hosts with the same number of devices of one kind."""

    hosts: int
    per_host: int
    kind: str

    @property
    def accelerator(self) -> Accelerator:
        """The devices' figures."""
        return ACCELERATORS[self.kind]

    @property
    def devices(self) -> int:
        """Number of devices."""
        return self.hosts * self.per_host

    def __str__(self) -> str:
        return f"{self.hosts}x{self.per_host}:{self.kind}"


def define_flags(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    flags.DEFINE_string(
        "topology",
        None,
        f"HOSTSxDEVICES:KIND, like 64x8:h200; kinds: {', '.join(ACCELERATORS)}.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "init_from",
        None,
        "Run or Hugging Face folder that fine-tuning starts from; only its config.json is read.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "examples", None, "Training examples of a task whose data is not here.", flag_values=values
    )
    flags.DEFINE_integer(
        "num_labels", 2, "Labels of a task whose data is not here.", flag_values=values
    )
    flags.DEFINE_float(
        "fill", None, "Share of positions that are no padding, in (0, 1].", flag_values=values
    )
    flags.DEFINE_float(
        "price_per_device_hour", None, "What a device costs for an hour.", flag_values=values
    )
    flags.DEFINE_string("json", None, "File to write the plan to.", flag_values=values)
    for name, text in _ASSUMPTIONS.items():
        default = f"; {_DEFAULTS[name][0]} by default" if name in _DEFAULTS else ""
        flags.DEFINE_float(name, None, f"{text[:-1]}{default}.", flag_values=values)


def defaults_for(arguments: Sequence[str]) -> Callable[[], Config]:
    """Returns the function that names the keys of the config in a command line."""
    file = config_of(arguments)
    fine = file is not None and is_finetuning(load_config(file))
    return defaults.finetune if fine else defaults.pretrain


def run(values: flags.FlagValues, positional: list[str]) -> None:
    """Runs the command."""
    if positional:
        raise ConfigError(f"{positional[0]!r}: expected flags only, like --topology=1x8:h100.")
    config = values.config
    topology = parse_topology(values.topology)
    _check_flags(values)
    check_numbers(config)
    if is_finetuning(config):
        work = planned_finetuning(config, values.init_from, values.examples, values.num_labels)
    else:
        if config.steps < 1:
            raise ConfigError(f"--config.steps={config.steps}: expected at least 1.")
        work = planned_pretraining(config)
    assumed, sources = _assumptions(values, topology, work.model.dtype)
    plans, mesh_sizes = plan(config, work, topology, assumed, values.fill)
    console = make_console()
    show(
        console,
        work,
        plans,
        topology=str(topology),
        devices=topology.devices,
        mesh=mesh_sizes,
        assumed=assumed,
        sources=sources,
        links=topology.accelerator.links,
        price=values.price_per_device_hour,
    )
    if values.json:
        content = as_json(
            work,
            plans,
            str(topology),
            topology.devices,
            mesh_sizes,
            assumed,
            values.price_per_device_hour,
        )
        Path(values.json).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        console.print(f"written to {values.json}")


def parse_topology(text: str | None) -> Topology:
    """Reads HOSTSxDEVICES:KIND.

    Raises:
        ConfigError: it is missing, of another form, or of a kind that is not known.
    """
    if not text:
        raise ConfigError("--topology is missing: write HOSTSxDEVICES:KIND, like 64x8:h200.")
    form = re.fullmatch(r"(\d+)x(\d+):(.+)", text)
    if form is None or not int(form[1]) or not int(form[2]):
        raise ConfigError(
            f"--topology={text}: expected HOSTSxDEVICES:KIND, like 64x8:h200 for 64 hosts of 8."
        )
    kind = form[3].lower()
    if kind not in ACCELERATORS:
        near = nearest(kind, list(ACCELERATORS))
        hint = f"; the nearest is {near}" if near else ""
        raise ConfigError(
            f"--topology={text}: there is no accelerator {kind!r}{hint}. Known are "
            f"{', '.join(ACCELERATORS)}; for another one name the most similar, and its figures by "
            "--peak_tflops, --memory_gb, --memory_gbs, --link_gbs and --network_gbs."
        )
    return Topology(int(form[1]), int(form[2]), kind)


def _check_flags(values: flags.FlagValues) -> None:
    shares = ("fill", "memory_fraction", "utilisation", "memory_utilisation", "link_utilisation")
    for name in (*_ASSUMPTIONS, "fill", "price_per_device_hour", "examples", "num_labels"):
        value = values[name].value
        if value is None:
            continue
        may_be_0 = name in ("overlap", "price_per_device_hour")
        most = 1.0 if name in (*shares, "overlap") else math.inf
        if not (value >= 0 if may_be_0 else value > 0) or not value <= most or value == math.inf:
            least = "from 0" if may_be_0 else "above 0"
            up_to = "" if most == math.inf else f" up to {most:g}"
            raise ConfigError(f"--{name}={value:g}: expected a number {least}{up_to}.")
    if values.json and not Path(values.json).absolute().parent.is_dir():
        raise ConfigError(f"--json={values.json}: there is no folder to write it to.")


def _assumptions(
    values: flags.FlagValues, topology: Topology, dtype: str
) -> tuple[Assumptions, dict[str, str]]:
    """Returns the assumptions and where each is from, by the name of its flag."""
    device = topology.accelerator
    figures = {
        "peak_tflops": (device.peak_tflops(dtype), f"{device.source}, {dtype} (dense)"),
        "memory_gb": (device.memory_gb, device.source),
        "memory_fraction": (device.memory_fraction, device.memory_fraction_source),
        "memory_gbs": (device.memory_gbs, device.source),
        "link_gbs": (device.link_gbs, f"{device.source}, one direction"),
        "network_gbs": (device.network_gbs, "typical machine, one direction"),
        **_DEFAULTS,
    }
    for name in _ASSUMPTIONS:
        given = values[name].value
        if given is not None:
            figures[name] = (given, f"--{name}")
    number = {name: value for name, (value, _) in figures.items()}
    assumed = Assumptions(
        peak_flops=number["peak_tflops"] * 1e12,
        memory=number["memory_gb"] * 1e9,
        memory_fraction=number["memory_fraction"],
        memory_bandwidth=number["memory_gbs"] * 1e9,
        link_bandwidth=number["link_gbs"] * 1e9,
        network_bandwidth=number["network_gbs"] * 1e9,
        utilisation=number["utilisation"],
        memory_utilisation=number["memory_utilisation"],
        link_utilisation=number["link_utilisation"],
        overlap=number["overlap"],
    )
    return assumed, {name: source for name, (_, source) in figures.items()}


def plan(
    config: Config,
    work: PlannedRun,
    topology: Topology,
    assumed: Assumptions,
    fill: float | None,
) -> tuple[list[PhasePlan], dict[str, int]]:
    """Plans every phase of a run; returns the plans and the mesh's sizes by axis.

    Raises:
        ConfigError: the mesh does not fit the topology, or something does not divide.
    """
    layout = make_mesh(MeshConfig(**config.mesh), _stand_ins(topology))
    for phase in work.phases:
        check_batch(phase.batch_size, phase.accumulate, layout)
    if "eval_batch_size" in config:
        check_batch(config.eval_batch_size, 1, layout, key="eval_batch_size")
    check_model(work.model, layout)
    sizes = dict(layout.shape)
    hosts = np.vectorize(lambda device: device.host)(layout.devices)
    compiled_sizes, shrunk = _compiled_sizes(sizes)
    devices = np.array(jax.devices("cpu")[: math.prod(compiled_sizes.values())])
    mesh = Mesh(
        devices.reshape(*compiled_sizes.values()), AXES, axis_types=(AxisType.Explicit,) * len(AXES)
    )
    model = build_model(work.model)
    optimizer, schedule = make_optimizer(
        OptimizerConfig(**config.optimizer),
        ScheduleConfig(**config.schedule),
        work.steps or max(1, config.schedule.warmup_steps),
        model.axes(),
    )
    plans = []
    for phase in work.phases:
        cost = step_cost(
            model,
            work.objective,
            optimizer,
            schedule,
            phase.rows,
            mesh,
            batch_size=phase.batch_size // shrunk,
            accumulate=phase.accumulate,
        )
        exchanged = traffic(cost.collectives, compiled_sizes, hosts)
        plans.append(
            PhasePlan(
                phase=phase,
                cost=cost,
                traffic=tuple(exchanged),
                seconds=estimate_seconds(cost, exchanged, phase.accumulate, assumed),
                model_flops=_flops(work, phase),
                recomputed_flops=phase.batch_size * recomputed_flops(work.model, phase.tokens),
                fill=fill if fill is not None else phase.fill,
                compiled=compiled_sizes,
            )
        )
    return plans, sizes


def _flops(work: PlannedRun, phase: PlannedPhase) -> int:
    return phase.batch_size * model_flops(
        work.model, tokens=phase.tokens, predictions=phase.predictions, pooled=phase.pooled
    )


@dataclasses.dataclass(frozen=True)
class _StandIn:
    """A device as far as a mesh looks at it; `host` is where it is, whatever its block."""

    id: int
    process_index: int
    host: int
    platform: str = "cpu"
    device_kind: str = "planned"


def _stand_ins(topology: Topology) -> list[Any]:
    # Hosts of a TPU slice are one block of devices (`training/mesh.py`).
    one_block = topology.kind.startswith("tpu")
    return [
        _StandIn(
            id=number,
            process_index=0 if one_block else number // topology.per_host,
            host=number // topology.per_host,
        )
        for number in range(topology.devices)
    ]


def _compiled_sizes(sizes: dict[str, int]) -> tuple[dict[str, int], int]:
    """Returns the mesh to compile for, and the factor by which its `data` axis is shorter.

    What one device holds, computes and takes part in does not depend on how long `data` is, as
    long as there is such an axis.
    """
    available = _fake_devices(math.prod(sizes.values()))
    data, rest = sizes["data"], math.prod(sizes.values()) // sizes["data"]
    for shorter in range(data, min(data, 2) - 1, -1):
        if data % shorter == 0 and shorter * rest <= available:
            return {**sizes, "data": shorter}, data // shorter
    raise ConfigError(
        f"mesh.fsdp={sizes['fsdp']} x mesh.tensor={sizes['tensor']}: {data} x {rest} devices are "
        f"too many to compile for on a CPU, which can be split into {available}, and a shorter "
        "`data` does not help; plan a smaller topology."
    )


def _fake_devices(wanted: int) -> int:
    """Splits the CPU into as many devices as are wanted and can be; returns how many there are."""
    try:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", min(wanted, _MOST_DEVICES))
    except RuntimeError:
        # This process has used JAX before, and its devices are what they are.
        pass
    return len(jax.devices("cpu"))
