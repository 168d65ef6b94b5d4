"""Hugging Face's side of `ptft bench train`: the same loss with and without the gathered head."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from ptft_jax.models.config import EncoderConfig
from ptft_jax.runs.bench import work
from ptft_jax.runs.bench.hf import Training
from ptft_jax.training.updates.optimizer import OptimizerConfig


@pytest.mark.parametrize("heads", [("pooler", "mlm", "nsp"), ("mlm",)])
def test_the_gathered_head_computes_the_same_loss(heads, tmp_path, monkeypatch):
    """Otherwise one of the two comparisons would be with another model than BERT."""
    monkeypatch.setenv("TORCH_COMPILE_DISABLE", "1")
    model = EncoderConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        heads=heads,
    )
    rng = np.random.default_rng(0)
    ids = rng.integers(5, 50, (4, 16))
    batch = {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
        "token_type_ids": np.zeros_like(ids),
        "labels": np.where(rng.random((4, 16)) < 0.2, ids, work.NO_LABEL),
    }
    if "nsp" in heads:
        batch["next_sentence_label"] = np.array([0, 1, 1, 0])
    save_file(batch, tmp_path / "batch-00000.safetensors")
    losses = {}
    for gathered in (False, True):
        spec = {
            "config": model.to_hf(),
            "heads": heads,
            "dtype": "float32",
            "device": "cpu",
            "gathered": gathered,
            "remat": False,
            "optimizer": vars(OptimizerConfig(learning_rate=0.01)),
            "accumulate": 1,
            "updates": 2,
        }
        threads = torch.get_num_threads()
        side = Training(json.loads(json.dumps(spec)), tmp_path)
        assert side.warm_up()["note"] == "eager (TORCH_COMPILE_DISABLE=1)"
        losses[gathered] = [side.make_round({})["loss"] for _ in range(3)]
        torch.set_num_threads(threads)
    assert losses[True] == pytest.approx(losses[False], rel=1e-3)
    assert losses[True][2] < 0.9 * losses[True][0]
