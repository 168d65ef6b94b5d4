"""Prefix-tuning as PEFT writes it (`peft.PrefixTuningConfig`, `PeftModel.get_prompt`)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ptft_jax.convert.bert import Row
from ptft_jax.models.config import EncoderConfig

PEFT_TYPE = "PREFIX_TUNING"
# What its files put before the names of the model's own tensors.
BEFORE = "base_model."
ONLY: dict[str, tuple[Any, ...]] = {
    "prefix_projection": (False, None),
    "num_transformer_submodules": (1, None),
}
# All of it: of each virtual token the keys of layer 0, its values, the keys of layer 1, …
TENSOR = "prompt_embeddings"
_NAME, _KINDS = "encoder.layer.{layer}.prefix.", ("keys", "values")


def rows() -> list[Row]:
    """Returns the correspondence to names of our own, [U, N x H] of each layer."""
    path = "encoder.layers.attention.adapter."
    return [Row(path + kind, "LUNH", _NAME + kind, "U NH") for kind in _KINDS]


def joined(tensors: Mapping[str, np.ndarray], layers: int) -> np.ndarray:
    """Returns PEFT's tensor for those of `rows`."""
    return np.concatenate([tensors[name] for name in _names(layers)], axis=1)


def parted(tensor: np.ndarray, layers: int) -> dict[str, np.ndarray]:
    """Returns the tensors of `rows` in PEFT's."""
    return dict(zip(_names(layers), np.split(tensor, 2 * layers, axis=1), strict=True))


def settings(config: EncoderConfig, targets: str) -> dict[str, Any]:
    """Returns the keys of `adapter_config.json` that are prefix-tuning's own."""
    assert config.adapter is not None
    return {
        "num_virtual_tokens": config.adapter.num_virtual_tokens,
        "num_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "token_dim": config.hidden_size,
        "encoder_hidden_size": config.hidden_size,
        "num_transformer_submodules": 1,
        "prefix_projection": False,
    }


def read_settings(content: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the keys of `AdapterConfig` that an `adapter_config.json` says."""
    return {"name": "prefix", "num_virtual_tokens": content.get("num_virtual_tokens", 0)}


def _names(layers: int) -> list[str]:
    return [_NAME.format(layer=layer) + kind for layer in range(layers) for kind in _KINDS]
