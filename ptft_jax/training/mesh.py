"""The device mesh: axes `data`, `fsdp` and `tensor`, what has to divide by them, what lies where.

`data` splits the batch, `fsdp` splits the batch and the stored parameters, `tensor` splits heads,
the feed-forward width and the vocabulary. Devices with fast links among them form a block: those of
one process, or on TPUs those of one slice. `data` runs across blocks; `fsdp` and `tensor`, whose
collectives are the frequent ones, stay inside one unless `MeshConfig.across_hosts` lets them out.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ptft_jax.errors import ConfigError
from ptft_jax.models import partition
from ptft_jax.models.build import Params
from ptft_jax.models.config import EncoderConfig

AXES = ("data", "fsdp", "tensor")


@dataclass(frozen=True)
class MeshConfig:
    """The sizes of the mesh axes; -1, allowed once, stands for all remaining devices.

    `across_hosts` names the innermost axis that may run across blocks of devices: 'data' keeps
    fsdp and tensor inside, 'fsdp' lets fsdp out as far as it is larger than a block, 'tensor' both.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    across_hosts: str = "data"

    def __post_init__(self):
        for axis in AXES:
            size = getattr(self, axis)
            if isinstance(size, bool) or not isinstance(size, int) or (size < 1 and size != -1):
                raise ConfigError(
                    f"mesh.{axis}={size!r} must be a positive integer, or -1 for the rest"
                )
        if self.across_hosts not in AXES:
            raise ConfigError(
                f"mesh.across_hosts={self.across_hosts!r}: expected one of {', '.join(AXES)}"
            )
        if self.sizes.count(-1) > 1:
            raise ConfigError(
                f"{_written(self.sizes)}: only one axis can be -1 (the rest of the devices); "
                "give the others a size"
            )

    @property
    def sizes(self) -> tuple[int, int, int]:
        """The three sizes in the order of `AXES`."""
        return (self.data, self.fsdp, self.tensor)


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """Return the mesh of `config` with Explicit axis types over jax `devices` (None: all).

    Blocks follow one another in the order of their index, along `data` first; within one, devices
    are laid out by their topology. Raises ConfigError when the sizes do not multiply to the number
    of devices, or when fsdp x tensor does not fit the blocks.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = _resolve(config.sizes, len(devices))
    numbers = sorted({_block(device) for device in devices})
    blocks = [[d for d in devices if _block(d) == number] for number in numbers]
    inside = _inside(sizes, [len(block) for block in blocks], config.across_hosts)
    across = tuple(size // part for size, part in zip(sizes, inside, strict=True))
    # Device ids say nothing about processes (process r's start at 2048 r on CPU).
    grids = [
        mesh_utils.create_device_mesh(inside, block, allow_split_physical_axes=True)
        for block in blocks
    ]
    # [blocks along each axis, devices along each axis] → [devices along each axis].
    grid = np.array(grids).reshape(*across, *inside).transpose(0, 3, 1, 4, 2, 5).reshape(sizes)
    return Mesh(grid, AXES, axis_types=(AxisType.Explicit,) * len(AXES))


def _block(device: Any) -> int:
    """Return the number of the group of devices, joined by fast links, that a device is in."""
    # All hosts of a TPU slice share its interconnect.
    return device.slice_index if device.platform == "tpu" else device.process_index


def _inside(sizes: tuple[int, int, int], counts: list[int], across: str) -> tuple[int, int, int]:
    """Return the sizes of the part of the mesh that one block of devices makes up."""
    data, fsdp, tensor = sizes
    allowed = AXES[: AXES.index(across) + 1]
    room = counts[0]
    # The innermost axis takes what it can of a block, then the next.
    inside_tensor = math.gcd(tensor, room) if "tensor" in allowed else tensor
    inside_fsdp = math.gcd(fsdp, room // inside_tensor) if "fsdp" in allowed else fsdp
    part = inside_fsdp * inside_tensor
    whole = all(count == room for count in counts) and room % part == 0
    # An axis that runs across blocks fills each of them, so that a process's rows are contiguous.
    filled = inside_tensor in (tensor, room) and (inside_fsdp == fsdp or part == room)
    if whole and filled and data % (room // part) == 0:
        return room // part, inside_fsdp, inside_tensor
    fit = _fitting((-1, fsdp, tensor), math.gcd(*counts))[1:]
    out = {"data": "fsdp or tensor", "fsdp": "tensor"}.get(across)
    more = f", or let an axis run across them with mesh.across_hosts={out}" if out else ""
    raise ConfigError(
        f"mesh.fsdp={fsdp} x mesh.tensor={tensor} = {fsdp * tensor} does not divide the "
        f"{' or '.join(map(str, sorted(set(counts))))} devices of each process, and "
        f"mesh.across_hosts={across}; for example mesh.data=-1 mesh.fsdp={fit[0]} "
        f"mesh.tensor={fit[1]}{more}"
    )


def process_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
    """Return which rows of a global batch of `batch_size` the devices of this process hold.

    The batch is split over `data` and, within it, `fsdp`; `check_batch` has passed. int64,
    ascending; processes that share rows (tensor across processes) hold the same ones.
    """
    owned = np.vectorize(lambda device: device.process_index == jax.process_index())(mesh.devices)
    shards = np.flatnonzero(owned.any(axis=2).reshape(-1))
    rows = batch_size // (mesh.shape["data"] * mesh.shape["fsdp"])
    return (shards[:, None] * rows + np.arange(rows)).reshape(-1)


def check_batch(batch_size: int, accumulate: int, mesh: Mesh, key: str = "batch_size") -> None:
    """Raise ConfigError unless every device gets the same number of rows in every micro-batch.

    `batch_size` is the global one, of a whole update; `accumulate` is its number of micro-batches;
    `key` is what the setting is called.
    """
    for name, value in ((key, batch_size), ("accumulate", accumulate)):
        if value < 1:
            raise ConfigError(f"{name}={value} must be at least 1")
    unit = rows_unit(accumulate, mesh)
    if batch_size % unit:
        below, above = batch_size // unit * unit, (batch_size // unit + 1) * unit
        near = f"{below} or {above}" if below else f"{above}"
        raise ConfigError(
            f"{key}={batch_size} is not divisible by accumulate={accumulate} x mesh.data="
            f"{mesh.shape['data']} x mesh.fsdp={mesh.shape['fsdp']} = {unit}; nearest: {near}"
        )


def rows_unit(accumulate: int, mesh: Mesh) -> int:
    """Returns what the rows of a batch are a multiple of: each device gets as many as the others in
    every micro-batch.
    """
    return accumulate * mesh.shape["data"] * mesh.shape["fsdp"]


def check_model(model: EncoderConfig, mesh: Mesh) -> None:
    """Raise ConfigError unless the mesh divides every dimension of the model that it splits."""
    splits = (
        ("tensor", "num_attention_heads"),
        ("tensor", "intermediate_size"),
        ("tensor", "padded_vocab_size"),
        ("fsdp", "hidden_size"),
    )
    for axis, key in splits:
        value, size = getattr(model, key), mesh.shape[axis]
        if value % size:
            fit = math.gcd(value, size)
            hint = ", or raise model.vocab_size_multiple" if key == "padded_vocab_size" else ""
            raise ConfigError(
                f"model {key}={value} is not divisible by mesh.{axis}={size}; "
                f"set mesh.{axis}={fit}{hint}"
            )


def _resolve(sizes: tuple[int, int, int], count: int) -> tuple[int, int, int]:
    """Replace -1 by the rest of `count` devices, or raise ConfigError when the sizes do not fit."""
    known = math.prod(size for size in sizes if size != -1)
    data, fsdp, tensor = (count // known if size == -1 else size for size in sizes)
    if data * fsdp * tensor == count:
        return data, fsdp, tensor
    need = f"a multiple of {known}" if -1 in sizes else f"{known}"
    raise ConfigError(
        f"{_written(sizes)} needs {need} devices, but there are {count}; "
        f"for example {_written(_fitting(sizes, count))}"
    )


def _fitting(sizes: tuple[int, int, int], count: int) -> tuple[int, int, int]:
    """Return sizes near the given ones that multiply to `count`; `data` takes what is left."""
    tensor = math.gcd(count, sizes[2]) if sizes[2] != -1 else 1
    fsdp = math.gcd(count // tensor, sizes[1]) if sizes[1] != -1 else 1
    return count // (fsdp * tensor), fsdp, tensor


def _written(sizes: tuple[int, int, int]) -> str:
    return " ".join(f"mesh.{axis}={size}" for axis, size in zip(AXES, sizes, strict=True))


def place_params(params: Params, axes: Params) -> Params:
    """Lays parameters out as `partition.LOGICAL_TO_MESH` says, inside or outside `jax.jit`.

    `axes` are the logical axes of each array (`Model.axes`); it may hold more than `params`.
    """
    if not partition.has_mesh():
        return params
    if isinstance(params, dict):
        return {name: place_params(value, axes[name]) for name, value in params.items()}
    return jax.reshard(params, partition.stored_spec(axes))


def put_params(params: Params, axes: Params, mesh: Mesh) -> Params:
    """Copies host parameters onto the mesh, each device receiving only its part."""
    if isinstance(params, dict):
        return {name: put_params(value, axes[name], mesh) for name, value in params.items()}
    sharding = NamedSharding(mesh, partition.stored_spec(axes))
    value = np.asarray(params)
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, Any]:
    """Puts this process's rows of a batch onto its devices, split by row over data and fsdp."""
    return {
        name: jax.make_array_from_process_local_data(
            NamedSharding(mesh, partition.batch_spec(rows.ndim)), rows
        )
        for name, rows in batch.items()
    }


