"""Prompt-tuning and P-tuning as PEFT writes them (`peft.PromptTuningConfig`, `peft.tuners`)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ptft_jax.convert.adapters.form import Tensors
from ptft_jax.convert.adapters.virtual import TENSOR, VirtualTokens
from ptft_jax.convert.bert import Row
from ptft_jax.errors import DataError
from ptft_jax.models.config import AdapterConfig, EncoderConfig

_NAME = "embeddings.prompt"  # of our own


class PromptTuning(VirtualTokens):
    """See `VirtualTokens`."""

    peft_type, name = "PROMPT_TUNING", "prompt"

    def rows(self, adapter: AdapterConfig) -> list[Row]:
        return [Row("encoder.embeddings.adapter.tokens", "UD", _NAME, "U D")]

    def written(self, tensors: Tensors, layers: int) -> Tensors:
        return {TENSOR if name.endswith(_NAME) else name: one for name, one in tensors.items()}

    def read(self, tensors: Tensors, content: Mapping[str, Any], file: Path) -> Tensors:
        if TENSOR not in tensors:
            raise DataError(f"{file}: expected {TENSOR}.")
        return {
            self.before + _NAME if name == TENSOR else name: one for name, one in tensors.items()
        }


class PTuning(PromptTuning):
    """The same, since PEFT keeps what the MLP gives, and not the MLP."""

    peft_type = "P_TUNING"

    def settings(self, config: EncoderConfig, targets: str) -> dict[str, Any]:
        own = {
            "encoder_reparameterization_type": "MLP",
            "encoder_hidden_size": config.hidden_size,
        }
        return super().settings(config, targets) | own
