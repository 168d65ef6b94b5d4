"""Models, meshes and what computes a model, in words."""

import math
from collections.abc import Iterable

import jax
from jax.sharding import Mesh

from ptft_jax.models import attention, fused
from ptft_jax.models.build import Model, Params
from ptft_jax.models.config import EncoderConfig
from ptft_jax.models.partition import Device, current_device
from ptft_jax.runs.config import Config


def describe_model(model: Model) -> str:
    """Returns layers, width and number of parameters in words."""
    config = model.config
    sizes = _leaves(model.abstract())
    return (
        f"BERT, {config.num_hidden_layers} layers x {config.hidden_size}, "
        f"{config.num_attention_heads} heads, {sum(sizes):,} parameters, {config.dtype}"
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


def describe_average(config: Config) -> dict[str, str]:
    """Returns what is averaged, in words; {} where nothing is."""
    if not config.ema:
        return {}
    text = f"a moving average of the parameters (decay {config.ema:g}) is scored, saved and used"
    return {"average": f"{text}; training goes on without it"}


def device_of(mesh: Mesh) -> Device:
    """Returns the kind of a mesh's devices."""
    with jax.set_mesh(mesh):
        return current_device()


def describe_backends(
    config: EncoderConfig, rows: Iterable[tuple[int, bool]], device: Device
) -> dict[str, str]:
    """Returns what computes attention, in training and in evaluation, and what between products.

    Args:
        config: the model.
        rows: the kinds of rows there are: their tokens, and whether they hold several examples.
        device: where.

    Raises:
        ConfigError: what the config names cannot do it.
    """
    uses: dict[tuple[str, str], list[str]] = {}
    rates = {"training": config.attention_probs_dropout_prob, "evaluation": 0.0}
    for tokens, packed in rows:
        for use, rate in rates.items():
            request = attention.Request(config.dtype, config.head_size, tokens, packed, rate)
            chosen = attention.choose(config.attention, request, device)
            uses.setdefault(chosen, []).append(f"{use} at {tokens}{' packed' * packed}")
    said = [
        f"{name} ({why})" + (f" in {', '.join(where)}" if len(uses) > 1 else "")
        for (name, why), where in uses.items()
    ]
    kernels = fused.uses_kernels(config.fused, device)
    return {"attention": "; ".join(said), "between products": "kernel" if kernels else "xla"}


def remedies(config: Config, model: Model, mesh: Mesh) -> list[str]:
    """Returns what to change where an update or an evaluation does not fit the devices."""
    rows = config.batch_size // (config.accumulate * mesh.shape["data"] * mesh.shape["fsdp"])
    found = []
    if rows > 1:
        found.append(f"raise accumulate (now {config.accumulate}; {rows} rows at once on a device)")
    if not model.config.remat:
        found.append("set model.remat=True (now False)")
    found.append(f"raise mesh.fsdp (now {mesh.shape['fsdp']}, with {mesh.size} devices in all)")
    if "eval_batch_size" in config:
        part = f"{config.batch_size // config.accumulate}, as in training"
        now = config.eval_batch_size or part
        found.append(f"lower eval_batch_size (now {now}) if it was in an evaluation")
    return found
