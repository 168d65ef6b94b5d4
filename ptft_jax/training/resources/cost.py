"""What an update costs on a mesh: memory of the compiled step, FLOPs and traffic by formulas.

The step is compiled for devices that only have to be there by name. Kernels of an accelerator
cannot be compiled so: memory with them is a formula as well. What compiled steps multiply and
exchange is compared with the formulas in `tests/training/resources/test_layout_costs.py`.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding

from ptft_jax.models import partition
from ptft_jax.models.attention import SHORT_ROW
from ptft_jax.models.build import Model
from ptft_jax.models.config import LINEAR_HEADS, EncoderConfig
from ptft_jax.objectives.totals import Objective
from ptft_jax.training.mesh import AXES, process_rows
from ptft_jax.training.resources.accelerators import accelerator_of
from ptft_jax.training.step import TrainState, abstract_state, make_train_step

# The rows of a batch without their number: name → (shape of one row, dtype).
RowShapes = Mapping[str, tuple[tuple[int, ...], Any]]

# Compiling is all that is wanted: without LLVM's optimisations it takes half the time, and
# partitioning and buffers stay the same.
_COMPILER_OPTIONS = {"xla_backend_optimization_level": 0}


def compile_step(
    model: Model,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    rows: RowShapes,
    mesh: Mesh,
    *,
    batch_size: int,
    accumulate: int,
    ema: float = 0.0,
) -> tuple[jax.stages.Compiled, "Memory"]:
    """Compiles the train step for a mesh; returns it with the bytes that it needs on one device.

    `batch_size` counts the rows of an update over all devices, `accumulate` its micro-batches;
    `ema`: decay of an average of the parameters, 0: none.
    """
    state, batch = _arguments(model, optimizer, rows, mesh, batch_size, ema)
    with jax.set_mesh(mesh):
        step: Any = make_train_step(
            model, objective, optimizer, schedule, seed=0, accumulate=accumulate, ema=ema
        )
        compiled = step.lower(state, batch).compile(compiler_options=_COMPILER_OPTIONS)
    return compiled, _memory(state, batch, compiled.memory_analysis().temp_size_in_bytes)


def memory_with_kernels(
    model: Model,
    optimizer: optax.GradientTransformation,
    rows: RowShapes,
    mesh: Mesh,
    *,
    batch_size: int,
    accumulate: int,
    ema: float = 0.0,
) -> "Memory":
    """Returns the bytes on one device where kernels compute attention and what is between products.

    Of the layers, side by side (`unroll` None), each token keeps for the backward pass, in the
    model's dtype:

        4 D   query, key and value; the context          (split over `tensor`)
        4 D   the sum before either norm and the norm's output
        2 F   the product before the activation and the activation's output     (split too)

    and in float32 the statistics of the norms and, of rows that do not fit one block, a log sum per
    head. Then the embeddings' output and its float32 sum, and a copy of all parameters in the
    model's dtype. Beside these, at its fullest, lie the logits with their gradient, or what one
    layer's backward pass makes: 2 D + 2 F or, of long rows, the score gradients [B, N, T, T]; with
    `remat`, which keeps a layer's input alone, that layer once more. Gradients fill what layers
    leave, but for those that micro-batches add to. `fsdp` keeps copies of two layers, and of
    all else in float32 too.

    Arguments as in `compile_step`.
    """
    config, sizes = model.config, mesh.shape
    state, batch = _arguments(model, optimizer, rows, mesh, batch_size, ema)
    width, tensor = jnp.dtype(config.dtype).itemsize, sizes["tensor"]
    (length,), (predictions,) = rows["input_ids"][0], rows["masked_lm_ids"][0]
    here = batch_size // (accumulate * sizes["data"] * sizes["fsdp"])
    tokens, hidden, wide = here * length, config.hidden_size, config.intermediate_size / tensor
    heads, layers = config.num_attention_heads / tensor, config.num_hidden_layers
    long = length > SHORT_ROW
    layer = tokens * width * (4 * hidden / tensor + 4 * hidden + 2 * wide)
    layer += tokens * 4 * (4 + heads * long)
    work = width * max(tokens * (2 * hidden + 2 * wide), here * heads * length**2 * long)
    kept = layers * layer
    if config.remat:
        kept, work = layers * tokens * hidden * width, work + layer
    kept += tokens * hidden * (width + 4)
    logits = 2 * 4 * here * predictions * config.padded_vocab_size / tensor
    parameters = {"layers": 0, "others": 0}
    for path, leaf in jax.tree_util.tree_leaves_with_path(model.abstract()):
        name = "layers" if "'layers'" in jax.tree_util.keystr(path) else "others"
        parameters[name] += leaf.size / tensor
    stacked, others = parameters.values()
    copies = width * (stacked + others)
    if sizes["fsdp"] > 1:
        copies = width * 2 * stacked / layers + (width + 4) * others
    gradients = device_bytes(state.params)
    temporaries = copies + max(kept + max(logits, work), gradients + work)
    return _memory(state, batch, int(temporaries + gradients * (accumulate > 1)))


def _arguments(
    model: Model,
    optimizer: optax.GradientTransformation,
    rows: RowShapes,
    mesh: Mesh,
    batch_size: int,
    ema: float,
) -> tuple[TrainState, dict[str, jax.ShapeDtypeStruct]]:
    """Returns what a step takes, as shapes with shardings."""
    batch = {}
    for name, (shape, dtype) in rows.items():
        sharding = NamedSharding(mesh, partition.batch_spec(1 + len(shape)))
        batch[name] = jax.ShapeDtypeStruct((batch_size, *shape), dtype, sharding=sharding)
    with jax.set_mesh(mesh):
        return abstract_state(model, optimizer, averages=ema > 0), batch


def _memory(state: TrainState, batch: Any, temporaries: int) -> "Memory":
    params = device_bytes(state.params)
    return Memory(params, device_bytes(state) - params, device_bytes(batch), temporaries)


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one device.

    Attributes:
        params: the parameters.
        opt_state: the optimizer's state with the step counters and an average of the parameters.
        batch: one batch.
        temporaries: what lies beside those at its fullest: gradients and activations.
    """

    params: int
    opt_state: int
    batch: int
    temporaries: int

    @property
    def total(self) -> int:
        """All that a step needs at its fullest; the state is updated in place."""
        return self.params + self.opt_state + self.batch + self.temporaries