def sum_gradients_locally(params: Params) -> Params:
    """Returns parameters whose gradients stay partial sums over `data`, each device its rows'.

    Over `fsdp` gradients are exchanged for each micro-batch all the same: their sums in whole would
    lie on every device.
    """
    if not partition.has_mesh() or jax.sharding.get_abstract_mesh().shape["data"] == 1:
        return params
    return jax.tree.map(lambda leaf: partition.sum_gradients_first(leaf, ("data",)), params)


def zero_gradients(params: Params) -> Params:
    """Returns zeros to add the gradients of `params` to, partial sums as those are."""

    def zeros(leaf: jax.Array) -> jax.Array:
        spec = partition.layout_of(leaf)
        split = None if spec is None else partition.gradient_spec(spec)
        return jnp.zeros(leaf.shape, leaf.dtype, out_sharding=split)

    return jax.tree.map(zeros, params)


def exchange_gradients(gradients: Params) -> Params:
    """Adds partial sums up over the devices that hold them, in float32."""
    if not partition.has_mesh():
        return gradients

    def whole(leaf: jax.Array) -> jax.Array:
        spec = jax.typeof(leaf).sharding.spec
        return jax.reshard(leaf, P(*spec.partitions)) if spec.unreduced else leaf

    return jax.tree.map(whole, gradients)
