"""Multi-head self-attention (Vaswani et al. 2017, section 3.2), bidirectional, with key padding.

Several examples may share a row: attention never crosses from one to another.

Shape suffixes: B batch, T query tokens, S key tokens, D hidden, N heads, H head size. `n` counts
the heads on one device.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec as P

from ptft_jax.models import partition
from ptft_jax.models.config import EncoderConfig
from ptft_jax.models.layers import Linear, RowKeys, dropout


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

    def __call__(
        self, hidden_BTD: jax.Array, visible_BT: jax.Array, keys_B: RowKeys, *, packed: bool
    ) -> jax.Array:
        """Returns the attention output [B, T, D] before dropout and residual.

        Args:
            hidden_BTD: layer input.
            visible_BT: `attention_mask` (1 for a token that may be attended to, 0 for padding) or,
                if `packed`, `segment_ids` (a token attends to those of its own number).
            packed: whether rows hold several examples.
            keys_B: one key per row for dropout on the probabilities; None turns it off.
        """
        hidden_BTD = partition.sum_gradients_first(hidden_BTD, ("tensor",))
        q_BTNH = self.query(hidden_BTD)
        k_BSNH = self.key(hidden_BTD)
        v_BSNH = self.value(hidden_BTD)
        attend = partial(dot_product_attention, dropout_rate=self.dropout_rate, packed=packed)
        if not partition.has_mesh():
            context_BTNH = attend(q_BTNH, k_BSNH, v_BSNH, visible_BT, keys_B, first_head=0)
        else:
            context_BTNH = _on_mesh(attend, q_BTNH, k_BSNH, v_BSNH, visible_BT, keys_B)
        return self.output(context_BTNH)


def _on_mesh(attend, q_BTNH, k_BSNH, v_BSNH, visible_BS, keys_B) -> jax.Array:
    """Runs attention where examples and heads lie: no device needs another's."""
    by_head = P(partition.BATCH, None, "tensor", None)
    by_row = P(partition.BATCH)

    def local(q_BTnH, k_BSnH, v_BSnH, visible_BS, keys_B):
        first_head = jax.lax.axis_index("tensor") * q_BTnH.shape[2]
        return attend(q_BTnH, k_BSnH, v_BSnH, visible_BS, keys_B, first_head=first_head)

    return jax.shard_map(
        local,
        in_specs=(by_head, by_head, by_head, P(partition.BATCH, None), by_row),
        out_specs=by_head,
    )(q_BTNH, k_BSNH, v_BSNH, visible_BS, keys_B)


def dot_product_attention(
    q_BTnH: jax.Array,
    k_BSnH: jax.Array,
    v_BSnH: jax.Array,
    visible_BS: jax.Array,
    keys_B: RowKeys,
    *,
    first_head: int | jax.Array,
    dropout_rate: float,
    packed: bool,
) -> jax.Array:
    """Computes softmax(q kᵀ / √H) v with the softmax in float32.

    Args:
        q_BTnH: queries.
        k_BSnH: keys.
        v_BSnH: values.
        visible_BS: what `SelfAttention` calls `visible_BT`. A query that may attend to nothing
            (padding in a packed row, or a row that is all padding) attends evenly.
        keys_B: one key per row; None turns dropout off.
        first_head: number of the first head held here, so that a head's dropout mask does not
            depend on which device computes it.
        dropout_rate: dropout probability of the attention probabilities (BERT drops whole
            entries after the softmax, as HF `BertSelfAttention` does).
        packed: whether `visible_BS` numbers the examples that share a row. A key of another example
            gets probability 0 exactly, so its value changes no bit of the result.
    """
    scores_BnTS = jnp.einsum(
        "btnh,bsnh->bnts", q_BTnH, k_BSnH, preferred_element_type=jnp.float32
    ) / math.sqrt(q_BTnH.shape[-1])
    allowed = visible_BS[:, None, None, :] > 0
    if packed:
        allowed &= visible_BS[:, None, :, None] == visible_BS[:, None, None, :]
    scores_BnTS = jnp.where(allowed, scores_BnTS, jnp.finfo(jnp.float32).min)
    probs_BnTS = jax.nn.softmax(scores_BnTS, axis=-1).astype(v_BSnH.dtype)
    if keys_B is not None and dropout_rate > 0.0:
        heads_n = first_head + jnp.arange(q_BTnH.shape[2])
        fold_heads = jax.vmap(jax.random.fold_in, (None, 0))
        keys_Bn = jax.vmap(fold_heads, (0, None))(keys_B, heads_n)
        probs_BnTS = jax.vmap(partial(dropout, rate=dropout_rate))(probs_BnTS, keys_B=keys_Bn)
    return jnp.einsum("bnts,bsnh->btnh", probs_BnTS, v_BSnH)
