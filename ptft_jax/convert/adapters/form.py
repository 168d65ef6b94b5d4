"""What PEFT's form of a kind of adapter is like; see the modules of the kinds."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ptft_jax.convert.bert import TABLE, Row
from ptft_jax.models.config import AdapterConfig, EncoderConfig

Tensors = dict[str, np.ndarray]


class Form:
    """PEFT's names and settings of an adapter of linear maps.

    Attributes:
        peft_type: what `adapter_config.json` calls it.
        before: what its files put before the names of the model's own tensors.
        only: settings that change what is computed, with the only values that are read.
    """

    peft_type: str
    before = "base_model.model."
    only: ClassVar[Mapping[str, tuple[Any, ...]]] = {}

    def map_rows(self, ours: str, module: str, inputs: str, outputs: str, name: str) -> list[Row]:
        """Returns the correspondence of one map's parameters.

        Args:
            ours: path of the adapter.
            module: PyTorch's name of the map.
            inputs, outputs: axis letters of the map.
            name: of the adapter.
        """
        raise NotImplementedError

    def rows(self, adapter: AdapterConfig) -> list[Row]:
        """Returns the correspondence of an adapter's parameters, as `convert.bert.TABLE` has it."""
        return [
            row for target in adapter.targets for row in self.map_rows(*_map(target), adapter.name)
        ]

    def settings(self, config: EncoderConfig, targets: str) -> dict[str, Any]:
        """Returns its own keys of `adapter_config.json`; `targets` matches the maps."""
        raise NotImplementedError

    def read_settings(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the keys of `AdapterConfig` that an `adapter_config.json` says."""
        raise NotImplementedError

    def written(self, tensors: Tensors, layers: int) -> Tensors:
        """Returns what the file holds in place of tensors by the names of `rows`."""
        return tensors

    def read(self, tensors: Tensors, content: Mapping[str, Any], file: Path) -> Tensors:
        """Returns the tensors by the names of `rows` in place of what a file holds."""
        return tensors


def module_of(target: str) -> str:
    """Returns what PyTorch calls a linear map within its layer, like "attention.self.query"."""
    return _map(target)[1].partition("{layer}.")[2]


def _map(target: str) -> tuple[str, str, str, str]:
    """Returns of one of `TARGETS` its adapter's path, PyTorch's name, input and output axes."""
    path = f"encoder.layers.{target.replace('/', '.')}"
    kernel = next(row for row in TABLE["encoder"] if row.path == f"{path}.kernel")
    outputs, inputs = kernel.named_axes.split()
    return f"{path}.adapter", kernel.name.removesuffix(".weight"), inputs, outputs
