"""Multi-head self-attention (Vaswani et al. 2017, section 3.2), and the ways to compute it.

Ways stand behind one seam: what each can do, which one `auto` takes, the call.

xla      plain XLA operations: every device, length and dtype. The reference of the others.
kernel   `ptft_jax.models.kernels`: NVIDIA GPUs from Ampere on, bfloat16.
cudnn    cuDNN's fused attention: NVIDIA GPUs, one example a row, no dropout of probabilities.

None falls back on another: what a backend cannot do is refused while the step is traced.

Shape suffixes: B batch, T query tokens, S key tokens, D hidden, N heads, C query, key and value
(3), H head size, K words of a dropout key (2), R = B x T rows.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec as P

from ptft_jax.errors import ConfigError
from ptft_jax.models import partition
from ptft_jax.models.config import EncoderConfig
from ptft_jax.models.dropout import RowKeys, dropout, fold_rows
from ptft_jax.models.layers import (
    LayerNorm,
    Linear,
    adapted,
    add_parameter,
    product,
    sublayer_adapter,
    with_gradient,
)
from ptft_jax.models.partition import Device, current_device

BACKENDS = ("xla", "cudnn", "kernel")
BIAS_AXES = ("heads", "parts", "head_size")
# Rows up to this many tokens are the short kernel's, a whole row in one block.
SHORT_ROW = 128
_KERNEL_HEAD_SIZES = (16, 32, 64, 128)
# Compute capabilities with the shared memory that long rows of heads of 128 need, 106 KiB.
_LARGE_SHARED_MEMORY = ((8, 0), (8, 7), (9, 0), (10, 0), (10, 3))


class Request(NamedTuple):
    """What attention is asked to compute.

    Attributes:
        dtype: of activations, "float32" or "bfloat16".
        head_size: features of a head.
        tokens: length of the rows.
        packed: whether rows hold several examples.
        dropout: of the probabilities; 0.0 where it is off, as in evaluation.
        prefix: whether there are keys and values beside those of the tokens.
    """

    dtype: str
    head_size: int
    tokens: int
    packed: bool
    dropout: float
    prefix: bool = False


def refusal(name: str, request: Request, device: Device) -> str | None:
    """Returns why a backend cannot compute a request on a device, None if it can."""
    if name == "xla":
        return None
    if (why := device.refuses_kernels()) is not None:
        return why
    if request.prefix:
        return "it attends to tokens alone, and prefix-tuning has keys and values beside them"
    if request.dtype != "bfloat16":
        return f"it computes in bfloat16, and model.dtype is {request.dtype}"
    if name == "kernel":
        if request.head_size not in _KERNEL_HEAD_SIZES:
            sizes = ", ".join(map(str, _KERNEL_HEAD_SIZES))
            return f"its heads have {sizes} features, and these have {request.head_size}"
        small = device.capability is not None and device.capability not in _LARGE_SHARED_MEMORY
        if small and request.head_size == 128 and request.tokens > SHORT_ROW:
            return (
                f"heads of 128 features in rows of {request.tokens} tokens need more shared memory "
                f"than {device.kind} has; up to {SHORT_ROW} tokens fit"
            )
        return None
    if request.head_size % 8 or request.head_size > 128:
        return f"its heads have up to 128 features by 8, and these have {request.head_size}"
    if request.packed:
        return "it does not keep the examples of a packed row apart"
    if request.dropout:
        return f"it drops no probabilities (model.attention_probs_dropout_prob={request.dropout})"
    return None


def choose(wanted: str, request: Request, device: Device) -> tuple[str, str]:
    """Returns the backend for a request and, in words, why it is this one.

    Args:
        wanted: one of `BACKENDS`, or "auto" for the fastest one that can.
        request: what it has to compute.
        device: where.

    Raises:
        ConfigError: `wanted` cannot do it.
    """
    if wanted != "auto":
        why = refusal(wanted, request, device)
        if why is None:
            return wanted, f"model.attention={wanted}"
        able = [name for name in BACKENDS if refusal(name, request, device) is None]
        raise ConfigError(
            f"model.attention={wanted} cannot be used here: {why}. Use "
            f"{' or '.join(f'model.attention={name}' for name in (*able, 'auto'))}."
        )
    why = refusal("kernel", request, device)
    if why is None:
        return "kernel", f"it runs on {device.kind}"
    if refusal("cudnn", request, device) is None:
        return "cudnn", f"the kernel cannot: {why}"
    return "xla", f"the kernel cannot: {why}"


def attend(
    name: str,
    qkv_BTNCH: jax.Array,
    bias_NCH: jax.Array,
    visible_BT: jax.Array,
    keys_BNK: jax.Array | None,
    *,
    rate: float,
    packed: bool,
    prefix: tuple[jax.Array, jax.Array] | None = None,
) -> jax.Array:
    """Returns softmax(q kᵀ / √H) v [B, T, N, H], with the softmax in float32.

    Several examples may share a row: attention never crosses from one to another.

    Args:
        name: one of `BACKENDS`, which must be able to do it.
        qkv_BTNCH: queries, keys and values without their biases.
        bias_NCH: the three biases, float32.
        visible_BT: `attention_mask` (1 for a token that may be attended to, 0 for padding) or, if
            `packed`, `segment_ids` (a token attends to those of its own number), int32. Examples
            that share a row lie one after the other; cuDNN takes padding behind the tokens only.
        keys_BNK: dropout key of each row and head, uint32; None turns dropout off.
        rate: dropout of the probabilities (BERT drops whole entries after the softmax, as HF
            `BertSelfAttention` does).
        packed: whether rows hold several examples.
        prefix: keys and values [V, N, H], float32, that all tokens attend to as well ("xla" only).
    """
    if keys_BNK is None or rate == 0.0:
        keys_BNK, rate = None, 0.0
    compute = {"xla": partial(_xla, prefix=prefix), "cudnn": _cudnn, "kernel": _kernel}[name]
    return compute(qkv_BTNCH, bias_NCH, visible_BT, keys_BNK, rate=rate, packed=packed)


_QKV, _CONTEXT = (
    P(partition.BATCH, None, "tensor", None, None),
    P(partition.BATCH, None, "tensor", None),
)
_VISIBLE, _KEYS = P(partition.BATCH, None), P(partition.BATCH, "tensor", None)


def _xla(qkv_BTNCH, bias_NCH, visible_BT, keys_BNK, *, rate, packed, prefix=None):
    qkv_BTNCH = add_parameter(qkv_BTNCH, bias_NCH, BIAS_AXES)
    beside = () if prefix is None else tuple(_of_each_row(one, qkv_BTNCH) for one in prefix)

    def local(qkv_BTNCH, visible_BS, *more):
        q_BTNH, k_BSNH, v_BSNH = (qkv_BTNCH[:, :, :, part] for part in range(3))
        keys_BNK = None if len(more) == len(beside) else more[-1]
        # A query that may attend to nothing (padding in a packed row, or a row that is all padding)
        # attends evenly; a key of another example gets probability 0 exactly.
        allowed = visible_BS[:, None, None, :] > 0
        if packed:
            allowed &= visible_BS[:, None, :, None] == visible_BS[:, None, None, :]
        if beside:
            k_BSNH, v_BSNH = (
                jnp.concatenate(pair, axis=1) for pair in zip(more, (k_BSNH, v_BSNH), strict=False)
            )
            before = [(0, 0), (0, 0), (0, 0), (more[0].shape[1], 0)]
            allowed = jnp.pad(allowed, before, constant_values=True)
        scores_BNTS = jnp.einsum(
            "btnh,bsnh->bnts", q_BTNH, k_BSNH, preferred_element_type=jnp.float32
        ) / math.sqrt(q_BTNH.shape[-1])
        scores_BNTS = jnp.where(allowed, scores_BNTS, jnp.finfo(jnp.float32).min)
        probs_BNTS = jax.nn.softmax(scores_BNTS, axis=-1).astype(v_BSNH.dtype)
        probs_BNTS = dropout(probs_BNTS, rate, keys_BNK)
        return jnp.einsum("bnts,bsnh->btnh", probs_BNTS, v_BSNH)

    arrays, specs = (qkv_BTNCH, visible_BT, *beside), (_QKV, _VISIBLE, *(_CONTEXT,) * len(beside))
    if keys_BNK is not None:
        arrays, specs = (*arrays, keys_BNK), (*specs, _KEYS)
    return partition.where_it_lies(local, specs, _CONTEXT)(*arrays)


def _of_each_row(parameter_VNH: jax.Array, qkv_BTNCH: jax.Array) -> jax.Array:
    """Returns a prefix for each row of a batch, [B, V, N, H]."""
    batch, _, heads, _, size = qkv_BTNCH.shape
    shape = batch, len(parameter_VNH), heads, size
    split = _CONTEXT if partition.has_mesh() else None
    nothing = jnp.zeros(shape, qkv_BTNCH.dtype, out_sharding=split)
    return add_parameter(nothing, parameter_VNH, ("virtual", "heads", "head_size"))


def _cudnn(qkv_BTNCH, bias_NCH, visible_BT, keys_BNK, *, rate, packed):
    del keys_BNK, rate, packed  # refused in `refusal`
    qkv_BTNCH = add_parameter(qkv_BTNCH, bias_NCH, BIAS_AXES)

    def local(qkv_BTNCH, visible_BT):
        q_BTNH, k_BTNH, v_BTNH = (qkv_BTNCH[:, :, :, part] for part in range(3))
        # Padding follows the tokens. A row of padding alone gets one token: no NaN comes of it.
        lengths_B = jnp.maximum(jnp.sum(visible_BT > 0, axis=1, dtype=jnp.int32), 1)
        return jax.nn.dot_product_attention(
            q_BTNH,
            k_BTNH,
            v_BTNH,
            query_seq_lengths=lengths_B,
            key_value_seq_lengths=lengths_B,
            implementation="cudnn",
        )

    return partition.where_it_lies(local, (_QKV, _VISIBLE), _CONTEXT)(qkv_BTNCH, visible_BT)


def _kernel(qkv_BTNCH, bias_NCH, visible_BT, keys_BNK, *, rate, packed):
    batch, tokens, heads, _, _ = qkv_BTNCH.shape
    if keys_BNK is None:
        split = _KEYS if partition.has_mesh() else None
        keys_BNK = jnp.zeros((batch, heads, 2), jnp.uint32, out_sharding=split)
    if tokens <= SHORT_ROW:
        return _short(qkv_BTNCH, bias_NCH, visible_BT, keys_BNK, rate=rate, packed=packed)
    qkv_BTNCH = add_parameter(qkv_BTNCH, bias_NCH, BIAS_AXES)
    return _long(qkv_BTNCH, visible_BT, keys_BNK, rate=rate, packed=packed)


def _short(qkv_BTNCH, bias_NCH, visible_BT, keys_BNK, *, rate, packed):
    from ptft_jax.models.kernels import short_attention  # Pallas loads where a kernel runs only

    stored = partition.layout_of(bias_NCH)
    inputs = (_QKV, P("tensor", None, None), _VISIBLE, _KEYS)
    settings = {"rate": rate, "packed": packed}
    forward = partition.where_it_lies(
        partial(short_attention.forward, **settings), inputs, _CONTEXT
    )
    backward = partition.where_it_lies(
        partial(short_attention.backward, **settings), (*inputs, _CONTEXT), _QKV
    )

    def start(qkv_BTNCH, bias_NCH, visible_BT, keys_BNK):
        kept = (qkv_BTNCH, partition.whole(bias_NCH, BIAS_AXES), visible_BT, keys_BNK)
        return forward(*kept), kept

    def finish(kept, g_BTNH):
        gradient = backward(*kept, g_BTNH)
        return gradient, partition.sum_of_rows(gradient, BIAS_AXES, stored), None, None

    return with_gradient(start, finish)(qkv_BTNCH, bias_NCH, visible_BT, keys_BNK)


def _long(qkv_BTNCH, visible_BT, keys_BNK, *, rate, packed):
    from ptft_jax.models.kernels import long_attention

    tokens = visible_BT.shape[1]
    settings = {"rate": rate, "packed": packed}
    inputs, outputs = (_QKV, _VISIBLE, _KEYS), (_CONTEXT, P(partition.BATCH, "tensor", None))
    forward = partition.where_it_lies(partial(long_attention.forward, **settings), inputs, outputs)
    backward = partition.where_it_lies(
        partial(long_attention.backward, **settings), (*inputs, *outputs, _CONTEXT), _QKV
    )

    def start(*arrays):
        context_BTNH, log_sums_BNT = forward(*arrays)
        return context_BTNH, (*arrays, context_BTNH, log_sums_BNT)

    def finish(kept, g_BTNH):
        return backward(*kept, g_BTNH), None, None

    missing = -tokens % long_attention.BLOCK
    if missing:  # zeros up to whole blocks of tokens
        qkv_BTNCH = jnp.pad(qkv_BTNCH, [(0, 0), (0, missing), (0, 0), (0, 0), (0, 0)])
        visible_BT = jnp.pad(visible_BT, [(0, 0), (0, missing)])
    return with_gradient(start, finish)(qkv_BTNCH, visible_BT, keys_BNK)[:, :tokens]


class SelfAttention(nnx.Module):
    """Query, key, value and output maps, and the LayerNorm that follows their residual."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs, stack: int | None):
        make = partial(adapted, config, rngs=rngs, stack=stack)
        embed = {"embed": config.hidden_size}
        heads = {"heads": config.num_attention_heads, "head_size": config.head_size}
        self.query = make("attention/query", "rd,dnh->rnh", embed, heads)
        self.key = make("attention/key", "rd,dnh->rnh", embed, heads)
        self.value = make("attention/value", "rd,dnh->rnh", embed, heads)
        self.output = make("attention/output", "rnh,nhd->rd", heads, embed, reduces_tensor=True)
        self.layer_norm = LayerNorm(config, rngs=rngs, stack=stack)
        self.adapter = sublayer_adapter(config, "attention", rngs=rngs, stack=stack)
        self.dropout_rate = config.attention_probs_dropout_prob
        self.backend = config.attention

    def __call__(
        self, hidden_BTD: jax.Array, visible_BT: jax.Array, keys_B: RowKeys, *, packed: bool
    ) -> jax.Array:
        """Returns the attention output [B, T, D] without its bias, before dropout and residual.

        Args:
            hidden_BTD: layer input.
            visible_BT: `attention_mask`, or `segment_ids` if `packed`: see `attend`.
            keys_B: dropout key of each row, for the probabilities; None turns it off.
            packed: whether rows hold several examples.

        Raises:
            ConfigError: the backend that the config names cannot do this.
        """
        dtype, (_, tokens, _) = self.output.dtype, hidden_BTD.shape
        rate = 0.0 if keys_B is None else self.dropout_rate
        _, heads, size = self.query.kernel.shape
        prefix = None
        if self.adapter is not None and not self.adapter.joins:
            prefix = self.adapter.keys[...], self.adapter.values[...]
        request = Request(str(dtype), size, tokens, packed, rate, prefix is not None)
        name, _ = choose(self.backend, request, current_device())
        maps = (self.query, self.key, self.value)
        context_BTNH = attend(
            name,
            _projected(hidden_BTD, maps, dtype),
            _joined([one.bias[...] for one in maps]),
            visible_BT,
            _keys_of_heads(keys_B, heads),
            rate=rate,
            packed=packed,
            prefix=prefix,
        )
        return self.output.multiply(context_BTNH)


