"""(IA)³ as PEFT writes it (`peft.IA3Config`, `peft.tuners.ia3`)."""

from collections.abc import Mapping
from typing import Any

from ptft_jax.convert.bert import Row
from ptft_jax.models.config import EncoderConfig

PEFT_TYPE = "IA3"
BEFORE = "base_model.model."
ONLY: dict[str, tuple[Any, ...]] = {"fan_in_fan_out": (False, None)}


def rows(ours: str, module: str, inputs: str, outputs: str, name: str) -> list[Row]:
    """Returns the correspondence of one map's factors; arguments as in `lora.rows`."""
    scales_inputs = module.endswith("output.dense")
    axes = inputs if scales_inputs else outputs
    # The other axis of PEFT's matrix has one entry.
    named = f"1 {axes}" if scales_inputs else f"{axes} 1"
    return [Row(f"{ours}.scale", f"L{axes}", f"{module}.ia3_l", named)]


def settings(config: EncoderConfig, targets: str) -> dict[str, Any]:
    """Returns the keys of `adapter_config.json` that are (IA)³'s own."""
    # Of these maps what goes in is scaled.
    return {"target_modules": targets, "feedforward_modules": r".*\.output\.dense"}


def read_settings(content: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the keys of `AdapterConfig` that an `adapter_config.json` says."""
    return {"name": "ia3"}
