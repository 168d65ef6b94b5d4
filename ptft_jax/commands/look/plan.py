"""ptft plan --config=configs/pretrain/bert_base.py --topology=64x8:h200 [--price_per_device_hour=3]

Says what pretraining would need and take on machines that are not at hand: memory, time and cost.

The topology is HOSTS x DEVICES PER HOST : KIND. Memory is that of the real train step, compiled on
this machine's CPU, or a formula where the step would run in kernels of a GPU; FLOPs and what the
devices exchange follow from model and layout, times from assumptions, which are printed and can be
changed by flags. No data is needed.
"""

import dataclasses
import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from jax.sharding import AxisType, Mesh
from rich.box import SIMPLE_HEAD
from rich.table import Table

from ptft_jax.commands.parsing import required
from ptft_jax.commands.screen import count, facts, made, make_console, say
from ptft_jax.data.corpus.store import Corpus
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
from ptft_jax.errors import ConfigError
from ptft_jax.models import attention, fused
from ptft_jax.models.build import Model, build_model
from ptft_jax.models.config import EncoderConfig
from ptft_jax.models.partition import Device
from ptft_jax.objectives.pretraining import PretrainingObjective
from ptft_jax.runs.config import Config, check_length, check_numbers, nearest, refuse_teacher
from ptft_jax.runs.describe import describe_backends, describe_model
from ptft_jax.runs.kinds.pretraining import encoder_config, row_shapes
from ptft_jax.runs.phases import PhaseConfig, phases_of, rows_of
from ptft_jax.training.mesh import AXES, MeshConfig, check_batch, check_model, make_mesh
from ptft_jax.training.resources import cost
from ptft_jax.training.resources.accelerators import ACCELERATORS
from ptft_jax.training.updates.optimizer import OptimizerConfig, ScheduleConfig, make_optimizer

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
_SHARES_GOT = {"utilisation": 0.38, "bandwidth_utilisation": 0.7}
_UTILISATION_SOURCE = (
    "measured: 0.40 of the peak at 256 x 128 and 0.35 at 64 x 512 (BERT-base, bfloat16, one H200)"
)
SHARES = ("memory_fraction", "utilisation", "bandwidth_utilisation")


# What a device and its links can do, and how much of it is got: the value of each of `ASSUMPTIONS`.
Assumed = Mapping[str, float]


def define_flags(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    kinds = f"HOSTSxDEVICES:KIND, like 64x8:h200; kinds: {', '.join(ACCELERATORS)}."
    flags.DEFINE_string("topology", None, kinds, flag_values=values)
    price = "What a device costs for an hour."
    flags.DEFINE_float("price_per_device_hour", None, price, flag_values=values)
    flags.DEFINE_string("json", None, "File to write the plan to.", flag_values=values)
    for name, text in ASSUMPTIONS.items():
        flags.DEFINE_float(name, None, text, flag_values=values)


def run(values: flags.FlagValues) -> None:
    """Runs the command."""
    required(values, "topology")
    config, (hosts, per_host, kind) = values.config, _topology(values.topology)
    _check(values)
    model = _model(config)
    given = {name: values[name].value for name in ASSUMPTIONS}
    assumed, sources = assume(kind, model.config.dtype, given)
    layout = make_mesh(MeshConfig(**config.mesh), _stand_ins(hosts, per_host, kind))
    check_model(model.config, layout)
    for phase in phases_of(config):
        check_batch(phase.config.batch_size, phase.config.accumulate, layout)
        check_length(phase.config, model.config)
    device = Device("tpu" if kind.startswith("tpu") else "gpu", kind, ACCELERATORS[kind].capability)
    backends = describe_backends(model.config, rows_of(phases_of(config)), device)
    phases = [_planned(phase, model, layout, device, assumed) for phase in phases_of(config)]
    hours = sum(one["updates"] * one["seconds"]["step"] for one in phases) / 3600
    price, device_hours = values.price_per_device_hour, hours * layout.size
    plan = {
        "topology": values.topology,
        "devices": layout.size,
        "mesh": dict(layout.shape),
        "model": dataclasses.asdict(model.config),
        "backends": backends,
        "assumptions": assumed,
        "phases": phases,
        "hours": hours,
        "device_hours": device_hours,
        "cost": None if price is None else device_hours * price,
    }
    _show(plan, model, sources)
    if values.json:
        Path(values.json).write_text(json.dumps(plan, indent=1) + "\n", encoding="utf-8")


def _topology(text: str) -> tuple[int, int, str]:
    """Returns the number of hosts, that of the devices of each, and their kind."""
    form = re.fullmatch(r"([1-9]\d*)x([1-9]\d*):(.+)", text)
    if form is None:
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
            "the flags --peak_tflops, --memory_gb and so on."
        )
    return int(form[1]), int(form[2]), kind


