"""ptft plan --config=configs/pretrain/bert_base.py --topology=64x8:h200 [--price_per_device_hour=3]

Says what pretraining would need and take on machines that are not at hand: memory, time and cost.

The topology is HOSTS x DEVICES PER HOST : KIND. Memory is that of the real train step, compiled on
this machine's CPU; FLOPs and what the devices exchange follow from model and layout, times from
assumptions, which are printed and can be changed by flags. No data is needed.
"""

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from jax.sharding import AxisType, Mesh
from rich.box import SIMPLE_HEAD
from rich.table import Table

from ptft_jax.commands.describe import describe_model
from ptft_jax.commands.look.accelerators import (
    ASSUMPTIONS,
    SHARES,
    Assumptions,
    advice,
    assume,
    estimate_seconds,
)
from ptft_jax.commands.screen import count, facts, made, make_console, say
from ptft_jax.commands.train.flags import check_length, check_numbers
from ptft_jax.commands.train.pretrain import HEADS, PAIR_HEADS
from ptft_jax.data.corpus.store import Corpus
from ptft_jax.data.pretraining.formats import PAIR_FORMATS
from ptft_jax.errors import ConfigError
from ptft_jax.models.build import Model, build_model
from ptft_jax.models.config import EncoderConfig
from ptft_jax.objectives.pretraining import PretrainingObjective
from ptft_jax.runs.config import Config, nearest
from ptft_jax.runs.phases import PhaseConfig, phases_of, pretraining_settings
from ptft_jax.training import cost
from ptft_jax.training.accelerators import ACCELERATORS
from ptft_jax.training.mesh import AXES, MeshConfig, check_batch, check_model, make_mesh
from ptft_jax.training.optimizer import OptimizerConfig, ScheduleConfig, make_optimizer

# Examples that a packed row has room for where the config leaves it to the corpus.
_UNKNOWN_PACK = 4


