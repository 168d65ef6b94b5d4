"""The device mesh: axes `data`, `fsdp` and `tensor`, and what has to divide by them.

`data` splits the batch, `fsdp` splits the batch and the stored parameters, `tensor` splits heads,
the feed-forward width and the vocabulary. Across processes only `data` runs: `fsdp` and `tensor`,
whose collectives are the frequent ones, stay among the devices of one process.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from ptft_jax.errors import ConfigError

AXES = ("data", "fsdp", "tensor")


@dataclass(frozen=True)
class MeshConfig:
    """The sizes of the mesh axes; -1, allowed once, stands for all remaining devices."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1

    def __post_init__(self):
        for axis in AXES:
            size = getattr(self, axis)
            if isinstance(size, bool) or not isinstance(size, int) or (size < 1 and size != -1):
                raise ConfigError(
                    f"mesh.{axis}={size!r} must be a positive integer, or -1 for the rest"
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


class ModelSizes(Protocol):
    """The sizes of a model that mesh axes divide; `EncoderConfig` has them."""

    @property
    def hidden_size(self) -> int: ...
    @property
    def num_attention_heads(self) -> int: ...
    @property
    def intermediate_size(self) -> int: ...
    @property
    def padded_vocab_size(self) -> int: ...


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """Return the mesh of `config` with Explicit axis types over jax `devices` (None: all).

    Processes follow one another along `data` in the order of their index, so the rows of a batch
    that a process holds are contiguous and in process order (see `process_rows`).

    Raises ConfigError when the sizes do not multiply to the number of devices, or when fsdp x
    tensor does not divide the devices of one process.
    """
    devices = list(jax.devices() if devices is None else devices)
    _, fsdp, tensor = _resolve(config.sizes, len(devices))
    processes = sorted({device.process_index for device in devices})
    groups = [[d for d in devices if d.process_index == process] for process in processes]
    for process, group in zip(processes, groups, strict=True):
        if len(group) % (fsdp * tensor):
            fit = _fitting((-1, fsdp, tensor), len(group))[1:]
            raise ConfigError(
                f"mesh.fsdp={fsdp} x mesh.tensor={tensor} = {fsdp * tensor} does not divide the "
                f"{len(group)} devices of process {process}: both axes stay inside one process; "
                f"for example mesh.data=-1 mesh.fsdp={fit[0]} mesh.tensor={fit[1]}"
            )
    # Device ids say nothing about processes (process r's start at 2048 r on CPU), so each process
    # lays out its own devices, by their topology where there is one, and the blocks are stacked.
    blocks = [
        mesh_utils.create_device_mesh(
            (len(group) // (fsdp * tensor), fsdp, tensor), group, allow_split_physical_axes=True
        )
        for group in groups
    ]
    return Mesh(np.concatenate(blocks, axis=0), AXES, axis_types=(AxisType.Explicit,) * len(AXES))


def process_rows(mesh: Mesh, batch_size: int) -> slice:
    """Return the rows of a global batch of `batch_size` that the devices of this process hold.

    The batch is split over `data` and, within it, `fsdp`; `check_batch` has passed.
    """
    owners = np.vectorize(lambda device: device.process_index)(mesh.devices[:, 0, 0])
    own = np.flatnonzero(owners == jax.process_index())
    rows = batch_size // mesh.shape["data"]
    return slice(int(own[0]) * rows, (int(own[-1]) + 1) * rows)


def check_batch(batch_size: int, accumulate: int, mesh: Mesh, key: str = "batch_size") -> None:
    """Raise ConfigError unless every device gets the same number of rows in every micro-batch.

    `batch_size` is the global one, of a whole update; `accumulate` is its number of micro-batches;
    `key` is what the setting is called.
    """
    for name, value in ((key, batch_size), ("accumulate", accumulate)):
        if value < 1:
            raise ConfigError(f"{name}={value} must be at least 1")
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    unit = accumulate * shards
    if batch_size % unit:
        below, above = batch_size // unit * unit, (batch_size // unit + 1) * unit
        near = f"{below} or {above}" if below else f"{above}"
        raise ConfigError(
            f"{key}={batch_size} is not divisible by accumulate={accumulate} x mesh.data="
            f"{mesh.shape['data']} x mesh.fsdp={mesh.shape['fsdp']} = {unit}; nearest: {near}"
        )


def check_model(model: ModelSizes, mesh: Mesh) -> None:
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
