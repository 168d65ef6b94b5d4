"""Kernels beside the XLA code that they must agree with, on whatever device the tests run."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ptft_jax.models import attention, fused
from ptft_jax.models.config import EncoderConfig
from ptft_jax.models.dropout import RowKeys, fold_rows, row_keys
from ptft_jax.models.layers import LayerNorm
from ptft_jax.models.partition import Device

# What jax 0.12 says whenever a kernel is lowered for a GPU; docs/decisions.md says what follows it.
TRITON_WARNING = (
    "ignore:The Pallas Triton backend is deprecated and will be removed in a future JAX version. "
    "To keep using Pallas on GPU, please migrate to the Mosaic GPU backend. To keep using Triton, "
    "switch to the official Triton bindings and jax_triton.:DeprecationWarning"
)

H200 = Device("gpu", "NVIDIA H200", (9, 0))

Results = dict[str, np.ndarray]


def relative_errors(found: Results, wanted: Results) -> dict[str, float]:
    """The norm of each array's difference over the norm of the wanted one."""
    return {
        name: float(np.linalg.norm(found[name] - wanted[name]) / np.linalg.norm(wanted[name]))
        for name in wanted
    }


def dropout_keys(rows: int, heads: int, seed: int = 0) -> RowKeys:
    """A key for each row and head, uint32 [rows, heads, 2]."""
    return fold_rows(row_keys(seed, jnp.int32(3), rows)[:, None], jnp.arange(heads)[None])


