"""Multi-head self-attention (Vaswani et al. 2017, section 3.2), bidirectional, with key padding.

Shape suffixes: B batch, T tokens, D hidden, N heads, C query, key and value (3), H head size, K
words of a dropout key (2), R = B x T rows.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec as P

from ptft_jax.models import attention_backends, partition
from ptft_jax.models.config import EncoderConfig
from ptft_jax.models.device import current_device
from ptft_jax.models.dropout import RowKeys, fold_rows
from ptft_jax.models.layers import Linear, product


class SelfAttention(nnx.Module):
    """Query, key, value and output maps around scaled dot-product attention."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs, stack: int | None):
        heads = {"heads": config.num_attention_heads, "head_size": config.head_size}
        make = partial(
            Linear,
            init=jax.nn.initializers.truncated_normal(config.initializer_range),
            rngs=rngs,
            dtype=jnp.dtype(config.dtype),
            stack=stack,
        )
        embed = {"embed": config.hidden_size}
        self.query = make("rd,dnh->rnh", inputs=embed, outputs=heads)
        self.key = make("rd,dnh->rnh", inputs=embed, outputs=heads)
        self.value = make("rd,dnh->rnh", inputs=embed, outputs=heads)
        self.output = make("rnh,nhd->rd", inputs=heads, outputs=embed, reduces_tensor=True)
        self.dropout_rate = config.attention_probs_dropout_prob
        self.backend = config.attention

    def __call__(
        self, hidden_BTD: jax.Array, visible_BT: jax.Array, keys_B: RowKeys, *, packed: bool
    ) -> jax.Array:
        """Returns the attention output [B, T, D] without its bias, before dropout and residual.

        Args:
            hidden_BTD: layer input.
            visible_BT: `attention_mask`, or `segment_ids` if `packed`: see
                `attention_backends.attend`.
            keys_B: dropout key of each row, for the probabilities; None turns it off.
            packed: whether rows hold several examples.

        Raises:
            ConfigError: the backend that the config names cannot do this.
        """
        dtype, (_, tokens, _) = self.output.dtype, hidden_BTD.shape
        rate = 0.0 if keys_B is None else self.dropout_rate
        _, heads, size = self.query.kernel.shape
        request = attention_backends.Request(str(dtype), size, tokens, packed, rate)
        name, _ = attention_backends.choose(self.backend, request, current_device())
        maps = (self.query, self.key, self.value)
        context_BTNH = attention_backends.attend(
            name,
            _projected(hidden_BTD, [one.kernel[...] for one in maps], dtype),
            _joined([one.bias[...] for one in maps]),
            visible_BT,
            _keys_of_heads(keys_B, heads),
            rate=rate,
            packed=packed,
        )
        return self.output.multiply(context_BTNH)


def _projected(hidden_BTD: jax.Array, kernels: list[jax.Array], dtype: jnp.dtype) -> jax.Array:
    """Returns queries, keys and values as one array [B, T, N, 3, H], by one product.

    They stay three parameters: LAMB's trust ratios, Hugging Face's names and adapters are by each.
    """
    batch, tokens, size = hidden_BTD.shape
    hidden_BTD = partition.sum_gradients_first(hidden_BTD, ("tensor",))
    kernel_axes = ("embed", *attention_backends.BIAS_AXES)
    rows = hidden_BTD.astype(dtype).reshape(-1, size)
    qkv_RNCH = product("rd,dnch->rnch", rows, _joined(kernels), kernel_axes, dtype)
    split = partition.activation_sharding(attention_backends.BIAS_AXES)
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
    return fold_rows(keys_BK[:, None], numbers)
