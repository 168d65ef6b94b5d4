"""Where a program runs: the mesh axes that split its arrays, and the device it is traced for.

Every parameter names its dimensions by what they are ("embed", "heads", …). The table says which
mesh axis splits such a dimension, so the layout of the whole model is changed in one place. Nothing
here holds a mesh: the one set by `jax.set_mesh` (with Explicit axis types) is used, and without one
every function returns its argument unchanged.

`fsdp` splits parameters at rest only. A layer calls `gather` right before it uses a parameter,
which all-gathers it over `fsdp`; the transpose of that, in the backward pass, reduces the gradient
back to the stored layout.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

# Activations are split by example over both axes: fsdp is data parallelism with split parameters.
BATCH = ("data", "fsdp")

LOGICAL_TO_MESH: dict[str, str | None] = {
    "layers": None,
    "vocab": "tensor",
    "positions": None,
    "types": None,
    "embed": "fsdp",
    "embed_out": None,
    "heads": "tensor",
    "head_size": None,
    "parts": None,
    "mlp": "tensor",
    "labels": None,
    "rank": None,
    "virtual": None,
}

Axes = tuple[str, ...]


def stored_spec(axes: Axes) -> P:
    """Returns how a parameter with these logical axes is split while it is stored."""
    return P(*(LOGICAL_TO_MESH[axis] for axis in axes))


def gathered_spec(axes: Axes) -> P:
    """Returns how a parameter is split while it is used: as stored, but whole over `fsdp`."""
    names = (LOGICAL_TO_MESH[axis] for axis in axes)
    return P(*(None if name == "fsdp" else name for name in names))


def has_mesh() -> bool:
    """Says whether a mesh is set, so that shardings can be named."""
    return not jax.sharding.get_abstract_mesh().empty


def splits_parameters() -> bool:
    """Says whether parameters are split over `fsdp`, and so gathered where they are used."""
    return has_mesh() and jax.sharding.get_abstract_mesh().shape["fsdp"] > 1


def where_it_lies(function: Callable, in_specs: Any, out_specs: Any) -> Callable:
    """Returns the function that runs on each device's part of its arrays: none needs another's."""
    if not has_mesh():
        return function
    # Kernels do not say what varies over which axis.
    return jax.shard_map(function, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def gather(parameter: jax.Array, axes: Axes) -> jax.Array:
    """All-gathers a parameter over `fsdp`; its gradient is reduced back by the transpose."""
    if not has_mesh():
        return parameter
    return jax.reshard(parameter, P(*gathered_spec(axes), reduced=_summed_later(parameter)))


def whole(parameter: jax.Array, axes: Axes) -> jax.Array:
    """Returns `gather(parameter)` for use inside a backward pass of its own.

    Its gradient is that pass's business, so the type says nothing of partial sums.
    """
    return jax.reshard(parameter, gathered_spec(axes)) if has_mesh() else parameter


def sum_gradients_first(x: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    """Returns `x`, whose gradients from several uses are added up before they are reduced.

    Args:
        x: an array that is the same on all devices along `axes`.
        axes: mesh axes over which the gradients of its uses are partial sums.
    """
    if not has_mesh():
        return x
    reduced = _summed_later(x) | frozenset(axes)
    return jax.reshard(x, P(*jax.typeof(x).sharding.spec.partitions, reduced=reduced))


def gather_table(table: jax.Array, axes: Axes) -> jax.Array:
    """Gathers a table that rows of a batch look up, or that is used twice.

    Its gradients are added up where they are, before one exchange.
    """
    return sum_gradients_first(gather(table, axes), BATCH)


def _summed_later(x: jax.Array) -> frozenset[str]:
    """Returns the mesh axes over which `x`'s gradients stay partial sums; a mesh must be set."""
    return frozenset(jax.typeof(x).sharding.spec.reduced)


def sum_of_products(left: jax.Array, right: jax.Array, axes: Axes, stored: P | None) -> jax.Array:
    """Returns the gradient [*a, *b] of a kernel: the sum over rows of left × right, in float32.

    Args:
        left, right: [R, *a] and [R, *b], split by row as batches are.
        axes: the kernel's logical axes.
        stored: the kernel's layout, None without a mesh. The sum stays partial over the mesh axes
            that it calls `reduced` and is exchanged over the others.
    """
    names = gathered_spec(axes)

    # Of two dimensions each: with heads and their features apart, XLA's CPU backend adds up in
    # bfloat16 (3 % off) or has no product with a float32 result.
    def merged(x: jax.Array, name: str | None) -> jax.Array:
        split = None if stored is None else P(BATCH, name)
        return x if x.ndim == 2 else jnp.reshape(x, (x.shape[0], -1), out_sharding=split)

    majors = names[0], names[left.ndim - 1]
    gradient = jnp.einsum(
        "ra,rb->ab",
        *(merged(x, name) for x, name in zip((left, right), majors, strict=True)),
        preferred_element_type=jnp.float32,
        out_sharding=_partial(P(*majors), stored),
    )
    shape = (*left.shape[1:], *right.shape[1:])
    return _exchange(jnp.reshape(gradient, shape, out_sharding=_partial(names, stored)), stored)


