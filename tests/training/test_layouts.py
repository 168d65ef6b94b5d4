"""Layouts do not change results: the promise that a mesh is only a matter of speed."""

import jax
import numpy as np
import optax
import pytest

from ptft_jax.models.build import build_model
from ptft_jax.models.config import EncoderConfig
from ptft_jax.objectives.pretraining import PretrainingObjective
from ptft_jax.training.mesh import MeshConfig, make_mesh, put_batch
from ptft_jax.training.step import init_state, make_train_step

CONFIG = EncoderConfig(
    vocab_size=501,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=64,
    max_position_embeddings=32,
)
STEPS, BATCH, TOKENS, MASKED = 4, 32, 16, 4


def make_batch(step: int) -> dict[str, np.ndarray]:
    """A random batch with padding and with rows of different numbers of masked tokens."""
    rng = np.random.default_rng(step)
    lengths = rng.integers(8, TOKENS + 1, BATCH)
    return {
        "input_ids": rng.integers(0, 501, (BATCH, TOKENS), dtype=np.int32),
        "attention_mask": (np.arange(TOKENS) < lengths[:, None]).astype(np.int32),
        "token_type_ids": rng.integers(0, 2, (BATCH, TOKENS), dtype=np.int32),
        "masked_lm_positions": rng.integers(0, 8, (BATCH, MASKED), dtype=np.int32),
        "masked_lm_ids": rng.integers(0, 501, (BATCH, MASKED), dtype=np.int32),
        "masked_lm_weights": rng.integers(0, 2, (BATCH, MASKED)).astype(np.float32),
        "pooled_positions": np.zeros((BATCH, 1), np.int32),
        "next_sentence_labels": rng.integers(0, 2, (BATCH, 1), dtype=np.int32),
        "next_sentence_weights": np.ones((BATCH, 1), np.float32),
    }


def losses(mesh_sizes: tuple[int, int, int], accumulate: int, **model_keys) -> list[float]:
    """Losses of a few steps with dropout on, asserting that the step was compiled once."""
    data, fsdp, tensor = mesh_sizes
    devices = jax.devices()[: data * fsdp * tensor]
    mesh = make_mesh(MeshConfig(data=data, fsdp=fsdp, tensor=tensor), devices)
    model = build_model(CONFIG.replace(**model_keys))
    schedule = optax.constant_schedule(1e-3)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule))
    with jax.set_mesh(mesh):
        state = init_state(model, optimizer, seed=0)
        step = make_train_step(
            model, PretrainingObjective(), optimizer, schedule, seed=0, accumulate=accumulate
        )
        out = []
        for number in range(STEPS):
            state, metrics = step(state, put_batch(make_batch(number), mesh))
            out.append(float(metrics["loss"]))
        assert step._cache_size() == 1
    return out


@pytest.fixture(scope="module")
def one_device() -> list[float]:
    return losses((1, 1, 1), 1)


@pytest.mark.parametrize(
    ("mesh_sizes", "accumulate"),
    [
        ((1, 8, 1), 1),
        ((2, 2, 2), 1),
        ((1, 2, 4), 1),
        ((1, 1, 1), 32),  # a row at a time
        ((8, 1, 1), 4),
        ((2, 2, 2), 4),
    ],
)
def test_same_loss_in_every_layout(one_device, mesh_sizes, accumulate):
    """A user who changes the mesh or accumulates must be able to compare with earlier runs."""
    np.testing.assert_allclose(losses(mesh_sizes, accumulate), one_device, rtol=1e-5)


def test_dropout_is_on(one_device):
    """The comparison above would say little if dropout did nothing."""
    off = losses((1, 1, 1), 1, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    assert abs(off[0] - one_device[0]) > 1e-4
