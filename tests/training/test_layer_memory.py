"""Layers side by side need no more memory than layers in a loop, which are easier to free.

XLA merges what is to be computed or gathered again in the backward pass with the forward pass's,
unless something keeps it from that: the memory of `remat` and `fsdp` would be lost, silently.
"""

import jax
import numpy as np
import pytest

from ptft_jax.models.build import build_model
from ptft_jax.models.config import EncoderConfig
from ptft_jax.objectives.pretraining import PretrainingObjective
from ptft_jax.training.cost import compile_step
from ptft_jax.training.mesh import MeshConfig, make_mesh
from ptft_jax.training.optimizer import OptimizerConfig, ScheduleConfig, make_optimizer

MASKED = 8


def temporaries(sizes, rows: int, tokens: int, *, remat: bool, unroll: int | None) -> int:
    """Bytes on one device beside state and batch, of a model of 8 layers of 256."""
    config = EncoderConfig(
        vocab_size=512,
        hidden_size=256,
        num_hidden_layers=8,
        num_attention_heads=4,
        intermediate_size=1024,
        max_position_embeddings=tokens,
        heads=("mlm",),
        remat=remat,
        unroll=unroll,
    )
    model = build_model(config)
    optimizer, schedule = make_optimizer(OptimizerConfig(), ScheduleConfig(), 100, model.axes())
    shapes = {
        **dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), ((tokens,), np.int32)),
        **dict.fromkeys(("masked_lm_positions", "masked_lm_ids"), ((MASKED,), np.int32)),
        "masked_lm_weights": ((MASKED,), np.float32),
    }
    mesh = make_mesh(MeshConfig(*sizes), jax.devices())
    _, memory = compile_step(
        model, PretrainingObjective(next_sentence=False), optimizer, schedule, shapes, mesh,
        batch_size=rows, accumulate=1,
    )  # fmt: skip
    return memory.temporaries


@pytest.mark.parametrize(
    ("sizes", "rows", "tokens", "remat", "most"),
    [
        # Activations are nearly all of it: kept, they would be three times the memory.
        ((8, 1, 1), 64, 128, True, 1.15),
        # Two rows of 64 on a device: gathered kernels that wait would be half of it.
        ((1, 8, 1), 16, 64, False, 1.25),
    ],
    ids=["remat", "fsdp"],
)
def test_unrolled_layers_free_what_a_loop_frees(sizes, rows, tokens, remat, most):
    loop, unrolled = (
        temporaries(sizes, rows, tokens, remat=remat, unroll=unroll) for unroll in (1, None)
    )
    assert unrolled < most * loop, (unrolled / 2**20, loop / 2**20)