def _check(values: flags.FlagValues) -> None:
    for name in (*ASSUMPTIONS, "price_per_device_hour"):
        value, most = values[name].value, 1.0 if name in SHARES else math.inf
        if value is not None and not (0 < value <= most and value < math.inf):
            up_to = "" if most == math.inf else f" up to {most:g}"
            raise ConfigError(f"--{name}={value:g}: expected a number above 0{up_to}.")
    if values.json and not Path(values.json).absolute().parent.is_dir():
        raise ConfigError(f"--json={values.json}: there is no folder to write it to.")
    check_numbers(values.config)
    refuse_teacher(values.config, "ptft plan plans")
    if values.config.steps < 1:
        raise ConfigError(f"--config.steps={values.config.steps}: expected at least 1.")


def _model(config: Config) -> Model:
    """Returns the model; without a corpus and a key for it, the vocabulary is BERT's."""
    there = config.data_dir
    corpus = Corpus.open(there, "train") if there and not config.model.vocab_size else None
    return build_model(encoder_config(config, corpus and TextTokenizer.load(corpus.tokenizer_dir)))


def _planned(
    phase: PhaseConfig, model: Model, layout: Mesh, device: Device, assumed: Assumed
) -> dict[str, Any]:
    """Returns what an update of a phase needs and takes, as JSON values."""
    config, sizes = phase.config, dict(layout.shape)
    split = {"batch_size": config.batch_size, "accumulate": config.accumulate}
    rows = row_shapes(config)
    (tokens,), (predictions,) = rows["input_ids"][0], rows["masked_lm_ids"][0]
    (pooled,), _ = rows.get("pooled_positions", ((0,), None))
    memory, source = _memory(config, model, rows, sizes, device)
    flops = config.batch_size * cost.model_flops(
        model.config, tokens=tokens, predictions=predictions, pooled=pooled
    )
    again = config.batch_size * cost.recomputed_flops(model.config, tokens)
    hosts = np.vectorize(lambda device: device.process_index)(layout.devices)
    exchanged = cost.exchanges(model, sizes, rows, **split)
    sent = [one.sent(hosts) for one in exchanged]
    peak = layout.size * assumed["peak_tflops"] * 1e12
    seconds = estimate_seconds((flops + again) / layout.size, memory, sent, assumed)
    return {
        "updates": phase.until - phase.start,
        **split,
        "tokens": tokens,
        "bytes": {**dataclasses.asdict(memory), "total": memory.total},
        "temporaries_from": source,
        "fits": memory.total <= _usable(assumed),
        "advice": advice(memory, assumed, sizes, remat=model.config.remat, **split),
        "exchanges": [
            {**dataclasses.asdict(one), "inside": inside, "across": across}
            for one, (inside, across) in zip(exchanged, sent, strict=True)
        ],
        "model_flops": flops,
        "recomputed_flops": again,
        "seconds": seconds,
        "model_flops_utilisation": flops / (seconds["step"] * peak),
        "tokens_per_second": config.batch_size * tokens / seconds["step"],
    }