def device_bytes(tree: Any) -> int:
    """Returns the bytes that one device holds of a tree of arrays with shardings."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def model_flops(config: EncoderConfig, *, tokens: int, predictions: int, pooled: int) -> int:
    """Returns the FLOPs of matrix products, forward and backward, for one row of a batch.

    6 x parameters of the layers x tokens, 12 x layers x width x tokens² for attention, and the
    heads where they are read (Kaplan et al. 2020, appendix B, with BERT's heads). Recomputation
    (`remat`) is no part of it. `tokens`: length of a row, padding included; `predictions`:
    positions at which the MLM head reads; `pooled`: those that the pooler reads.
    """
    width, total = config.hidden_size, 3 * _layer_flops(config, tokens)
    if "mlm" in config.heads:
        total += 6 * predictions * (width**2 + width * config.vocab_size)
    for head, outputs in config.linear_heads.items():
        if LINEAR_HEADS[head].pooled:
            total += 6 * pooled * (width**2 + width * outputs)
        else:
            total += 6 * tokens * width * outputs
    return total


def recomputed_flops(config: EncoderConfig, tokens: int) -> int:
    """Returns the FLOPs that `remat` adds for one row: the layers' products once more."""
    return _layer_flops(config, tokens) if config.remat else 0


def _layer_flops(config: EncoderConfig, tokens: int) -> int:
    """FLOPs of all layers going forward, for one row."""
    width, layers = config.hidden_size, config.num_hidden_layers
    kernels = 4 * width**2 + 2 * width * config.intermediate_size
    return 2 * tokens * layers * kernels + 4 * layers * width * tokens**2


@dataclasses.dataclass(frozen=True)
class Exchange:
    """What all collectives of a `kind` along the same mesh `axes` exchange in one update.

    `bytes` is the size of the arrays as they are whole in a group.
    """

    kind: str
    axes: tuple[str, ...]
    bytes: int

    def sent(self, hosts: np.ndarray) -> tuple[float, float]:
        """Returns the bytes that a device sends inside its host and to others, as rings do.

        In two stages, inside the hosts and between them with every device carrying its share: an
        all-reduce of B bytes over m devices of each of h hosts sends 2 B (m - 1) / m inside and
        2 B (h - 1) / (h m) across, a gather or a reduce-scatter half of it. `hosts`: the host of
        each device of the mesh, int [data, fsdp, tensor].
        """
        group = hosts[tuple(slice(None) if name in self.axes else 0 for name in AXES)]
        across = len(np.unique(group))
        inside = group.size // across
        moved = self.bytes * (2 if self.kind == "all-reduce" else 1)
        return moved * (inside - 1) / inside, moved * (across - 1) / (across * inside)


def exchanges(
    model: Model, sizes: Mapping[str, int], rows: RowShapes, *, batch_size: int, accumulate: int
) -> list[Exchange]:
    """Returns what a layout makes the devices exchange in one update, scalars left out.

    `fsdp` gathers the layers' parameters forward and their kernels again backward (with `remat` all
    of them), the other parameters once, and cuts every gradient in each micro-batch; `data` sums
    what is left of them once per update. Gradients are float32, kernels and their biases are
    gathered in the model's dtype. `tensor` sums activations twice per layer and pass, then the
    embeddings' output (float32), the gradient of the MLM head's input, and three numbers for each
    prediction.
    """
    config = model.config
    width = jnp.dtype(config.dtype).itemsize
    gradients = split = once = layers = again = 0
    leaves = jax.tree_util.tree_leaves_with_path(model.abstract())
    axes = jax.tree.leaves(model.axes(), is_leaf=lambda node: isinstance(node, tuple))
    for (path, leaf), names in zip(leaves, axes, strict=True):
        name = jax.tree_util.keystr(path)
        along = [partition.LOGICAL_TO_MESH[axis] for axis in names]
        size = leaf.size // (sizes["tensor"] if "tensor" in along else 1)
        gradients += 4 * size
        if "fsdp" in along:
            split += 4 * size
            stays = any(part in name for part in _FLOAT32_PARTS)
            size *= 4 if stays else width
            if "layers" in names:
                layers += size
                again += size * (config.remat or "kernel" in name)
            else:
                once += size
    found = []
    if sizes["fsdp"] > 1:
        found.append(Exchange("all-gather", ("fsdp",), once + accumulate * (layers + again)))
        found.append(Exchange("reduce-scatter", ("fsdp",), accumulate * split))
        found.append(Exchange("all-reduce", ("fsdp",), accumulate * (gradients - split)))
    if sizes["data"] > 1:
        shares = gradients - split + split // sizes["fsdp"]
        found.append(Exchange("all-reduce", ("data",), shares))
    if sizes["tensor"] > 1:
        here = batch_size // (sizes["data"] * sizes["fsdp"])
        (tokens,), (predictions,) = rows["input_ids"][0], rows["masked_lm_ids"][0]
        sums = width * 2 * (3 if config.remat else 2) * config.num_hidden_layers + 4
        size = sums * tokens * config.hidden_size
        size += predictions * (width * config.hidden_size + 4 * 3)
        found.append(Exchange("all-reduce", ("tensor",), here * size))
    return found


# Parameters that are used in float32 whatever the model's dtype is.
_FLOAT32_PARTS = ("layer_norm", "embeddings", *(f"'{head}'" for head in LINEAR_HEADS))


def ideal_seconds(
    config: EncoderConfig, mesh: Mesh
) -> Callable[[Mapping[str, np.ndarray]], float] | None:
    """Returns the function from this process's rows of a batch to the seconds of the whole batch's
    model FLOPs at the devices' peak.

    None where the peak of these devices is not known.
    """
    device = accelerator_of(mesh.devices.flat[0].device_kind)
    if device is None:
        return None
    peak = mesh.size * device.peak_tflops(config.dtype) * 1e12
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    share = len(process_rows(mesh, shards)) / shards

    def seconds(batch: Mapping[str, np.ndarray]) -> float:
        def width(name: str) -> int:
            return batch[name].shape[1] if name in batch else 0

        flops = model_flops(
            config,
            tokens=width("input_ids"),
            predictions=width("masked_lm_positions"),
            pooled=width("pooled_positions"),
        )
        return len(batch["input_ids"]) / share * flops / peak

    return seconds
