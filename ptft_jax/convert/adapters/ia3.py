"""(IA)³ as PEFT writes it (`peft.IA3Config`, `peft.tuners.ia3`)."""

from collections.abc import Mapping
from typing import Any, ClassVar

from ptft_jax.convert.adapters.form import Form
from ptft_jax.convert.bert import Row
from ptft_jax.models.config import EncoderConfig


class Ia3(Form):
    """See `Form`."""

    peft_type = "IA3"
    only: ClassVar[Mapping[str, tuple[Any, ...]]] = {"fan_in_fan_out": (False, None)}

    def map_rows(self, ours: str, module: str, inputs: str, outputs: str, name: str) -> list[Row]:
        scales_inputs = module.endswith("output.dense")
        axes = inputs if scales_inputs else outputs
        # The other axis of PEFT's matrix has one entry.
        named = f"1 {axes}" if scales_inputs else f"{axes} 1"
        return [Row(f"{ours}.scale", f"L{axes}", f"{module}.ia3_l", named)]

    def settings(self, config: EncoderConfig, targets: str) -> dict[str, Any]:
        # Of these maps what goes in is scaled.
        return {"target_modules": targets, "feedforward_modules": r".*\.output\.dense"}

    def read_settings(self, content: Mapping[str, Any]) -> dict[str, Any]:
        return {"name": "ia3"}