def _memory(
    config: Config, model: Model, rows: cost.RowShapes, sizes: Mapping[str, int], device: Device
) -> tuple[cost.Memory, str]:
    """Returns what a device holds, and where the temporaries' size is from."""
    # What a device holds does not depend on how long `data` is, once there is such an axis.
    data = min(sizes["data"], 2)
    axes = model.axes()
    optimizer, schedule = make_optimizer(
        OptimizerConfig(**config.optimizer), ScheduleConfig(**config.schedule), config.steps, axes
    )
    mesh = _mesh_of_cpu({**sizes, "data": data})
    split = {
        "batch_size": config.batch_size // sizes["data"] * data,
        "accumulate": config.accumulate,
        "ema": config.ema,
    }
    if _in_kernels(config, model.config, device):
        memory = cost.memory_with_kernels(model, optimizer, rows, mesh, **split)
        return memory, "a formula of what kernels keep"
    # The CPU has no kernels, and the numbers of XLA's operations are the same.
    model = build_model(model.config.replace(attention="xla", fused="xla"))
    objective = PretrainingObjective(next_sentence="nsp" in model.config.heads)
    _, memory = cost.compile_step(model, objective, optimizer, schedule, rows, mesh, **split)
    return memory, "the step compiled for CPU"


def _in_kernels(config: Config, model: EncoderConfig, device: Device) -> bool:
    """Says whether kernels compute all that lies between the products of unrolled layers."""
    request = attention.Request(
        model.dtype,
        model.head_size,
        config.max_seq_length,
        config.packing,
        model.attention_probs_dropout_prob,
    )
    name, _ = attention.choose(model.attention, request, device)
    unrolled = (model.unroll or model.num_hidden_layers) >= model.num_hidden_layers
    return name == "kernel" and fused.uses_kernels(model.fused, device) and unrolled


@dataclasses.dataclass(frozen=True)
class _StandIn:
    """A device as far as a mesh looks at it."""

    id: int
    process_index: int
    platform: str = "cpu"
    device_kind: str = "planned"


