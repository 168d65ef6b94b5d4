"""Models and meshes in words."""

import math

from jax.sharding import Mesh

from ptft_jax.commands.screen import count
from ptft_jax.models.build import Model, Params


def describe_model(model: Model) -> str:
    """Returns layers, width and number of parameters in words."""
    config = model.config
    sizes = _leaves(model.abstract())
    return (
        f"BERT, {config.num_hidden_layers} layers x {config.hidden_size}, "
        f"{config.num_attention_heads} heads, {count(sum(sizes))} parameters, {config.dtype}"
    )


def _leaves(tree: Params) -> list[int]:
    if isinstance(tree, dict):
        return [size for child in tree.values() for size in _leaves(child)]
    return [math.prod(tree.shape)]


def describe_mesh(mesh: Mesh) -> str:
    """Returns the mesh's sizes and kind of device in words."""
    sizes = ", ".join(f"{name} {size}" for name, size in mesh.shape.items())
    device = mesh.devices.flat[0]
    return f"{sizes} ({mesh.devices.size} x {device.device_kind})"
