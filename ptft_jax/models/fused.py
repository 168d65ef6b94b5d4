"""What stands between the products of a layer: one call each, by XLA or by a kernel.

Shape suffixes: B batch, T tokens, D hidden, F feed-forward, K words of a dropout key (2), G blocks
of rows.
"""

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec as P

from ptft_jax.errors import ConfigError
from ptft_jax.models import partition
from ptft_jax.models.dropout import RowKeys, dropout
from ptft_jax.models.layers import LayerNorm, activation, add_parameter, with_gradient
from ptft_jax.models.partition import Device, current_device

_HIDDEN, _ROWS = P(partition.BATCH, None, None), P(partition.BATCH, None)


def uses_kernels(wanted: str, device: Device) -> bool:
    """Says whether kernels compute what stands between products.

    Args:
        wanted: "kernel", "xla", or "auto" for kernels wherever they run.
        device: where.

    Raises:
        ConfigError: kernels are wanted where they do not run.
    """
    if wanted == "xla":
        return False
    why = device.refuses_kernels()
    if wanted == "kernel" and why is not None:
        raise ConfigError(f"model.fused=kernel cannot be used here: {why}. Use model.fused=auto.")
    return why is None


def residual_norm(
    x_BTD: jax.Array,
    bias_D: jax.Array,
    residual_BTD: jax.Array,
    norm: LayerNorm,
    keys_BK: RowKeys,
    rate: float,
    wanted: str,
) -> tuple[jax.Array, jax.Array]:
    """Returns LayerNorm(residual + dropout(x + bias)) twice: for the next map and its residual.

    Two results, so that their gradients meet where they are used, and not in a pass of their own.

    Args:
        x_BTD: a sublayer's last product.
        bias_D: its bias, float32.
        residual_BTD: the sublayer's input.
        norm: the LayerNorm.
        keys_BK: dropout key of each row; None turns dropout off.
        rate: of dropout.
        wanted: as in `uses_kernels`.
    """
    if not uses_kernels(wanted, current_device()):
        x_BTD = dropout(add_parameter(x_BTD, bias_D, ("embed",)), rate, keys_BK)
        out_BTD = norm(residual_BTD + x_BTD)
        return out_BTD, out_BTD
    from ptft_jax.models.kernels import residual_norm as kernel  # Pallas loads where it runs only

    batch, tokens, size = x_BTD.shape
    if keys_BK is None:
        rate, split = 0.0, partition.batch_sharding(2)
        keys_BK = jnp.zeros((batch, 2), jnp.uint32, out_sharding=split)
    layouts = [partition.layout_of(one) for one in (bias_D, norm.scale[...], norm.bias[...])]

    def rows(array: jax.Array) -> jax.Array:
        return array.reshape(-1, size)

    def forward(x_BTD, residual_BTD, keys_BK, bias_D, scale_D, shift_D):
        keys_RK = jnp.repeat(keys_BK, tokens, axis=0)
        out, summed, means, inverses = kernel.forward(
            rows(x_BTD), rows(residual_BTD), keys_RK, bias_D, scale_D, shift_D,
            rate=rate, eps=norm.eps, tokens=tokens,
        )  # fmt: skip
        lines = (array.reshape(-1, tokens) for array in (means, inverses))
        return out.reshape(x_BTD.shape), summed.reshape(x_BTD.shape), *lines

    def backward(g_BTD, g_residual_BTD, summed_BTD, means_BT, inverses_BT, keys_BK, scale_D):
        keys_RK = jnp.repeat(keys_BK, tokens, axis=0)
        dx, dresidual, *parts = kernel.backward(
            rows(g_BTD), rows(g_residual_BTD), rows(summed_BTD), means_BT.reshape(-1),
            inverses_BT.reshape(-1), keys_RK, scale_D, rate=rate, tokens=tokens,
        )  # fmt: skip
        return dx.reshape(g_BTD.shape), dresidual.reshape(g_BTD.shape), *parts

    keys, parameter = _ROWS, P(None)
    run_forward = partition.where_it_lies(
        forward, (_HIDDEN, _HIDDEN, keys, *(parameter,) * 3), (_HIDDEN, _HIDDEN, _ROWS, _ROWS)
    )
    run_backward = partition.where_it_lies(
        backward,
        (_HIDDEN, _HIDDEN, _HIDDEN, _ROWS, _ROWS, keys, parameter),
        (_HIDDEN, _HIDDEN, _ROWS, _ROWS, _ROWS),
    )

    def start(x_BTD, residual_BTD, keys_BK, *parameters):
        whole = [partition.whole(one, ("embed",)) for one in parameters]
        whole[1] = checkpoint_name(whole[1], "scale")  # as in `layers.scale_by_parameter`
        out_BTD, *saved = run_forward(x_BTD, residual_BTD, keys_BK, *whole)
        return (out_BTD, out_BTD), (*saved, keys_BK, whole[1])

    def finish(saved, gradients):
        dx, dresidual, *parts = run_backward(*gradients, *saved)
        sums = (
            partition.sum_of_rows(part, ("embed",), stored)
            for part, stored in zip(parts, layouts, strict=True)
        )
        return dx, dresidual, None, *sums

    return with_gradient(start, finish)(
        x_BTD, residual_BTD, keys_BK, bias_D, norm.scale[...], norm.bias[...]
    )


def bias_activation(x_BTF: jax.Array, bias_F: jax.Array, name: str, wanted: str) -> jax.Array:
    """Returns activation(x + bias), [B, T, F]; `name` as in `layers.activation`."""
    if not uses_kernels(wanted, current_device()):
        return activation(name)(add_parameter(x_BTF, bias_F, ("mlp",)))
    from ptft_jax.models.kernels import bias_activation as kernel

    stored = partition.layout_of(bias_F)
    wide, parameter = P(partition.BATCH, None, "tensor"), P("tensor")

    def forward(x_BTF, bias_F):
        x_RF = x_BTF.reshape(-1, x_BTF.shape[-1])
        return kernel.forward(x_RF, bias_F, name).reshape(x_BTF.shape)

    def backward(x_BTF, bias_F, g_BTF):
        x_RF, g_RF = (array.reshape(-1, array.shape[-1]) for array in (x_BTF, g_BTF))
        dx, parts_GF = kernel.backward(x_RF, bias_F, g_RF, name)
        return dx.reshape(x_BTF.shape), parts_GF

    run_forward = partition.where_it_lies(forward, (wide, parameter), wide)
    run_backward = partition.where_it_lies(
        backward, (wide, parameter, wide), (wide, P(partition.BATCH, "tensor"))
    )

    def start(x_BTF, bias_F):
        bias_F = partition.whole(bias_F, ("mlp",))
        return run_forward(x_BTF, bias_F), (x_BTF, bias_F)

    def finish(saved, g_BTF):
        dx, parts_GF = run_backward(*saved, g_BTF)
        return dx, partition.sum_of_rows(parts_GF, ("mlp",), stored)

    return with_gradient(start, finish)(x_BTF, bias_F)
