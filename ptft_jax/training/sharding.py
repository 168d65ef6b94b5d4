"""Where arrays lie on the mesh: parameters by their logical axes, batches by row."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ptft_jax.models import partition
from ptft_jax.models.build import Params


def place_params(params: Params, axes: Params) -> Params:
    """Lays parameters out as `partition.LOGICAL_TO_MESH` says, inside or outside `jax.jit`.

    Args:
        params: parameter tree, or any part of one.
        axes: logical axes of each array (`Model.axes`); may hold more than `params`.
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
