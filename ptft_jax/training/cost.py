"""What a train step costs: FLOPs, memory and traffic, from its abstract state and its program.

Nothing is computed: the step is traced and compiled for a mesh of devices that only have to be
there by name, and the counts are read from the result. `estimate_seconds` turns counts into time
under assumptions about a device.
"""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding

from ptft_jax.models import partition
from ptft_jax.models.build import Model
from ptft_jax.models.config import EncoderConfig
from ptft_jax.objectives.totals import Objective
from ptft_jax.training.collectives import Collective, Program
from ptft_jax.training.state import abstract_state
from ptft_jax.training.step import make_train_step

# The rows of a batch without their number: name → (shape of one row, dtype).
RowShapes = Mapping[str, tuple[tuple[int, ...], Any]]

# Compiling is all that is wanted: without LLVM's optimisations it takes half the time, and
# partitioning, collectives and buffers stay the same.
_COMPILER_OPTIONS = {"xla_backend_optimization_level": 0}


def model_flops(config: EncoderConfig, *, tokens: int, predictions: int, pooled: int) -> int:
    """Returns the FLOPs of matrix products, forward and backward, for one row of a batch.

    6 x parameters of the layers x tokens, 12 x layers x width x tokens² for attention, and the
    heads where they are read (Kaplan et al. 2020, appendix B, with BERT's heads). Recomputation
    (`remat`) is no part of it: divided by the time it gives the model FLOPs utilisation.

    Args:
        config: the model.
        tokens: length of a row, padding included.
        predictions: positions at which the MLM head reads.
        pooled: positions that the pooler reads.
    """
    width, layers = config.hidden_size, config.num_hidden_layers
    total = 6 * tokens * layers * _layer_kernels(config) + 12 * layers * width * tokens**2
    if "mlm" in config.heads:
        total += 6 * predictions * (width**2 + width * config.vocab_size)
    for head, labels in (("nsp", 2), ("classification", config.num_labels)):
        if head in config.heads:
            total += 6 * pooled * (width**2 + width * labels)
    return total


def recomputed_flops(config: EncoderConfig, tokens: int) -> int:
    """Returns the FLOPs that `remat` adds for one row: the layers' products once more."""
    if not config.remat:
        return 0
    layers, width = config.num_hidden_layers, config.hidden_size
    return 2 * tokens * layers * _layer_kernels(config) + 4 * layers * width * tokens**2


def _layer_kernels(config: EncoderConfig) -> int:
    return 4 * config.hidden_size**2 + 2 * config.hidden_size * config.intermediate_size


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one device.

    Attributes:
        params: the parameters.
        opt_state: the optimizer's state with the step counters.
        batch: one batch.
        gradients: gradients in the layout of the parameters; a part of `temporaries`.
        kept: what the layers keep for the backward pass, in the dtypes of the model; a part of
            `temporaries`.
        arguments: what the compiled program takes: state and batch.
        temporaries: what the compiler reserves beside the arguments.
    """

    params: int
    opt_state: int
    batch: int
    gradients: int
    kept: int
    arguments: int
    temporaries: int

    @property
    def total(self) -> int:
        """All that a step needs at its fullest; the state is updated in place."""
        return self.arguments + self.temporaries


@dataclasses.dataclass(frozen=True)
class StepCost:
    """What one update costs on one device.

    Attributes:
        memory: bytes.
        matrix_flops: FLOPs of the compiled program's matrix products.
        collectives: what the program exchanges.
    """

    memory: Memory
    matrix_flops: int
    collectives: tuple[Collective, ...]


def step_cost(
    model: Model,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    rows: RowShapes,
    mesh: Mesh,
    *,
    batch_size: int,
    accumulate: int,
) -> StepCost:
    """Compiles the train step of `training/step.py` and counts.

    Args:
        model, objective, optimizer, schedule: what the step is made of.
        rows: the arrays of a batch, a row of each.
        mesh: the mesh, of devices of any kind that can be compiled for.
        batch_size: rows of an update, over all devices.
        accumulate: micro-batches of an update.
    """
    with jax.set_mesh(mesh):
        state = abstract_state(model, optimizer)
        batch = {
            name: jax.ShapeDtypeStruct(
                (batch_size, *shape),
                dtype,
                sharding=NamedSharding(mesh, partition.batch_spec(1 + len(shape))),
            )
            for name, (shape, dtype) in rows.items()
        }
        step = make_train_step(model, objective, optimizer, schedule, seed=0, accumulate=accumulate)
        traced = step.trace(state, batch)
        compiled = traced.lower().compile(compiler_options=_COMPILER_OPTIONS)
    used = compiled.memory_analysis()
    program = Program(compiled.as_text())
    params, everything = device_bytes(state.params), device_bytes(state)
    return StepCost(
        Memory(
            params=params,
            opt_state=everything - params,
            batch=device_bytes(batch),
            gradients=params,
            kept=_kept_bytes(traced.jaxpr, dict(mesh.shape)),
            arguments=used.argument_size_in_bytes,
            temporaries=used.temp_size_in_bytes,
        ),
        program.matrix_flops(),
        tuple(program.collectives()),
    )


def device_bytes(tree: Any) -> int:
    """Returns the bytes that one device holds of a tree of arrays with shardings."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def _kept_bytes(jaxpr: Any, sizes: Mapping[str, int]) -> int:
    """Bytes on one device that loops going forward hand to those going backward."""
    total = 0
    for equation in jaxpr.eqns:
        parts = [getattr(value, "jaxpr", value) for value in equation.params.values()]
        parts = [part for part in parts if hasattr(part, "eqns")]
        total += sum(_kept_bytes(part, sizes) for part in parts)
        if equation.primitive.name == "scan" and not equation.params["reverse"]:
            for one, all_of_it in zip(parts[0].outvars, equation.outvars, strict=True):
                aval = all_of_it.aval
                # What is stacked, an entry for each iteration, has one more dimension.
                if aval.ndim == one.aval.ndim + 1:
                    names = [
                        name for part in aval.sharding.spec.partitions for name in _names(part)
                    ]
                    split = math.prod(sizes[name] for name in names)
                    total += aval.size * jnp.dtype(aval.dtype).itemsize // split
    return total


