"""Dropout masks are as good as random ones, and the same number wherever a row is computed.

Seeds are fixed, so that a bound in standard deviations is met or not once and for all.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from ptft_jax.models.dropout import dropout, fold_rows, row_keys
from ptft_jax.training.mesh import MeshConfig, make_mesh

RATE = 0.1
LAGS = (0, 1, 2, 3, 8, 32, 64)


@jax.jit
def _ones_after_dropout(keys):
    return dropout(jnp.ones((len(keys), 1 << 14)), RATE, keys)


def dropped(keys) -> np.ndarray:
    """Which of 2¹⁴ entries of each row are dropped, bool [B, 2¹⁴], for keys uint32 [B, 2]."""
    return np.asarray(_ones_after_dropout(jnp.asarray(keys, jnp.uint32))) == 0


def correlations(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Correlation of each row of one mask with that of another, in standard deviations."""
    left, right = ((x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True) for x in (left, right))
    return (left * right).mean(1) * np.sqrt(left.shape[1])


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5])
def test_the_share_of_dropped_entries_is_the_rate(rate):
    """And what stays is scaled so that the expectation is kept, as at inference."""
    rows, entries = 256, 5000
    x = jax.random.normal(jax.random.key(0), (rows, entries))
    kept = np.asarray(jax.jit(lambda x, k: dropout(x, rate, k))(x, row_keys(0, 1, rows)))
    gone = kept == 0
    assert abs(gone.mean() - rate) < 4 * np.sqrt(rate * (1 - rate) / gone.size)
    np.testing.assert_allclose(kept[~gone], np.asarray(x)[~gone] / (1 - rate), rtol=1e-6)
    # No position is dropped more often than chance has it: one variance a position, one a row.
    for axis, count in ((0, rows), (1, entries)):
        z = (gone.mean(axis) - rate) / np.sqrt(rate * (1 - rate) / count)
        assert abs(np.mean(z**2) - 1) < 5 * np.sqrt(2 / z.size)
        assert np.abs(z).max() < 6


KEYS = {
    "rows": lambda: row_keys(3, 1, 64),
    "steps": lambda: jnp.concatenate([row_keys(3, step, 1) for step in range(64)]),
    "seeds": lambda: jnp.concatenate([row_keys(seed, 1, 1) for seed in range(64)]),
    "sites": lambda: fold_rows(row_keys(3, 1, 1), jnp.arange(64)),
    "sites of sites": lambda: fold_rows(
        fold_rows(row_keys(3, 1, 1)[:, None], jnp.arange(8)[:, None]), jnp.arange(8)
    ).reshape(64, 2),
}


@pytest.mark.parametrize("kind", KEYS)
def test_masks_of_different_keys_are_independent(kind):
    """Rows, steps, seeds, layers, sites and heads: none repeats what another drops."""
    keys = np.asarray(KEYS[kind]())
    # Heads of a layer are folded out of the key of a site, which is folded out of a row's.
    assert len(np.unique(keys, axis=0)) == 64
    pairs = np.array(list(itertools.combinations(range(64), 2)))
    masks = dropped(keys)
    z = correlations(masks[pairs[:, 0]], masks[pairs[:, 1]])
    assert abs(z.std() - 1) < 5 / np.sqrt(2 * z.size)
    assert np.abs(z).max() < 5
    # Nor does the key of one give away that of the next.
    bits = (keys[:, :, None] >> np.arange(32, dtype=np.uint32)) & 1
    flipped = (bits[1:] ^ bits[:-1]).mean()
    assert abs(flipped - 0.5) < 5 * 0.5 / np.sqrt(bits[1:].size)


@pytest.mark.parametrize("kind", ["high bits", "first word", "second word"])
def test_related_keys_drop_other_entries_in_another_order(kind):
    """Among 10⁵ keys many agree in one word or nearly: neither equal nor permuted masks come of it.

    Position enters by addition or by exclusive or: both orders are tried.
    """
    rng = np.random.default_rng(0)
    first, second, other, low = rng.integers(0, 2**32, (4, 300), dtype=np.uint32)
    low = low % (1 << 14) * (kind != "first word")
    other = second if kind == "second word" else other
    here = dropped(np.stack([first, second], 1))
    there = dropped(np.stack([first ^ low, other], 1))
    places = np.arange(1 << 14, dtype=np.uint32)[None]
    swapped = np.take_along_axis(there, (places ^ low[:, None]) % (1 << 14), 1)
    rolled = np.take_along_axis(there, (places - low[:, None]) % (1 << 14), 1)
    z = np.concatenate([correlations(here, one) for one in (there, swapped, rolled)])
    assert np.abs(z).max() < 5
    assert z.std() < 1.1


