"""Mixout (Lee et al. 2020): a step computes with weights some of which are where they began.

Like dropout, but an entry that is left out is not 0: it is the value that fine-tuning started from,
so that the weights stay near it.
"""

import zlib

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from ptft_jax.models import partition
from ptft_jax.models.build import Params
from ptft_jax.models.dropout import fold_rows, keep, of_columns, of_lines


def mixed(params: Params, origin: Params, rate: float, key: jax.Array, above: str = "") -> Params:
    """Returns the parameters that a step computes with.

    Args:
        params: nested dict of float32 arrays.
        origin: starting values of some of them, by the same names; of layers perhaps the first ones
            only.
        rate: probability in [0, 1) of each entry to be the starting value.
        key: of the step, uint32 [2]. A mask is a function of it and of the parameter's path alone.
        above: the path to `params`.
    """
    found = dict(params)
    for name, value in origin.items():
        path = f"{above}{name}"
        if isinstance(value, dict):
            found[name] = mixed(params[name], value, rate, key, f"{path}/")
            continue
        own, weights = fold_rows(key, jnp.uint32(zlib.crc32(path.encode()))), params[name]
        assert own is not None
        if len(value) == len(weights):
            found[name] = _mixed(weights, value, rate, own)
        else:
            parts = _mixed(weights[: len(value)], value, rate, own), weights[len(value) :]
            found[name] = jnp.concatenate(parts)
    return found


def _mixed(weights: jax.Array, origin: jax.Array, rate: float, key: jax.Array) -> jax.Array:
    """Returns (m·origin + (1 − m)·weights − rate·origin) / (1 − rate), m being 1 at `rate` of the
    entries (eq. 5 of the paper, in the form origin + dropout(weights − origin)).
    """
    spec, shape = partition.layout_of(weights), weights.shape
    last = len(shape) - 1

    def numbers(sizes: tuple[int, ...], dimension: int) -> jax.Array:
        # Laid out as the weights are, so that each device makes its part of the mask.
        names = None if spec is None else zip(spec.partitions, sizes, strict=True)
        split = names and P(*(name if size > 1 else None for name, size in names))
        return jax.lax.broadcasted_iota(jnp.uint32, sizes, dimension, out_sharding=split)

    lines = jnp.uint32(0)
    for dimension, size in enumerate(shape[:-1]):
        lines = lines * jnp.uint32(size) + numbers((*shape[:-1], 1), dimension)
    columns = numbers((*(1,) * last, shape[-1]), last)
    stays = keep(of_lines(lines, key[0]) + of_columns(columns), key[1], rate)
    return origin + jnp.where(stays, (weights - origin) / (1 - rate), 0.0)
