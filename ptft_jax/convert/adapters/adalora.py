"""AdaLoRA as PEFT writes it (`peft.AdaLoraConfig`, `peft.tuners.adalora`)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ptft_jax.convert.adapters.form import Tensors
from ptft_jax.convert.adapters.lora import Lora
from ptft_jax.convert.bert import Row
from ptft_jax.models.config import EncoderConfig


class AdaLora(Lora):
    """See `Form`."""

    peft_type = "ADALORA"
    only: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        name: allowed for name, allowed in Lora.only.items() if name != "rank_pattern"
    }

    def map_rows(self, ours: str, module: str, inputs: str, outputs: str, name: str) -> list[Row]:
        return [
            Row(f"{ours}.a", f"L{inputs}R", f"{module}.lora_A", f"R {inputs}"),
            Row(f"{ours}.e", "LR", f"{module}.lora_E", "R 1"),
            Row(f"{ours}.b", f"LR{outputs}", f"{module}.lora_B", f"{outputs} R"),
        ]

    def settings(self, config: EncoderConfig, targets: str) -> dict[str, Any]:
        assert config.adapter is not None
        known = super().settings(config, targets)
        known = {name: value for name, value in known.items() if name not in ("r", "use_dora")}
        own = {"init_r": config.adapter.initial_rank, "target_r": config.adapter.rank}
        # PEFT wants to know a length of training, which is over.
        return {**known, **own, "total_step": 1, "rank_pattern": None}

    def read_settings(self, content: Mapping[str, Any]) -> dict[str, Any]:
        first = content.get("init_r", 12)
        return {
            "name": "adalora",
            "rank": min(content.get("target_r", 8), first),
            "initial_rank": first,
            "alpha": content.get("lora_alpha", 8),
        }

    def read(self, tensors: Tensors, content: Mapping[str, Any], file: Path) -> Tensors:
        """Puts zeros where PEFT has cut away what the budget had dropped."""
        found = dict(tensors)
        for name, kept in (content.get("rank_pattern") or {}).items():
            module = name.removeprefix(self.before).removesuffix(".lora_E")
            stem, places = self.before + module, np.flatnonzero(kept)
            for part, axis in (("lora_A", 0), ("lora_E", 0), ("lora_B", 1)):
                cut = np.moveaxis(found[f"{stem}.{part}"], axis, 0)
                whole = np.zeros((len(kept), *cut.shape[1:]), np.float32)
                whole[places] = cut
                found[f"{stem}.{part}"] = np.moveaxis(whole, 0, axis)
        return found
