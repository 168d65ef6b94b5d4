"""What both attention kernels do to a block of scores."""

import jax
import jax.numpy as jnp

from ptft_jax.models.dropout import keep, of_columns, of_lines

# Far below any score, and its square multiple of 512² examples is still finite.
FAR = 1e30


def mask_scores(
    scores: jax.Array, queries: jax.Array, keys: jax.Array, *, packed: bool = True
) -> jax.Array:
    """Lowers the scores of pairs that may not meet by so much that nothing is left of them.

    By arithmetic on floats: compared and selected, each entry takes twice the time. A pair of one
    example keeps every bit of its score, since 0 is taken away. A maximum has to be subtracted from
    the scores as they are returned, before they are scaled: rounded apart, two numbers of this size
    can differ by more than an exponential holds.

    Args:
        scores: float32 [queries, keys].
        queries, keys: number of the example of each token, 0 for padding.
        packed: otherwise every query meets every key that is not padding.
    """
    if not packed:
        return scores + jnp.where(keys > 0, 0.0, -FAR)[None, :]
    apart = queries.astype(jnp.float32)[:, None] - keys.astype(jnp.float32)[None, :]
    return scores - apart * (apart * FAR)


def dropout_factors(keys_ref, queries: jax.Array, keys: jax.Array, rate: float) -> jax.Array:
    """Returns 1 / (1 - rate) for a probability that stays and 0 for one that is dropped.

    To multiply with: a selection would be moved behind the rounding to bfloat16, whose pairs of
    numbers would have to be taken apart for it.

    Args:
        keys_ref: the two words of the key of a row and head.
        queries, keys: places in the row of a block's queries and keys.
        rate: probability to drop an entry.
    """
    entries = of_lines(queries, keys_ref[0])[:, None] + of_columns(keys)[None, :]
    return jnp.where(keep(entries, keys_ref[1], rate), 1.0 / (1.0 - rate), 0.0)
