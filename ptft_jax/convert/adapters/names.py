"""Parameters of adapters under the names that PEFT gives them."""

from typing import Any

from ptft_jax.convert.adapters import adalora, ia3, lora, prefix
from ptft_jax.convert.bert import TABLE, Row
from ptft_jax.models.config import AdapterConfig

# The modules that know PEFT's form of an adapter, by our name of it.
WAYS: dict[str, Any] = {
    "lora": lora,
    "dora": lora,
    "adalora": adalora,
    "ia3": ia3,
    "prefix": prefix,
}


def adapter_rows(adapter: AdapterConfig) -> list[Row]:
    """Returns the correspondence of an adapter's parameters, as `convert.bert.TABLE` has others."""
    rows = WAYS[adapter.name].rows
    if not adapter.targets:
        return rows()
    return [row for target in adapter.targets for row in rows(*_map(target), adapter.name)]


def module_of(target: str) -> str:
    """Returns what PyTorch calls a linear map within its layer, like "attention.self.query"."""
    return _map(target)[1].partition("{layer}.")[2]


def _map(target: str) -> tuple[str, str, str, str]:
    """Returns of one of `TARGETS` its adapter's path, PyTorch's name, input and output axes."""
    path = f"encoder.layers.{target.replace('/', '.')}"
    kernel = next(row for row in TABLE["encoder"] if row.path == f"{path}.kernel")
    outputs, inputs = kernel.named_axes.split()
    return f"{path}.adapter", kernel.name.removesuffix(".weight"), inputs, outputs