@dataclass(frozen=True)
class Attention:
    """One computation of attention, on random numbers.

    Rows have padding at the end, the last but one is whole and, where there are four, the last is
    padding alone. Packed ones hold up to three examples.
    """

    tokens: int
    head_size: int
    packed: bool = False
    rate: float = 0.0
    rows: int = 2
    heads: int = 2

    def __str__(self) -> str:
        kind = "packed" if self.packed else "padded"
        return f"{self.tokens}x{self.head_size}-{kind}-{self.rate}"

    @property
    def visible(self) -> np.ndarray:
        """`attention_mask` or `segment_ids`, int32 [rows, tokens]."""
        place = np.arange(self.tokens)
        rng = np.random.default_rng(self.tokens)
        lengths = 1 + rng.integers(self.tokens // 2, self.tokens, self.rows)
        lengths[-2] = self.tokens
        if self.rows > 3:
            lengths[-1] = 0
        real = (place < lengths[:, None]).astype(np.int32)
        if not self.packed:
            return real
        return real * (1 + (place >= self.tokens // 3) + (place >= self.tokens // 2)).astype(
            np.int32
        )

    @property
    def arrays(self) -> dict[str, jax.Array]:
        """Queries, keys and values, their biases, and the gradient of the context, in float32.

        A query that is padding attends to what a backend likes: nothing reads its context, so no
        gradient comes to it.
        """
        names = ("qkv", "bias", "g")
        shapes = (
            (self.rows, self.tokens, self.heads, 3, self.head_size),
            (self.heads, 3, self.head_size),
            (self.rows, self.tokens, self.heads, self.head_size),
        )
        keys = jax.random.split(jax.random.key(self.tokens), 3)
        found = {
            name: jax.random.normal(key, shape)
            for name, key, shape in zip(names, keys, shapes, strict=True)
        }
        found["g"] = jnp.where(self.visible[:, :, None, None] > 0, found["g"], 0.0)
        return found

    def results(self, backend: str, dtype: str, **changed: np.ndarray | jax.Array) -> Results:
        """Context (0 for padding) and gradients of qkv and of its biases, as float32.

        `changed`: arrays to take in place of those of `arrays`.
        """
        arrays = {**self.arrays, **changed}
        context, qkv, bias = _attend_and_back(
            self, backend, arrays["qkv"].astype(dtype), arrays["bias"], arrays["g"].astype(dtype)
        )
        context = jnp.where(self.visible[:, :, None, None] > 0, context, 0.0)
        named = {"context": context, "qkv": qkv, "bias": bias}
        return {name: np.asarray(array.astype(jnp.float32)) for name, array in named.items()}


@partial(jax.jit, static_argnums=(0, 1))
def _attend_and_back(case: Attention, backend: str, qkv, bias, g):
    keys = dropout_keys(case.rows, case.heads) if case.rate else None
    visible = jnp.asarray(case.visible)

    def attend(qkv, bias):
        return attention.attend(
            backend, qkv, bias, visible, keys, rate=case.rate, packed=case.packed
        )

    context, backward = jax.vjp(attend, qkv, bias)
    return context, *backward(g)


def dropped_probabilities(
    backend: str, tokens: int, dtype: str, *, head_size: int = 64, rate: float = 0.1
) -> np.ndarray:
    """Which entries a backend drops, bool [B, N, T, S].

    Scores of zero and values of the unit matrix: the context is the probabilities.
    """
    rows, heads = 2, 2
    keys, visible = dropout_keys(rows, heads, seed=7), jnp.ones((rows, tokens), jnp.int32)
    bias = jnp.zeros((heads, 3, head_size))

    # The array is an argument: jax 0.12.0.1 compiles a product of zeros that are constants of the
    # program, and its softmax, into NaN one time in four on a CPU.
    @jax.jit
    def attend(qkv):
        return attention.attend(backend, qkv, bias, visible, keys, rate=rate, packed=False)

    def columns(value):
        qkv = jnp.zeros((rows, tokens, heads, 3, head_size), dtype)
        return attend(qkv.at[:, :, :, 2].set(value[None, :, None]))

    unit = jnp.eye(tokens, -(-tokens // head_size) * head_size, dtype=dtype)
    found = [columns(unit[:, start : start + head_size]) for start in range(0, tokens, head_size)]
    probabilities = jnp.concatenate(found, axis=-1)[..., :tokens]
    assert jnp.isfinite(probabilities).all()
    return np.asarray(probabilities == 0).swapaxes(1, 2)


def check_no_leak(backend: str, tokens: int, dtype: str, *, packed: bool) -> None:
    """One example's numbers change, queries, keys, values and gradient: those of others do not.

    An example that learns from another's text learns what has nothing to do with it; no loss curve
    shows it. A row of padding alone, as an evaluation ends with, gives finite numbers and learns
    nothing: a NaN times weight 0 is still a NaN.
    """
    rate = 0.0 if backend == "cudnn" else 0.1  # which drops nothing
    case = Attention(tokens, 64, packed=packed, rate=rate, rows=4)
    before = case.results(backend, dtype)
    assert not case.visible[-1].any()
    assert not before["qkv"][-1].any()
    arrays = case.arrays
    examples = case.visible + 10 * np.arange(case.rows)[:, None] * (case.visible > 0)
    for number in np.unique(examples[examples > 0]):
        here = examples == number
        # Padding is no example: what stands there must not matter to any.
        for place in (here, (examples == 0)) if number == 1 else (here,):
            other = jnp.asarray(place)[:, :, None, None, None]
            after = case.results(
                backend,
                dtype,
                qkv=jnp.where(other, 3 - 2 * arrays["qkv"], arrays["qkv"]),
                g=jnp.where(other[..., 0], 1 - 2 * arrays["g"], arrays["g"])
                * (case.visible > 0)[:, :, None, None],
            )
            others = (examples > 0) & ~place
            for name in ("context", "qkv"):
                assert np.isfinite(before[name]).all()
                assert np.isfinite(after[name]).all()
                assert np.array_equal(before[name][others], after[name][others]), (number, name)
                if place is here:
                    assert not np.array_equal(before[name][here], after[name][here])


@dataclass(frozen=True)
class Norm:
    """LayerNorm(residual + dropout(x + bias)) of random numbers."""

    rows: int
    tokens: int
    size: int
    rate: float = 0.1

    def results(self, wanted: str, dtype: str) -> Results:
        """Both outputs and the gradients of all five inputs, as float32."""
        array, vector = (self.rows, self.tokens, self.size), (self.size,)
        keys = jax.random.split(jax.random.key(self.size), 7)
        shapes = (array, array, array, array, vector, vector, vector)
        x, residual, g, g_residual, bias, scale, shift = (
            jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)
        )
        row_key = row_keys(0, jnp.int32(3), self.rows) if self.rate else None

        def compute(x, residual, bias, scale, shift):
            config = EncoderConfig(hidden_size=self.size, num_attention_heads=1, dtype=dtype)
            norm = LayerNorm(config, rngs=nnx.Rngs(params=0))
            norm.scale[...], norm.bias[...] = scale, shift
            return fused.residual_norm(x, bias, residual, norm, row_key, self.rate, wanted)

        @jax.jit
        def both(g, *inputs):
            outputs, backward = jax.vjp(compute, *inputs)
            return *outputs, *backward(g)

        found = both(
            (g.astype(dtype), g_residual.astype(dtype)),
            x.astype(dtype),
            residual.astype(dtype),
            bias,
            scale,
            shift,
        )
        names = ("output", "again", "x", "residual", "bias", "scale", "shift")
        return {
            name: np.asarray(one.astype(jnp.float32))
            for name, one in zip(names, found, strict=True)
        }


def activation_results(name: str, rows: int, size: int, wanted: str, dtype: str) -> Results:
    """activation(x + bias) with the gradients of x and bias, as float32.

    x reaches far enough to where the function and its slope are 0 or 1.
    """
    keys = jax.random.split(jax.random.key(size), 3)
    shape = (rows, 3, size)
    x = 3 * jax.random.normal(keys[0], shape)
    bias, g = jax.random.normal(keys[1], (size,)), jax.random.normal(keys[2], shape)

    @jax.jit
    def both(x, bias, g):
        out, backward = jax.vjp(partial(fused.bias_activation, name=name, wanted=wanted), x, bias)
        return out, *backward(g)

    found = both(x.astype(dtype), bias, g.astype(dtype))
    return {
        name: np.asarray(one.astype(jnp.float32))
        for name, one in zip(("output", "x", "bias"), found, strict=True)
    }


def pretraining_batch(rows: int, tokens: int, *, packed: bool, seed: int = 0) -> Results:
    """Rows with padding, of token ids below 97; packed ones hold two examples."""
    rng = np.random.default_rng(seed)
    masked, cut, place = 4, tokens // 3, np.arange(tokens)
    real = place < rng.integers(tokens // 2, tokens + 1, (rows, 1))
    batch = {
        "input_ids": rng.integers(0, 97, (rows, tokens)),
        "attention_mask": real,
        "token_type_ids": rng.integers(0, 2, (rows, tokens)),
        "masked_lm_positions": rng.integers(0, tokens // 2, (rows, masked)),
        "masked_lm_ids": rng.integers(0, 97, (rows, masked)),
        "pooled_positions": np.zeros((rows, 1)),
        "next_sentence_labels": rng.integers(0, 2, (rows, 1)),
    }
    if packed:
        batch["segment_ids"] = real * (1 + (place >= cut))
        batch["position_ids"] = np.tile(place - (place >= cut) * cut, (rows, 1))
    return {
        **{name: array.astype(np.int32) for name, array in batch.items()},
        "masked_lm_weights": np.ones((rows, masked), np.float32),
        "next_sentence_weights": np.ones((rows, 1), np.float32),
    }