def sum_of_rows(rows: jax.Array, axes: Axes, stored: P | None) -> jax.Array:
    """Returns the sum over the leading dimensions of [rows…, *a], in float32; see above."""
    own, leading = "xyz"[: len(axes)], "abc"[: rows.ndim - len(axes)]
    gradient = jnp.einsum(
        f"{leading}{own}->{own}",
        rows,
        preferred_element_type=jnp.float32,
        out_sharding=_partial(gathered_spec(axes), stored),
    )
    return _exchange(gradient, stored)


def _partial(spec: P, stored: P | None) -> P | None:
    return None if stored is None else P(*spec, unreduced=frozenset(BATCH))


def _exchange(gradient: jax.Array, stored: P | None) -> jax.Array:
    return gradient if stored is None else jax.reshard(gradient, gradient_spec(stored))


def merged(x: jax.Array, start: int) -> jax.Array:
    """Returns `x` with the dimensions from `start` on as one; only the first of them is split."""
    if not has_mesh():
        return x.reshape(*x.shape[:start], -1)
    spec = jax.typeof(x).sharding.spec
    split = P(*spec.partitions[: start + 1], reduced=frozenset(spec.reduced))
    return jnp.reshape(x, (*x.shape[:start], -1), out_sharding=split)


def rows_of(x: jax.Array) -> jax.Array:
    """Returns [B, T, …] as [B x T, …].

    The layout is named, since the type of a single row does not say that rows are split.
    """
    shape = (-1, *x.shape[2:])
    if not has_mesh():
        return x.reshape(shape)
    spec = jax.typeof(x).sharding.spec
    split = P(BATCH, *spec.partitions[2:], reduced=frozenset(spec.reduced))
    return jnp.reshape(x, shape, out_sharding=split)


def gradient_spec(spec: P) -> P:
    """Returns the layout of the gradient of an array with this one."""
    return P(*spec.partitions, unreduced=frozenset(spec.reduced))


def layout_of(x: jax.Array) -> P | None:
    """Returns how `x` is split, None when no mesh is set."""
    return jax.typeof(x).sharding.spec if has_mesh() else None


def all_but_gathered(primitive: Any, *_: Any, **__: Any) -> bool:
    """Says for `jax.checkpoint` what to keep for the backward pass: all but what `gather` returns.

    Otherwise the gathered parameters of every layer would wait for the backward pass in whole, and
    `fsdp` would save no memory while a step runs.
    """
    return primitive.name != "reshard"


def batch_spec(ndim: int) -> P:
    """Returns the layout of an activation whose first dimension is the example."""
    return P(BATCH, *(None,) * (ndim - 1))


def batch_sharding(ndim: int) -> P | None:
    """Returns `batch_spec(ndim)` as an `out_sharding` argument, None when no mesh is set."""
    return batch_spec(ndim) if has_mesh() else None


def everywhere[T](tree: T) -> T:
    """Returns arrays whole on every device."""
    return jax.tree.map(lambda x: jax.reshard(x, P()), tree) if has_mesh() else tree


def split_by_row(x: jax.Array) -> jax.Array:
    """Returns [B, …] split by row alone."""
    return jax.reshard(x, batch_spec(x.ndim)) if has_mesh() else x


def split_like(x: jax.Array, other: jax.Array) -> jax.Array:
    """Returns `x` split as the first dimensions of another array are, which are its own."""
    if not has_mesh():
        return x
    return jax.reshard(x, P(*jax.typeof(other).sharding.spec.partitions[: x.ndim]))


def activation_sharding(axes: Axes) -> P | None:
    """Returns the layout of an activation [B, T, *axes] that a parameter's last `axes` produce."""
    return P(BATCH, None, *gathered_spec(axes)) if has_mesh() else None


# The oldest GPUs that Triton and cuDNN's fused attention compile bfloat16 for: Ampere.
_CAPABILITY = (8, 0)


class Device(NamedTuple):
    """One kind of device.

    Attributes:
        platform: "cpu", "gpu" (NVIDIA), "rocm" (AMD) or "tpu".
        kind: the maker's name, like "NVIDIA H200".
        capability: CUDA compute capability of an NVIDIA GPU, like (9, 0); None for a described one.
    """

    platform: str
    kind: str
    capability: tuple[int, int] | None = None

    def refuses_kernels(self) -> str | None:
        """Returns why no kernel for NVIDIA GPUs runs on it, None if they do."""
        if self.platform != "gpu":
            return f"it runs on NVIDIA GPUs, and this is a {self.platform} ({self.kind})"
        if self.capability is not None and self.capability < _CAPABILITY:
            found, needed = (".".join(map(str, pair)) for pair in (self.capability, _CAPABILITY))
            return f"{self.kind} has compute capability {found}, and it needs {needed}"
        return None


def current_device() -> Device:
    """Returns the devices of the mesh that is set, without one JAX's default device."""
    mesh = jax.sharding.get_abstract_mesh()
    described = None if mesh.empty else mesh.abstract_device
    here = jax.devices()[0]
    if described is not None and described.device_kind != here.device_kind:
        # A mesh that only describes devices, to lower for them elsewhere.
        platform = "gpu" if described.platform == "cuda" else described.platform
        return Device(platform, described.device_kind)
    if here.platform != "gpu":
        return Device(here.platform, here.device_kind)
    capability = str(getattr(here, "compute_capability", ""))
    if "rocm" in here.client.platform_version.lower() or capability.startswith("gfx"):
        return Device("rocm", here.device_kind)
    major, _, minor = capability.partition(".")
    numbers = (int(major), int(minor)) if major.isdigit() and minor.isdigit() else None
    return Device("gpu", here.device_kind, numbers)
