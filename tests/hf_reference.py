"""What the tests against Hugging Face share: reference models, batches, the measure of error."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers

from ptft_jax.convert.bert import ARCHITECTURES, from_hf
from ptft_jax.models.config import EncoderConfig

SMALL = {
    "vocab_size": 99,  # padded to 128 here
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 80,
    "max_position_embeddings": 40,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def reference(heads, seed=0, **changes):
    """Returns a PyTorch model with random weights that no part of the network can hide behind.

    Freshly initialised weights (std 0.02, zero biases, unit scales) leave attention almost even and
    biases untested; these are an order larger.
    """
    if "span" in heads:  # whose class has an output for each label
        changes["num_labels"] = 2
    hf_config = transformers.BertConfig(**{**SMALL, **changes})
    model = getattr(transformers, ARCHITECTURES[heads])(hf_config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.2 * noise if name.endswith("LayerNorm.weight") else 0.15 * noise)
    return model


def tensors_of(model):
    """Returns a PyTorch model's state as NumPy arrays."""
    return {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}


def our_side(model, heads, **ours):
    """Returns our config and parameters with the weights of a PyTorch model."""
    config = EncoderConfig.from_hf(model.config.to_dict(), heads=heads, **ours)
    return config, jax.tree.map(jnp.asarray, from_hf(tensors_of(model), config))


def gradients_of(model):
    """Returns the gradients of every parameter of a PyTorch model by name."""
    return {name: p.grad.numpy().copy() for name, p in model.named_parameters() if p.requires_grad}


def random_batch(seed=0, rows=5, tokens=23, masked=4, vocab_size=99):
    """Returns a pretraining batch with padded rows, two token types and padded masked positions."""
    rng = np.random.default_rng(seed)
    lengths = np.r_[tokens, rng.integers(masked + 2, tokens, rows - 1)]
    attention_mask = (np.arange(tokens) < lengths[:, None]).astype(np.int32)
    split = rng.integers(1, lengths)
    weights = (np.arange(masked) < rng.integers(1, masked + 1, rows)[:, None]).astype(np.float32)
    positions = np.stack([rng.permutation(length - 1)[:masked] + 1 for length in lengths])
    ids = rng.integers(1, vocab_size, (rows, tokens))
    return {
        "input_ids": (ids * attention_mask).astype(np.int32),
        "attention_mask": attention_mask,
        "token_type_ids": ((np.arange(tokens) >= split[:, None]) * attention_mask).astype(np.int32),
        "masked_lm_positions": (positions * weights).astype(np.int32),
        "masked_lm_ids": rng.integers(1, vocab_size, (rows, masked)).astype(np.int32),
        "masked_lm_weights": weights,
        "pooled_positions": np.zeros((rows, 1), np.int32),
        "next_sentence_labels": rng.integers(0, 2, (rows, 1)).astype(np.int32),
        "next_sentence_weights": np.ones((rows, 1), np.float32),
    }


def torch_inputs(batch):
    """Returns the encoder's inputs as int64 tensors."""
    names = ("input_ids", "attention_mask", "token_type_ids")
    return {name: torch.tensor(batch[name]).long() for name in names}


def torch_pretraining_labels(batch):
    """Returns `labels` (-100 where nothing is predicted) and `next_sentence_label`."""
    labels = np.full(batch["input_ids"].shape, -100)
    rows, slots = np.nonzero(batch["masked_lm_weights"])
    labels[rows, batch["masked_lm_positions"][rows, slots]] = batch["masked_lm_ids"][rows, slots]
    return {
        "labels": torch.tensor(labels),
        "next_sentence_label": torch.tensor(batch["next_sentence_labels"][:, 0]).long(),
    }


def relative(ours, theirs):
    """Returns the largest difference over the largest value of the reference."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def relative_gradients(ours, theirs):
    """Returns `relative` for each parameter, after checking that both sides have the same ones.

    A key bias moves all scores of a query alike, which softmax ignores: its gradient is zero but
    for rounding, so its error is measured against the query bias's gradient beside it. The one
    bias of a softmax over tokens or choices is alike: errors are not measured against less than a
    hundredth of the largest gradient.
    """
    assert ours.keys() == theirs.keys()
    errors = {}
    rounding = 1e-2 * max(np.abs(gradient).max() for gradient in theirs.values())
    for name, reference_gradient in theirs.items():
        scale = theirs[name.replace(".self.key.bias", ".self.query.bias")]
        difference = np.abs(ours[name].astype(np.float64) - reference_gradient).max()
        errors[name] = float(difference / max(np.abs(scale).max(), rounding))
    return errors