def define_flags(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    kinds = f"HOSTSxDEVICES:KIND, like 64x8:h200; kinds: {', '.join(ACCELERATORS)}."
    flags.DEFINE_string("topology", None, kinds, flag_values=values)
    price = "What a device costs for an hour."
    flags.DEFINE_float("price_per_device_hour", None, price, flag_values=values)
    flags.DEFINE_string("json", None, "File to write the plan to.", flag_values=values)
    for name, text in ASSUMPTIONS.items():
        flags.DEFINE_float(name, None, text, flag_values=values)


def run(values: flags.FlagValues, positional: list[str]) -> None:
    """Runs the command."""
    if positional:
        raise ConfigError(f"{positional[0]!r}: expected flags only, like --topology=1x8:h100.")
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
    phases = [_planned(phase, model, layout, assumed) for phase in phases_of(config)]
    hours = sum(one["updates"] * one["seconds"]["step"] for one in phases) / 3600
    price, device_hours = values.price_per_device_hour, hours * layout.size
    plan = {
        "topology": values.topology,
        "devices": layout.size,
        "mesh": dict(layout.shape),
        "model": dataclasses.asdict(model.config),
        "assumptions": dataclasses.asdict(assumed),
        "phases": phases,
        "hours": hours,
        "device_hours": device_hours,
        "cost": None if price is None else device_hours * price,
    }
    _show(plan, model, sources)
    if values.json:
        Path(values.json).write_text(json.dumps(plan, indent=1) + "\n", encoding="utf-8")


def _topology(text: str | None) -> tuple[int, int, str]:
    """Returns the number of hosts, that of the devices of each, and their kind."""
    if not text:
        raise ConfigError("--topology is missing: write HOSTSxDEVICES:KIND, like 64x8:h200.")
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
            "--peak_tflops, --memory_gb, --memory_gbs, --link_gbs and --network_gbs."
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
    if values.config.steps < 1:
        raise ConfigError(f"--config.steps={values.config.steps}: expected at least 1.")


def _model(config: Config) -> Model:
    """Returns the model; without a corpus and a key for it, the vocabulary is BERT's."""
    keys, there = config.model.to_dict(), config.data_dir
    if not keys["vocab_size"]:
        corpus = Corpus.open(there, "train") if there else None
        keys["vocab_size"] = corpus.vocab_size if corpus else EncoderConfig.vocab_size
    heads = PAIR_HEADS if config.input_format in PAIR_FORMATS else HEADS
    return build_model(EncoderConfig(heads=heads, **keys))


def _planned(
    phase: PhaseConfig, model: Model, layout: Mesh, assumed: Assumptions
) -> dict[str, Any]:
    """Returns what an update of a phase needs and takes, as JSON values."""
    config, sizes = phase.config, dict(layout.shape)
    split = {"batch_size": config.batch_size, "accumulate": config.accumulate}
    rows = row_shapes(config)
    (tokens,), (predictions,) = rows["input_ids"][0], rows["masked_lm_ids"][0]
    (pooled,), _ = rows.get("pooled_positions", ((0,), None))
    memory = _memory(config, model, rows, sizes)
    flops = config.batch_size * cost.model_flops(
        model.config, tokens=tokens, predictions=predictions, pooled=pooled
    )
    again = config.batch_size * cost.recomputed_flops(model.config, tokens)
    hosts = np.vectorize(lambda device: device.process_index)(layout.devices)
    exchanged = cost.exchanges(model, sizes, rows, **split)
    sent = [one.sent(hosts) for one in exchanged]
    peak = layout.size * assumed.peak_tflops * 1e12
    seconds = estimate_seconds((flops + again) / layout.size, memory, sent, assumed)
    return {
        "updates": phase.until - phase.start,
        **split,
        "tokens": tokens,
        "bytes": {**dataclasses.asdict(memory), "total": memory.total},
        "fits": memory.total <= assumed.usable_memory,
        "advice": advice(memory, assumed, sizes, remat=model.config.remat, **split),
        "exchanges": [
            {**dataclasses.asdict(one), "inside": inside, "across": across}
            for one, (inside, across) in zip(exchanged, sent, strict=True)
        ],
        "model_flops": flops,
        "recomputed_flops": again,
        "seconds": {**dataclasses.asdict(seconds), "step": seconds.step},
        "model_flops_utilisation": flops / (seconds.step * peak),
        "tokens_per_second": config.batch_size * tokens / seconds.step,
    }


def _memory(
    config: Config, model: Model, rows: cost.RowShapes, sizes: Mapping[str, int]
) -> cost.Memory:
    # What a device holds does not depend on how long `data` is, once there is such an axis.
    data = min(sizes["data"], 2)
    axes = model.axes()
    optimizer, schedule = make_optimizer(
        OptimizerConfig(**config.optimizer), ScheduleConfig(**config.schedule), config.steps, axes
    )
    return cost.compile_step(
        model,
        PretrainingObjective(next_sentence="nsp" in model.config.heads),
        optimizer,
        schedule,
        rows,
        _mesh_of_cpu({**sizes, "data": data}),
        batch_size=config.batch_size // sizes["data"] * data,
        accumulate=config.accumulate,
    )[1]


def row_shapes(config: Config) -> cost.RowShapes:
    """Returns the shapes and dtypes of the arrays that `PretrainingExamples.batch` makes, by name.

    Only the room for examples in a packed row, where no `max_sequences_per_pack` says it, is known
    to the corpus alone.
    """
    settings = pretraining_settings(config)
    settings.check()
    tokens, predictions, most = settings.max_seq_length, config.max_predictions_per_seq, 1
    names = ["input_ids", "attention_mask", "token_type_ids"]
    if settings.packing:
        most = settings.max_sequences_per_pack or _UNKNOWN_PACK
        share = math.ceil(settings.masking.masked_lm_prob * tokens)
        predictions = min(share + most, predictions * most)
        names += ["segment_ids", "position_ids"]
    rows: dict[str, Any] = dict.fromkeys(names, ((tokens,), np.int32))
    rows |= dict.fromkeys(("masked_lm_positions", "masked_lm_ids"), ((predictions,), np.int32))
    rows["masked_lm_weights"] = ((predictions,), np.float32)
    if settings.has_pairs:
        rows |= dict.fromkeys(("pooled_positions", "next_sentence_labels"), ((most,), np.int32))
        rows["next_sentence_weights"] = ((most,), np.float32)
    return rows


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
    facts(console, {"model": describe_model(model), "vocabulary": vocabulary, "mesh": mesh})
    numbers = [f"phase {number}" for number in range(1, 1 + len(columns))]
    table = Table("", *numbers, box=SIMPLE_HEAD)
    for name in columns[0]:
        table.add_row(name.replace("_", " "), *(column[name] for column in columns))
    console.print(table)
    for number, one in zip(numbers, plan["phases"], strict=True):
        say(console, f"{number} {one['advice']}")
    table = Table("assumption", "value", "source", box=SIMPLE_HEAD)
    for name, value in plan["assumptions"].items():
        table.add_row(f"--{name}", f"{value:g}", sources[name])
    console.print(table)
    what = {
        "topology": f"{plan['topology']}, {count(plan['devices'])} devices",
        "hours": f"{plan['hours']:,.3g} without compiling, evaluations and checkpoints",
        "device-hours": f"{plan['device_hours']:,.4g}",
    }
    if plan["cost"] is not None:
        what["cost"] = f"{plan['cost']:,.2f}"
    made(console, "planned", what, [])


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
