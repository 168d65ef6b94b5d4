"""Dropout whose bits are a hash of (row key, site, position): the same number everywhere.

An entry is dropped or not by integer arithmetic alone, on its position within its row. So the mask
does not depend on backend, mesh or micro-batch, a kernel computes it where it needs it, in forward
and backward, and nothing random is stored. The hash takes a tenth of the operations of
threefry, which stays the source of the row keys.

The rounds are those of Chris Wellons' `lowbias32` (2018), a 32-bit mixer found by search for low
bias.
"""

import jax
import jax.numpy as jnp

from ptft_jax.models import partition

# The version of every random number that training draws. A run keeps the one it was made with.
RANDOMNESS = "hash-1"

# One key per row of the batch, uint32 [B, 2]. A row's dropout masks depend on its key alone, so
# they stay the same however the rows are spread over devices or micro-batches. None: no dropout.
RowKeys = jax.Array | None

_ROUND_1, _ROUND_2 = 0x7FEB352D, 0x846CA68B
_GOLDEN = 0x9E3779B1  # a prime next to 2³² / φ: spreads small numbers over all bits


def step_key(seed: int, step: jax.Array) -> jax.Array:
    """Returns the key of a step, which all its random numbers come from."""
    return jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), step)


def row_keys(seed: int, step: jax.Array, rows: int) -> jax.Array:
    """Returns the key of each row of the global batch, uint32 [rows, 2], laid out as rows are."""
    rows_B = jax.lax.broadcasted_iota(
        jnp.int32, (rows,), 0, out_sharding=partition.batch_sharding(1)
    )
    key = step_key(seed, step)
    return jax.random.key_data(jax.vmap(jax.random.fold_in, (None, 0))(key, rows_B))


def fold_rows(keys: RowKeys, data: int | jax.Array) -> RowKeys:
    """Returns a new key for each key [..., 2] and number; different numbers, unrelated keys.

    Args:
        keys: uint32 [..., 2]; None stays None.
        data: a site, a layer, a head: below 2³², of a shape that broadcasts with `[...]`.
    """
    if keys is None:
        return None
    first, second = keys[..., 0], keys[..., 1]
    number = jnp.asarray(data).astype(jnp.uint32) * jnp.uint32(_GOLDEN)
    first = _mix(_mix(first ^ number) + second)
    second = _mix(_mix(second + number) ^ first)
    return jnp.stack([first, second], axis=-1)


def of_lines(line: jax.Array, first: jax.Array) -> jax.Array:
    """Returns the part of each line of entries in the hash, uint32, to add to `of_columns`.

    Args:
        line: number of the line (a query, a token) in its row.
        first: first word of the row's key, of a shape that broadcasts with `line`.
    """
    return _mix(line.astype(jnp.uint32) * jnp.uint32(_GOLDEN) + first)


def of_columns(column: jax.Array) -> jax.Array:
    """Returns the part of each column (a key, a feature) in the hash, uint32."""
    return column.astype(jnp.uint32) * jnp.uint32(_GOLDEN)


def keep(entry: jax.Array, second: jax.Array, rate: float) -> jax.Array:
    """Says which entries stay, each with probability 1 - `rate` (to 2⁻³²), bool.

    Both words of the key go in, at different rounds: with one alone, two rows whose words agree in
    the high bits would drop the same entries in another order. The high bits of the product decide,
    so that the mixer's last shift is left out. Eight operations an entry: integers are what a fused
    attention kernel waits for.

    Args:
        entry: the sum of `of_lines` and `of_columns`.
        second: uint32, second word of the row's key, of a shape that broadcasts.
        rate: probability in [0, 1) to drop an entry.
    """
    x = (entry ^ (entry >> jnp.uint32(16))) * jnp.uint32(_ROUND_1)
    x = (x ^ (x >> jnp.uint32(15)) ^ second) * jnp.uint32(_ROUND_2)
    return x >= jnp.uint32(round(rate * 2**32))


def dropout(x: jax.Array, rate: float, keys: RowKeys) -> jax.Array:
    """Zeroes each entry with probability `rate` and scales the rest by 1 / (1 - rate).

    Args:
        x: array of shape [B, …, columns] or, with keys [B, N, 2], [B, N, …, columns].
        rate: probability in [0, 1).
        keys: one key per row; None turns dropout off.
    """
    if keys is None or rate == 0.0:
        return x
    rows = keys.ndim - 1  # dimensions that number rows
    lines = jnp.zeros((1,) * (x.ndim - 1), jnp.uint32)
    for dimension in range(rows, x.ndim - 1):
        shape = (1,) * rows + x.shape[rows:-1]
        counted = jax.lax.broadcasted_iota(jnp.uint32, shape, dimension)
        lines = lines * jnp.uint32(x.shape[dimension]) + counted
    columns = jax.lax.broadcasted_iota(jnp.uint32, (1,) * (x.ndim - 1) + x.shape[-1:], x.ndim - 1)
    first, second = (
        jnp.expand_dims(keys[..., word], tuple(range(rows, x.ndim))) for word in (0, 1)
    )
    entries = of_lines(lines[..., None], first) + of_columns(columns)
    scaled = x.astype(jnp.float32) * (1.0 / (1.0 - rate))
    return jnp.where(keep(entries, second, rate), scaled, 0.0).astype(x.dtype)


def _mix(x: jax.Array) -> jax.Array:
    """A bijection of 32 bits in which every bit of the input changes half of the output's."""
    x = (x ^ (x >> jnp.uint32(16))) * jnp.uint32(_ROUND_1)
    x = (x ^ (x >> jnp.uint32(15))) * jnp.uint32(_ROUND_2)
    return x ^ (x >> jnp.uint32(16))