def _projected(hidden_BTD: jax.Array, maps: Sequence[Linear], dtype: jnp.dtype) -> jax.Array:
    """Returns queries, keys and values as one array [B, T, N, 3, H], by one product.

    They stay three parameters: LAMB's trust ratios, Hugging Face's names and adapters are by each.
    """
    batch, tokens, _ = hidden_BTD.shape
    kernel_axes = ("embed", *BIAS_AXES)
    kernel = _joined([one.kernel[...] for one in maps])
    summed_BTD = partition.sum_gradients_first(hidden_BTD, ("tensor",))
    rows = partition.rows_of(summed_BTD.astype(dtype))
    qkv_RNCH = product("rd,dnch->rnch", rows, kernel, kernel_axes, dtype)
    if any(one.adapter is not None for one in maps):
        rows = partition.rows_of(hidden_BTD.astype(dtype))
        each = [qkv_RNCH[:, :, number] for number in range(len(maps))]
        qkv_RNCH = _joined(
            [
                y if one.adapter is None else one.adapter.after(rows, y, one)
                for one, y in zip(maps, each, strict=True)
            ]
        )
    split = partition.activation_sharding(BIAS_AXES)
    return jnp.reshape(qkv_RNCH, (batch, tokens, *qkv_RNCH.shape[1:]), out_sharding=split)


def _joined(parameters: list[jax.Array]) -> jax.Array:
    """Stacks [..., N, H] of query, key and value to [..., N, 3, H]: heads stay the outer axis."""
    # `jnp.stack` has no transpose for gradients that are partial sums (jax 0.12.0).
    return jnp.concatenate([jnp.expand_dims(one, -2) for one in parameters], axis=-2)


def _keys_of_heads(keys_BK: RowKeys, heads: int) -> jax.Array | None:
    """Returns a dropout key for each row and head, [B, N, 2]: a head's does not depend on where."""
    if keys_BK is None:
        return None
    split = P(None, "tensor") if partition.has_mesh() else None
    numbers = jax.lax.broadcasted_iota(jnp.uint32, (1, heads), 1, out_sharding=split)
    keys_BNK = fold_rows(keys_BK[:, None], numbers)
    # The type of a single row says nothing of the devices that rows are spread over.
    return jax.reshard(keys_BNK, _KEYS) if partition.has_mesh() else keys_BNK
