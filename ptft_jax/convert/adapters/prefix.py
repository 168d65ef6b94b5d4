"""Prefix-tuning as PEFT writes it (`peft.PrefixTuningConfig`, `PeftModel.get_prompt`)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ptft_jax.convert.adapters.form import Form, Tensors
from ptft_jax.convert.bert import Row
from ptft_jax.errors import DataError
from ptft_jax.models.config import AdapterConfig, EncoderConfig

# All of it: of each virtual token the keys of layer 0, its values, the keys of layer 1, …
TENSOR = "prompt_embeddings"
# Names of our own, for [U, N x H] of each layer.
_NAME, _KINDS = "encoder.layer.{layer}.prefix.", ("keys", "values")


class PrefixTuning(Form):
    """See `Form`; it acts on no map."""

    peft_type = "PREFIX_TUNING"
    before = "base_model."
    only: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "prefix_projection": (False, None),
        "num_transformer_submodules": (1, None),
    }

    def rows(self, adapter: AdapterConfig) -> list[Row]:
        path = "encoder.layers.attention.adapter."
        return [Row(path + kind, "LUNH", _NAME + kind, "U NH") for kind in _KINDS]

    def settings(self, config: EncoderConfig, targets: str) -> dict[str, Any]:
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

    def read_settings(self, content: Mapping[str, Any]) -> dict[str, Any]:
        return {"name": "prefix", "num_virtual_tokens": content.get("num_virtual_tokens", 0)}

    def written(self, tensors: Tensors, layers: int) -> Tensors:
        others = {name: one for name, one in tensors.items() if ".prefix." not in name}
        own = {name[name.find("encoder.layer.") :]: one for name, one in tensors.items()}
        return {**others, TENSOR: np.concatenate([own[n] for n in _names(layers)], axis=1)}

    def read(self, tensors: Tensors, content: Mapping[str, Any], file: Path) -> Tensors:
        virtual, layers = tensors.get(TENSOR), content.get("num_layers")
        if virtual is None or virtual.ndim != 2 or not layers or virtual.shape[1] % (2 * layers):
            raise DataError(f"{file}: expected {TENSOR} of {layers} layers.")
        parts = np.split(virtual, 2 * layers, axis=1)
        names = [self.before + name for name in _names(layers)]
        others = {name: one for name, one in tensors.items() if name != TENSOR}
        return {**others, **dict(zip(names, parts, strict=True))}


def _names(layers: int) -> list[str]:
    return [_NAME.format(layer=layer) + kind for layer in range(layers) for kind in _KINDS]