def _stand_ins(hosts: int, per_host: int, kind: str) -> list[Any]:
    # Hosts of a TPU slice are joined by the devices' own links: one block (`training/mesh.py`).
    block = hosts * per_host if kind.startswith("tpu") else per_host
    return [_StandIn(number, number // block) for number in range(hosts * per_host)]


def _mesh_of_cpu(sizes: Mapping[str, int]) -> Mesh:
    """Splits this machine's CPU into as many devices as a mesh has."""
    wanted = math.prod(sizes.values())
    try:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", min(wanted, 2048))  # the most that JAX makes
    except RuntimeError:
        # This process has used JAX before, and its devices are what they are.
        pass
    devices = jax.devices("cpu")
    if len(devices) < wanted:
        raise ConfigError(
            f"mesh.fsdp={sizes['fsdp']} x mesh.tensor={sizes['tensor']}: {wanted} devices are too "
            f"many to compile for on a CPU, which can be split into {len(devices)}; plan with less."
        )
    grid = np.array(devices[:wanted]).reshape(tuple(sizes.values()))
    return Mesh(grid, AXES, axis_types=(AxisType.Explicit,) * len(AXES))


def _show(plan: dict[str, Any], model: Model, sources: Mapping[str, str]) -> None:
    console, columns = make_console(), [_column(one) for one in plan["phases"]]
    mesh = ", ".join(f"{name} {size}" for name, size in plan["mesh"].items())
    vocabulary = count(model.config.vocab_size)
    what = {"model": describe_model(model), "vocabulary": vocabulary, "mesh": mesh}
    facts(console, {**what, **plan["backends"]})
    numbers = [f"phase {number}" for number in range(1, 1 + len(columns))]
    table = Table("", *numbers, box=SIMPLE_HEAD)
    for name in columns[0]:
        table.add_row(name.replace("_", " "), *(column[name] for column in columns))
    console.print(table)
    for number, one in zip(numbers, plan["phases"], strict=True):
        say(console, f"{number} {one['advice']} (temporaries: {one['temporaries_from']})")
    table = Table("assumption", "value", "source", box=SIMPLE_HEAD)
    for name, value in plan["assumptions"].items():
        table.add_row(f"--{name}", f"{value:g}", sources[name])
    console.print(table)
    what = {
        "topology": f"{plan['topology']}, devices: {count(plan['devices'])}",
        "hours": f"{_hours(plan['hours'])} without compiling, evaluations and checkpoints",
        "device-hours": _hours(plan["device_hours"]),
    }
    if plan["cost"] is not None:
        what["cost"] = f"{plan['cost']:,.2f}"
    made(console, "planned", what, [])


def _hours(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _column(phase: dict[str, Any]) -> dict[str, str]:
    """Returns the cells of a phase by the names of their rows."""
    sizes = {f"{name} on a device": size for name, size in phase["bytes"].items()}
    for one in phase["exchanges"]:
        sizes[f"{one['kind']} along {', '.join(one['axes'])}"] = one["bytes"]
    return {
        "updates": count(phase["updates"]),
        "rows x tokens": f"{count(phase['batch_size'])} x {phase['tokens']}",
        **{f"{name}, MiB": f"{size / 2**20:,.1f}" for name, size in sizes.items()},
        "model TFLOP of an update": f"{phase['model_flops'] / 1e12:,.4g}",
        **{f"{name}, ms": f"{1e3 * one:,.2f}" for name, one in phase["seconds"].items()},
        "model FLOPs utilisation": f"{phase['model_flops_utilisation']:.0%}",
        "tokens/s": f"{phase['tokens_per_second']:,.0f}",
    }


def assume(
    kind: str, dtype: str, given: Mapping[str, float | None]
) -> tuple[dict[str, float], dict[str, str]]:
    """Returns the figures of an accelerator for a model's dtype, and where each is from.

    `given` replaces those that are not None.
    """
    device = ACCELERATORS[kind]
    known = {"peak_tflops": device.peak_tflops(dtype), **device._asdict(), **_SHARES_GOT}
    figures = {name: known[name] for name in ASSUMPTIONS}
    sources = dict.fromkeys(ASSUMPTIONS, device.source) | dict.fromkeys(SHARES, "assumed")
    sources["utilisation"] = _UTILISATION_SOURCE
    replaced = {name: value for name, value in given.items() if value is not None}
    sources |= {name: f"--{name}" for name in replaced}
    return figures | replaced, sources


def estimate_seconds(
    flops: float, memory: cost.Memory, sent: Iterable[tuple[float, float]], assumed: Assumed
) -> dict[str, float]:
    """Returns the time of an update by what it is spent on; `step` is the sum.

    Nothing hides the rest; latencies and the host are left out. `flops`: of matrix products on one
    device, recomputed ones too; `sent`: what `Exchange.sent` says of all exchanges.
    """
    inside, across = (sum(part) for part in zip((0.0, 0.0), *sent, strict=True))
    # Parameters, moments and gradients are read and written once.
    state = 2 * (2 * memory.params + memory.opt_state)
    got = 1e9 * assumed["bandwidth_utilisation"]
    seconds = {
        "compute": flops / (1e12 * assumed["peak_tflops"] * assumed["utilisation"]),
        "optimizer": state / (got * assumed["memory_gbs"]),
        "traffic_inside": inside / (got * assumed["link_gbs"]),
        "traffic_across": across / (got * assumed["network_gbs"]),
    }
    return {**seconds, "step": sum(seconds.values())}


def advice(
    memory: cost.Memory,
    assumed: Assumed,
    sizes: Mapping[str, int],
    *,
    batch_size: int,
    accumulate: int,
    remat: bool,
) -> str:
    """Says whether a step fits the usable memory on a mesh, and what to change if it does not."""
    share = memory.total / _usable(assumed)
    if share <= 1:
        return f"fits: {share:.0%} of the usable memory"
    state = (2 * memory.params + memory.opt_state) / _usable(assumed)
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


def _usable(assumed: Assumed) -> float:
    """Returns the bytes of a device that a program may use."""
    return assumed["memory_gb"] * 1e9 * assumed["memory_fraction"]
