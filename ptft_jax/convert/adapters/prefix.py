"""Prefix-tuning as PEFT writes it (`peft.PrefixTuningConfig`, `PeftModel.get_prompt`)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ptft_jax.convert.adapters.form import Tensors
from ptft_jax.convert.adapters.virtual import TENSOR, VirtualTokens
from ptft_jax.convert.bert import Row
from ptft_jax.errors import DataError
from ptft_jax.models.config import AdapterConfig, EncoderConfig

# `TENSOR` has of each virtual token the keys of layer 0, its values, the keys of layer 1, … These
# are names of our own, for [U, N x H] of each layer.
_NAME, _KINDS = "encoder.layer.{layer}.prefix.", ("keys", "values")


class PrefixTuning(VirtualTokens):
    """See `VirtualTokens`."""

    peft_type, name = "PREFIX_TUNING", "prefix"
    only: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "prefix_projection": (False, None),
        **VirtualTokens.only,
    }

    def rows(self, adapter: AdapterConfig) -> list[Row]:
        path = "encoder.layers.attention.adapter."
        return [Row(path + kind, "LUNH", _NAME + kind, "U NH") for kind in _KINDS]

    def settings(self, config: EncoderConfig, targets: str) -> dict[str, Any]:
        own = {"encoder_hidden_size": config.hidden_size, "prefix_projection": False}
        return super().settings(config, targets) | own

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
