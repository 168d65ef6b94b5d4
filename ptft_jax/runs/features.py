"""What a frozen encoder makes of a run's examples, computed once and read in every epoch.

It is kept in a file without a name in the run's folder, which the kernel removes with its process;
a run that goes on makes it anew, in less time than an epoch of training everything takes.
"""

import math
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from ptft_jax.data.batches import by_length
from ptft_jax.data.progress import duration
from ptft_jax.data.tasks.training.features import Numbered, WithFeatures, places_of, starts_of
from ptft_jax.models.build import Batch, Model, Params, take_positions
from ptft_jax.training.cluster.job import Job
from ptft_jax.training.mesh import process_rows, put_batch
from ptft_jax.training.resources.storage import size_text, storing

_BLOCK = 1 << 24  # bytes written at once


def with_features(
    model: Model,
    params: Params,
    examples: Any,
    scored: Mapping[str, Any],
    *,
    batch_size: int,
    folder: Path,
    mesh: Mesh,
    job: Job,
    say: Callable[[str], None],
) -> tuple[WithFeatures, dict[str, WithFeatures]]:
    """Runs the encoder over the examples of a run, without dropout; returns them with what it gave.

    Args:
        model, params: the model with all its parameters, laid out over the mesh.
        examples: those that it is trained on, numbered, perhaps packed.
        scored: those that it is scored on, by split.
        batch_size: how many are computed at once; the mesh divides it.
        folder: the run's. Each process has a file of its own, as each reads all rows in some epoch.
        mesh, job: what computes it.
        say: takes a line on what it took.

    Raises:
        StorageError: the disk has no room.
    """
    started = time.monotonic()

    @jax.jit
    def encode(params: Params, batch: Batch) -> jax.Array:
        hidden_BTD = model.bind(params).last_hidden_state(batch)
        if "pooled_positions" in batch:
            places = batch["pooled_positions"]
            hidden_BTD = take_positions(hidden_BTD, places.reshape(len(places), -1))
        return jax.reshard(hidden_BTD, P())

    def of(examples: Any) -> WithFeatures:
        starts, order = starts_of(examples), by_length(examples)
        features = _room(folder, (int(starts[-1]), model.config.hidden_size), model.config.dtype)
        for start in range(0, len(order), batch_size):
            job.made_progress()
            # The last example fills the last batch up; what is written twice is the same.
            indices = np.minimum(np.arange(start, start + batch_size), len(order) - 1)
            batch = examples.batch(order[indices])
            own = process_rows(mesh, len(batch["attention_mask"]))
            placed = put_batch({name: rows[own] for name, rows in batch.items()}, mesh)
            hidden = jax.device_get(encode(params, placed))
            numbers, is_real = places_of(batch, starts)
            features[numbers[is_real]] = hidden[is_real]
        return WithFeatures(examples, starts, features)

    with job.activity("evaluating"):
        made = of(examples)
        also = {name: of(Numbered(rows)) for name, rows in scored.items()}
    size = sum(one.features.nbytes for one in (made, *also.values()))
    took = duration(time.monotonic() - started)
    say(f"features of the frozen encoder: {size_text(size)}, computed in {took}")
    return made, also


def _room(folder: Path, shape: tuple[int, int], dtype: str) -> np.ndarray:
    """Returns an array of zeros in a file that has its place on the disk already.

    A page that found none later would end the process without a word.
    """
    kind = np.dtype(jnp.dtype(dtype))
    size = math.prod(shape) * kind.itemsize
    with storing(folder), tempfile.TemporaryFile(dir=folder) as file:
        for start in range(0, size, _BLOCK):
            file.write(bytes(min(_BLOCK, size - start)))
        file.flush()
        return np.memmap(file, kind, "r+", shape=shape).view(np.ndarray)