def _names(part: Any) -> tuple[str, ...]:
    if part is None:
        return ()
    return part if isinstance(part, tuple) else (part,)


@dataclasses.dataclass(frozen=True)
class Traffic:
    """What all collectives of one kind along the same axes exchange in one update.

    Attributes:
        kind: see `collectives.KINDS`.
        axes: the mesh axes that a group runs along.
        count: executions.
        bytes: of the arrays as they are whole in the group, over all executions.
        inside: bytes that a device sends to others of its own host.
        across: bytes that a device sends to other hosts.
    """

    kind: str
    axes: tuple[str, ...]
    count: int
    bytes: int
    inside: float
    across: float


def traffic(
    collectives: Iterable[Collective], compiled: Mapping[str, int], hosts: np.ndarray
) -> list[Traffic]:
    """Returns what collectives exchange on a mesh, the largest first.

    Groups of several hosts are taken to exchange in two stages, inside the hosts and between them
    with every device carrying its share, each as a ring: an all-reduce of B bytes over m devices of
    each of h hosts sends 2 B (m - 1) / m inside and 2 B (h - 1) / (h m) across.

    Args:
        collectives: of a program.
        compiled: axis sizes of the mesh that the program was compiled for.
        hosts: the host of each device of the mesh to be planned, [data, fsdp, tensor]; it may be
            longer along `data` than the compiled one.
    """
    sums: dict[tuple[str, tuple[str, ...]], list[float]] = defaultdict(lambda: [0, 0, 0, 0])
    for one in collectives:
        axes = one.axes(compiled)
        index = tuple(slice(None) if name in axes else 0 for name in compiled)
        group = hosts[index].reshape(-1)
        across = len(np.unique(group))
        inside = len(group) // across
        amount = one.bytes * one.times
        for place, value in enumerate(
            (one.times, amount, *_sent(one.kind, amount, inside, across))
        ):
            sums[one.kind, axes][place] += value
    found = [
        Traffic(kind, axes, int(count), int(size), inside, across)
        for (kind, axes), (count, size, inside, across) in sums.items()
    ]
    return sorted(found, key=lambda one: -one.bytes)


def _sent(kind: str, size: float, inside: int, across: int) -> tuple[float, float]:
    """Bytes that a device sends inside its host and across, in a group of inside x across."""
    if kind == "collective-permute":
        return (size, 0.0) if across == 1 else (0.0, size)
    if kind == "all-to-all":
        members = inside * across
        return size * (inside - 1) / members, size * (members - inside) / members
    passes = 2 if kind == "all-reduce" else 1
    return (
        passes * size * (inside - 1) / inside,
        passes * size * (across - 1) / across / inside,
    )


@dataclasses.dataclass(frozen=True)
class Assumptions:
    """What a device and its links can do, and how much of it is got.

    Attributes:
        peak_flops: FLOP/s of dense matrix products in the model's dtype.
        memory: bytes of a device's memory.
        memory_fraction: share of it that a program may use.
        memory_bandwidth: bytes/s.
        link_bandwidth: bytes/s that a device sends to others of its host.
        network_bandwidth: bytes/s that a device sends to other hosts.
        utilisation: share of `peak_flops` got while a device computes.
        memory_utilisation: share of `memory_bandwidth` got.
        link_utilisation: share of both link bandwidths got.
        overlap: share of the computing time behind which communication is hidden.
    """

    peak_flops: float
    memory: float
    memory_fraction: float
    memory_bandwidth: float
    link_bandwidth: float
    network_bandwidth: float
    utilisation: float
    memory_utilisation: float
    link_utilisation: float
    overlap: float


@dataclasses.dataclass(frozen=True)
class Seconds:
    """The expected time of one update, by what it is spent on.

    Attributes:
        compute: matrix products.
        activations: moving what is kept for the backward pass to memory and back.
        update: moving parameters, moments and gradients for the optimizer.
        inside: communication inside a host.
        across: communication across hosts.
        step: the whole: the longer one of `compute` and `activations`, then `update`, then what of
            the communication is not hidden.
    """

    compute: float
    activations: float
    update: float
    inside: float
    across: float
    step: float


def estimate_seconds(
    cost: StepCost, exchanged: Iterable[Traffic], accumulate: int, assumed: Assumptions
) -> Seconds:
    """Returns the time of an update under assumptions; latencies and the host are left out."""
    exchanged = list(exchanged)
    compute = cost.matrix_flops / (assumed.peak_flops * assumed.utilisation)
    bandwidth = assumed.memory_bandwidth * assumed.memory_utilisation
    activations = 2 * cost.memory.kept * accumulate / bandwidth
    # Everything is read and written once; gradients are written by one pass and read by the next.
    state = cost.memory.params + cost.memory.opt_state + cost.memory.gradients
    update = 2 * state / bandwidth
    links = assumed.link_utilisation
    inside = sum(one.inside for one in exchanged) / (assumed.link_bandwidth * links)
    across = sum(one.across for one in exchanged) / (assumed.network_bandwidth * links)
    busy = max(compute, activations)
    exposed = max(0.0, inside + across - assumed.overlap * busy)
    return Seconds(compute, activations, update, inside, across, busy + update + exposed)
