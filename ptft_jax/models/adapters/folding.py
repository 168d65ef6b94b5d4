"""Adapters are folded into the kernels that they stand beside, and begin from them."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ptft_jax.errors import ConfigError
from ptft_jax.models.adapters.linear import adapter_class
from ptft_jax.models.build import Params
from ptft_jax.models.config import ADAPTERS, TARGETS, EncoderConfig


def folded(params: Params, config: EncoderConfig) -> tuple[Params, EncoderConfig]:
    """Returns the parameters of the plain model that computes the same, and its config.

    Args:
        params: on the host; without adapters they are returned as they are.
        config: of the model.

    Raises:
        ConfigError: an adapter that no kernel can stand for.
    """
    adapter = config.adapter
    if adapter is None:
        return params, config
    if not ADAPTERS[adapter.name]:
        raise ConfigError(
            f"adapters of the kind {adapter.name} cannot be folded into the weights, as no linear "
            "map computes the same: expected one of linear maps, like lora, or the model without."
        )
    fold = adapter_class(adapter.name).folded

    def plain(linear: Params, target: str) -> Params:
        own = linear.get("adapter")
        if own is None:
            return linear
        kernel, bias = (np.asarray(linear[name], np.float32) for name in ("kernel", "bias"))
        kernel, bias = fold(own, kernel, bias, adapter, target)
        return {"kernel": kernel, "bias": bias}

    return _mapped(params, plain), config.replace(adapter=None)


def with_initial(params: Params, config: EncoderConfig) -> Params:
    """Returns parameters with those of their adapters that begin as the kernels say.

    Args:
        params: on the host, of a model without adapters.
        config: of the model that is to be trained.
    """
    adapter = config.adapter
    if adapter is None or not adapter.targets:
        return params
    initial = adapter_class(adapter.name).initial

    def begun(linear: Params, target: str) -> Params:
        own = initial(linear["kernel"], target) if target in adapter.targets else {}
        return {**linear, "adapter": own} if own else linear

    return _mapped(params, begun)


def _mapped(params: Params, change: Callable[[Params, str], Params]) -> Params:
    """Returns parameters in which a function of it and its name has changed each linear map."""
    layers: dict[str, Any] = {
        name: dict(part) for name, part in params["encoder"]["layers"].items()
    }
    for target in TARGETS:
        part, name = target.split("/")
        layers[part][name] = change(layers[part][name], target)
    return {**params, "encoder": {**params["encoder"], "layers": layers}}
