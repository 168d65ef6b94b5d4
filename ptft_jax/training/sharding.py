"""Where arrays lie on the mesh: parameters by their logical axes, batches by row."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

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
