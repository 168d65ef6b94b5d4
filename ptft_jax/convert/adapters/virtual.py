"""What PEFT's forms of virtual tokens share (`peft.config.PromptLearningConfig`)."""

from collections.abc import Mapping
from typing import Any, ClassVar

from ptft_jax.convert.adapters.form import Form
from ptft_jax.models.config import EncoderConfig

# What a file holds of an adapter, for each virtual token.
TENSOR = "prompt_embeddings"


class VirtualTokens(Form):
    """See `Form`; it acts on no map.

    Attributes:
        name: of the adapter that a folder is read as.
    """

    name: str
    before = "base_model."
    only: ClassVar[Mapping[str, tuple[Any, ...]]] = {"num_transformer_submodules": (1, None)}

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
        return {"name": self.name, "num_virtual_tokens": content.get("num_virtual_tokens", 0)}
