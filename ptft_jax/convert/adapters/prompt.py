"""Prompt-tuning and P-tuning as PEFT writes them (`peft.PromptTuningConfig`, `peft.tuners`)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from ptft_jax.convert.adapters.form import Form, Tensors
from ptft_jax.convert.adapters.prefix import TENSOR
from ptft_jax.convert.bert import Row
from ptft_jax.errors import DataError
from ptft_jax.models.config import AdapterConfig, EncoderConfig

_NAME = "embeddings.prompt"  # of our own


class PromptTuning(Form):
    """See `Form`; it acts on no map."""

    peft_type = "PROMPT_TUNING"
    before = "base_model."
    only: ClassVar[Mapping[str, tuple[Any, ...]]] = {"num_transformer_submodules": (1, None)}

    def rows(self, adapter: AdapterConfig) -> list[Row]:
        return [Row("encoder.embeddings.adapter.tokens", "UD", _NAME, "U D")]

    def settings(self, config: EncoderConfig, targets: str) -> dict[str, Any]:
        assert config.adapter is not None
        return {
            "num_virtual_tokens": config.adapter.num_virtual_tokens,
            "num_layers": config.num_hidden_layers,
            "num_attention_heads": config.num_attention_heads,
            "token_dim": config.hidden_size,
            "num_transformer_submodules": 1,
        }

    def read_settings(self, content: Mapping[str, Any]) -> dict[str, Any]:
        return {"name": "prompt", "num_virtual_tokens": content.get("num_virtual_tokens", 0)}

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
        known = super().settings(config, targets)
        return {**known, "encoder_reparameterization_type": "MLP"} | {
            "encoder_hidden_size": config.hidden_size
        }
