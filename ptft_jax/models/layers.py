"""The pieces that layers are made of: declared parameters, linear maps, LayerNorm.

Shape suffixes: B batch, T tokens, D hidden.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.nn.initializers import Initializer

from ptft_jax.models import partition
from ptft_jax.models.config import EncoderConfig


def declare(
    rngs: nnx.Rngs,
    shape: tuple[int, ...],
    axes: partition.Axes,
    init: Initializer,
    stack: int | None,
) -> nnx.Param:
    """Declares one parameter: shape, logical axes and initializer in one place.

    Args:
        rngs: source of the initializer's key (stream `params`).
        shape: shape in one layer.
        axes: logical axis of each dimension of `shape`.
        init: initializer; it must not derive a scale from the shape (BERT's never does).
        stack: number of layers stacked in a leading axis; None for a parameter outside the stack.
    """
    if stack is not None:
        shape, axes = (stack, *shape), ("layers", *axes)
    return nnx.Param(init(rngs.params(), shape, jnp.float32), logical_axes=axes)


class Linear(nnx.Module):
    """An affine map over any number of input and output dimensions, written as an einsum."""

    def __init__(
        self,
        config: EncoderConfig,
        equation: str,
        inputs: dict[str, int],
        outputs: dict[str, int],
        *,
        rngs: nnx.Rngs,
        dtype: str | None = None,
        stack: int | None = None,
        reduces_tensor: bool = False,
        init: Initializer | None = None,
        adapter: Any = None,
    ):
        """Declares kernel and bias.

        Args:
            config: says how wide the kernel's fresh values are; the bias starts at zero.
            equation: einsum of rows and kernel, e.g. "rd,dnh->rnh"; R = B x T rows.
            inputs: size by logical axis of the dimensions summed over, in the kernel's order.
            outputs: size by logical axis of the dimensions produced.
            rngs: source of the initializer's key.
            dtype: dtype of the product, None for the config's; parameters stay float32.
            stack: layers stacked in a leading axis, or None.
            reduces_tensor: the summed dimension is split over `tensor`, so the output's layout
                (split by example only) must be named for the partial sums to be added.
            init: of the kernel; None: BERT's truncated normal.
            adapter: a `models.adapters.linear.LinearAdapter` beside it; None: nothing.
        """
        self.equation = equation
        self.kernel_axes = (*inputs, *outputs)
        self.bias_axes = tuple(outputs)
        self.dtype = jnp.dtype(dtype or config.dtype)
        self.reduces_tensor = reduces_tensor
        self.adapter = adapter
        shape = (*inputs.values(), *outputs.values())
        zeros = jax.nn.initializers.zeros
        init = init or jax.nn.initializers.truncated_normal(config.initializer_range)
        self.kernel = declare(rngs, shape, self.kernel_axes, init, stack)
        self.bias = declare(rngs, tuple(outputs.values()), self.bias_axes, zeros, stack)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns the map of [B, T, *inputs], [B, T, *outputs]."""
        return add_parameter(self.multiply(x), self.bias[...], self.bias_axes)

    def multiply(self, x: jax.Array) -> jax.Array:
        """Returns the map without its bias, for who adds it together with what comes next."""
        batch, tokens, *_ = x.shape
        # Over the rows of all examples: the kernel's gradient would otherwise contract two leading
        # dimensions, for which XLA's CPU backend transposes the activations first and leaves its
        # fast matrix product (1.8 times the time of this product).
        rows = partition.rows_of(x.astype(self.dtype))
        if self.adapter is not None:
            rows = self.adapter.before(rows)
        y = product(
            self.equation,
            rows,
            self.kernel[...],
            self.kernel_axes,
            self.dtype,
            reduces_tensor=self.reduces_tensor,
        )
        if self.adapter is not None:
            y = self.adapter.after(rows, y, self)
        split = partition.activation_sharding(self.bias_axes)
        return jnp.reshape(y, (batch, tokens, *y.shape[1:]), out_sharding=split)


def adapted(
    config: EncoderConfig,
    target: str,
    equation: str,
    inputs: dict[str, int],
    outputs: dict[str, int],
    *,
    rngs: nnx.Rngs,
    stack: int | None,
    reduces_tensor: bool = False,
) -> Linear:
    """Returns a linear map, with its adapter where the config has one for it.

    `target` is its name among `models.config.TARGETS`; the other arguments are `Linear`'s.
    """
    adapter = None
    if config.adapter is not None and target in config.adapter.targets:
        from ptft_jax.models.adapters.linear import linear_adapter

        adapter = linear_adapter(config, target, equation, inputs, outputs, rngs=rngs, stack=stack)
    return Linear(
        config,
        equation,
        inputs,
        outputs,
        rngs=rngs,
        stack=stack,
        reduces_tensor=reduces_tensor,
        adapter=adapter,
    )


def sublayer_adapter(
    config: EncoderConfig, sublayer: str, *, rngs: nnx.Rngs, stack: int | None
) -> Any:
    """Returns the adapter of a whole sublayer, "attention" or "feed_forward"; None without one."""
    name = None if config.adapter is None else config.adapter.name
    if name == "prefix" and sublayer == "attention":
        from ptft_jax.models.adapters.prefix import Prefix

        return Prefix(config, rngs=rngs, stack=stack)
    at_output = name in ("pfeiffer", "parallel") and sublayer == "feed_forward"
    if name == "houlsby" or at_output:
        from ptft_jax.models.adapters.bottleneck import Bottleneck

        return Bottleneck(config, rngs=rngs, stack=stack)
    return None


def prompt_of(config: EncoderConfig, *, rngs: nnx.Rngs) -> Any:
    """Returns the adapter of the word embeddings, a prompt; None without one."""
    if config.adapter is None or not config.adapter.prompt_tokens:
        return None
    from ptft_jax.models.adapters.prompt import Prompt

    return Prompt(config, rngs=rngs)


class LayerNorm(nnx.Module):
    """Layer normalisation over the last dimension, with its statistics in float32."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs, stack: int | None = None):
        self.eps = config.layer_norm_eps
        self.dtype = jnp.dtype(config.dtype)
        shape = (config.hidden_size,)
        self.scale = declare(rngs, shape, ("embed",), jax.nn.initializers.ones, stack)
        self.bias = declare(rngs, shape, ("embed",), jax.nn.initializers.zeros, stack)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.astype(jnp.float32)
        centred = x - jnp.mean(x, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
        normed = centred * jax.lax.rsqrt(variance + self.eps)
        scaled = scale_by_parameter(normed, self.scale[...], ("embed",))
        return add_parameter(scaled, self.bias[...], ("embed",)).astype(self.dtype)


def product(
    equation: str,
    x: jax.Array,
    kernel: jax.Array,
    axes: partition.Axes,
    dtype: jnp.dtype,
    *,
    out_dtype: jnp.dtype | None = None,
    reduces_tensor: bool = False,
) -> jax.Array:
    """Multiplies rows with a parameter in `dtype`, and sums the parameter's gradient in float32.

    Left to autodiff, the gradient has the dtype of the parameter's copy: bfloat16 sums over tens of
    thousands of rows and over devices, which are up to 3 % off.

    Args:
        equation: einsum of rows and kernel, e.g. "rd,dnh->rnh".
        x: [R, …], of dtype `dtype`.
        kernel: float32 parameter, as stored.
        axes: the kernel's logical axes.
        dtype: of both factors, and of the cotangent in the backward products.
        out_dtype: of the result; None means `dtype`.
        reduces_tensor: a summed dimension is split over `tensor`.
    """
    inputs, output = equation.split("->")
    rows, weights = inputs.split(",")

    def forward(x: jax.Array, kernel: jax.Array):
        y = jnp.einsum(
            equation,
            x,
            partition.gather(kernel.astype(dtype), axes),
            preferred_element_type=out_dtype,
            out_sharding=partition.batch_sharding(len(output)) if reduces_tensor else None,
        )
        return y, (x, kernel)

    def backward(operands: tuple[jax.Array, jax.Array], g: jax.Array):
        x, kernel = operands
        g = g.astype(dtype)
        into = partition.layout_of(x)
        into = None if into is None else partition.gradient_spec(into)
        gathered = partition.gather(kernel.astype(dtype), axes)
        if len(output) > 2:
            # One dimension to sum over: for several, XLA writes the cotangent in another order.
            merged_g, merged = partition.merged(g, 1), partition.merged(gathered, len(rows) - 1)
            dx = jnp.einsum(f"rz,{rows[1:]}z->{rows}", merged_g, merged, out_sharding=into)
        else:
            dx = jnp.einsum(f"{output},{weights}->{rows}", g, gathered, out_sharding=into)
        left, right = (x, g) if weights[0] in rows else (g, x)
        return dx, partition.sum_of_products(left, right, axes, partition.layout_of(kernel))

    return with_gradient(forward, backward)(x, kernel)


def add_parameter(x: jax.Array, parameter: jax.Array, axes: partition.Axes) -> jax.Array:
    """Adds a parameter to each row, [*rows, *parameter.shape], in `x`'s dtype.

    It is `x + parameter`, but for the parameter's gradient, which is summed over rows in float32.
    """
    stored = partition.layout_of(parameter)

    def forward(x: jax.Array, parameter: jax.Array):
        return x + partition.whole(parameter.astype(x.dtype), axes), None

    def backward(_: None, g: jax.Array):
        return g, partition.sum_of_rows(g, axes, stored)

    return with_gradient(forward, backward)(x, parameter)


def scale_by_parameter(x: jax.Array, parameter: jax.Array, axes: partition.Axes) -> jax.Array:
    """Multiplies each row of a float32 array with a parameter; the gradient as above."""
    stored = partition.layout_of(parameter)

    def forward(x: jax.Array, parameter: jax.Array) -> tuple[jax.Array, Any]:
        # Named, so that it is kept for the backward pass: too small to be gathered twice.
        scale = checkpoint_name(partition.whole(parameter, axes), "scale")
        return x * scale, (x, scale)

    def backward(operands: tuple[jax.Array, jax.Array], g: jax.Array):
        x, scale = operands
        return g * scale, partition.sum_of_rows(g * x, axes, stored)

    return with_gradient(forward, backward)(x, parameter)


def with_gradient(start: Callable, finish: Callable) -> Callable:
    """Returns the function whose forward pass is `start`, which returns what to keep as well."""
    compute = jax.custom_vjp(lambda *arrays: start(*arrays)[0])
    compute.defvjp(start, finish)
    return compute


def activation(name: str) -> Callable[[jax.Array], jax.Array]:
    """Returns the function behind a Hugging Face `hidden_act` name.

    "gelu" is the exact one, x Φ(x) with the error function (Hendrycks & Gimpel 2016, eq. 1), which
    the released BERT models were trained with in PyTorch form.
    """
    return {
        "gelu": lambda x: 0.5 * x * (1.0 + jax.lax.erf(x / math.sqrt(2.0))),
        "gelu_new": lambda x: jax.nn.gelu(x, approximate=True),
        "gelu_pytorch_tanh": lambda x: jax.nn.gelu(x, approximate=True),
        "relu": jax.nn.relu,
    }[name]
