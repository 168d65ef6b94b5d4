"""LoRA and DoRA as PEFT writes them (`peft.LoraConfig`, `peft.tuners.lora`)."""

from collections.abc import Mapping
from typing import Any, ClassVar

from ptft_jax.convert.adapters.form import Form
from ptft_jax.convert.bert import Row
from ptft_jax.models.config import EncoderConfig


class Lora(Form):
    """See `Form`."""

    peft_type = "LORA"
    only: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "bias": ("none",),
        "alpha_pattern": ({}, None),
        "rank_pattern": ({}, None),
        "lora_bias": (False, None),
        "fan_in_fan_out": (False, None),
        "layers_to_transform": (None,),
        "use_qalora": (False, None),
    }

    def map_rows(self, ours: str, module: str, inputs: str, outputs: str, name: str) -> list[Row]:
        found = [
            Row(f"{ours}.a", f"L{inputs}R", f"{module}.lora_A.weight", f"R {inputs}"),
            Row(f"{ours}.b", f"LR{outputs}", f"{module}.lora_B.weight", f"{outputs} R"),
        ]
        if name == "dora":
            magnitude = f"{module}.lora_magnitude_vector"
            found.append(Row(f"{ours}.magnitude", f"L{outputs}", magnitude, outputs))
        return found

    def settings(self, config: EncoderConfig, targets: str) -> dict[str, Any]:
        adapter = config.adapter
        assert adapter is not None
        whole = float(adapter.alpha).is_integer()
        return {
            "target_modules": targets,
            "r": adapter.rank,
            "lora_alpha": int(adapter.alpha) if whole else adapter.alpha,
            "lora_dropout": 0.0,
            "use_rslora": adapter.rank_stabilized,
            "use_dora": adapter.name == "dora",
            "bias": "none",
        }

    def read_settings(self, content: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "name": "dora" if content.get("use_dora") else "lora",
            "rank": content.get("r", 8),
            "alpha": content.get("lora_alpha", 8),
            "rank_stabilized": bool(content.get("use_rslora")),
        }