def structure(masks: np.ndarray) -> tuple[float, float]:
    """The largest correlation at a lag and on the corners of a rectangle, in deviations.

    `masks`: bool [rows, T, S].
    """
    x = masks.astype(np.float32) - masks.mean()
    variance, (_, tokens, _) = x.var(), x.shape
    lags, rectangles = [], []
    for down, right in itertools.product(LAGS, LAGS):
        if down == right == 0:
            continue
        here, there = x[:, : tokens - down, : tokens - right], x[:, down:, right:]
        product = here * there
        lags.append(product.sum(dtype=np.float64) / np.sqrt(product.size * variance**2))
        if down and right:
            product = product * x[:, down:, : tokens - right] * x[:, : tokens - down, right:]
            rectangles.append(product.sum(dtype=np.float64) / np.sqrt(product.size * variance**4))
    return np.abs(lags).max(), np.abs(rectangles).max()


def keys_of_heads() -> np.ndarray:
    """Keys as training makes them: 16 rows, a layer, a site, 12 heads."""
    site = fold_rows(fold_rows(row_keys(1, 3, 16), 4), 0)
    return np.asarray(fold_rows(site[:, None], jnp.arange(12))).reshape(-1, 2)


def keys_in_order() -> np.ndarray:
    """The least random keys that there are."""
    return np.stack([np.arange(192), np.zeros(192)], 1).astype(np.uint32)


@pytest.mark.parametrize("keys", [keys_of_heads, keys_in_order])
def test_a_mask_of_probabilities_has_no_structure_in_two_dimensions(keys):
    """No query or key is dropped more than others; no pattern returns across rows or columns."""
    masks = dropped(keys()).reshape(-1, 128, 128)
    lag, rectangle = structure(masks)
    assert max(lag, rectangle) < 5
    x = masks - RATE
    for axis in (1, 2, (1, 2), 0):
        sums = x.sum(axis) / np.sqrt(x.size / x.sum(axis).size * RATE * (1 - RATE))
        assert abs(sums.var() - 1) < 6 * np.sqrt(2 / sums.size), axis


def test_an_entry_is_known_by_its_place_in_the_row():
    """By its line and column, whatever the shape: kernels and XLA cut the same row differently."""
    keys = row_keys(0, 5, 6)
    lines = dropout(jnp.ones((6, 8, 30)), RATE, keys) == 0
    split = dropout(jnp.ones((6, 2, 4, 30)), RATE, keys) == 0
    assert jnp.array_equal(split.reshape(6, 8, 30), lines)
    # A row cut off after some lines and columns keeps the masks of those that are left.
    assert jnp.array_equal(dropout(jnp.ones((6, 5, 24)), RATE, keys) == 0, lines[:, :5, :24])
    by_head = dropout(jnp.ones((2, 3, 8, 30)), RATE, keys.reshape(2, 3, 2)) == 0
    assert jnp.array_equal(by_head.reshape(6, 8, 30), lines)


def test_the_dtype_does_not_change_what_is_dropped():
    """A run in bfloat16 can be compared with one in float32."""
    x, keys = jnp.ones((4, 1000)), row_keys(0, 5, 4)
    wide, narrow = (dropout(x.astype(dtype), 0.3, keys) for dtype in (jnp.float32, jnp.bfloat16))
    assert narrow.dtype == jnp.bfloat16
    assert jnp.array_equal(wide == 0, narrow == 0)
    # Scaled in float32 and rounded once.
    assert float(narrow.max()) == pytest.approx(1 / 0.7, rel=2**-8)
    # Evaluation computes with what was learnt.
    assert dropout(x, RATE, fold_rows(None, 3)) is dropout(x, 0.0, keys) is x


def test_a_smaller_batch_drops_the_same_in_the_rows_it_has():
    """Rows 0 to 7 of 16, alone: accumulation and another batch size leave a row's masks alone."""
    x, keys = jnp.ones((16, 32, 24)), row_keys(7, 2, 16)
    assert jnp.array_equal(keys[:8], row_keys(7, 2, 8))
    whole = dropout(x, RATE, fold_rows(keys, 3))
    assert jnp.array_equal(whole[:8], dropout(x[:8], RATE, fold_rows(row_keys(7, 2, 8), 3)))
    # As `accumulate` cuts: every other row.
    assert jnp.array_equal(whole[1::2], dropout(x[1::2], RATE, fold_rows(keys[1::2], 3)))


@pytest.mark.parametrize("sizes", [(8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 1, 8)], ids=str)
def test_masks_are_the_same_on_every_mesh(sizes):
    """Rows are split over data and fsdp, heads over tensor: each keeps its own masks."""

    def masks(split_rows, split_heads):
        keys = row_keys(7, 2, 16)
        heads = jax.lax.broadcasted_iota(jnp.uint32, (1, 8), 1, out_sharding=split_heads)
        x = jnp.ones((16, 8, 24), out_sharding=split_rows)
        return dropout(x, RATE, fold_rows(keys[:, None], heads))

    alone = jax.device_get(masks(None, None))
    with jax.set_mesh(make_mesh(MeshConfig(*sizes))):
        split = jax.jit(lambda: masks(P(("data", "fsdp"), "tensor", None), P(None, "tensor")))()
        assert np.array_equal(jax.device_get(split), alone)
    assert (alone == 0).any()
