"""The BERT encoder (Devlin et al. 2019, section 3; Hugging Face `BertModel`) and its heads.

Shape suffixes: B batch, T tokens, M masked positions, P pooled positions, D hidden, F feed-forward,
L layers, V vocabulary (padded), K labels, R = B x M rows.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec as P

from ptft_jax.models import partition
from ptft_jax.models.attention import SelfAttention
from ptft_jax.models.config import LINEAR_HEADS, EncoderConfig
from ptft_jax.models.dropout import RowKeys, dropout, fold_rows
from ptft_jax.models.fused import bias_activation, residual_norm
from ptft_jax.models.layers import (
    LayerNorm,
    Linear,
    activation,
    adapted,
    add_parameter,
    declare,
    product,
    prompt_of,
    sublayer_adapter,
)

# Dropout sites fold a number of their own into the row keys; layer i uses 1 + i, the embeddings 0.
_ATTENTION_PROBS, _ATTENTION_OUTPUT, _FEED_FORWARD_OUTPUT = range(3)


class Embeddings(nnx.Module):
    """Sum of word, position and token-type embeddings, normalised, with dropout."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs):
        init = jax.nn.initializers.truncated_normal(config.initializer_range)
        size = config.hidden_size

        def table(rows: int, axis: str) -> nnx.Param:
            return declare(rngs, (rows, size), (axis, "embed"), init, None)

        self.word_embeddings = table(config.padded_vocab_size, "vocab")
        self.position_embeddings = table(config.max_position_embeddings, "positions")
        self.token_type_embeddings = table(config.type_vocab_size, "types")
        self.layer_norm = LayerNorm(config, rngs=rngs)
        self.dropout_rate = config.hidden_dropout_prob
        # Where there is a prompt, the batch says what position each token has.
        self.first_position = 0 if config.adapter is None else config.adapter.first_position
        self.adapter = prompt_of(config, rngs=rngs)

    def __call__(
        self,
        input_ids_BT: jax.Array,
        token_type_ids_BT: jax.Array,
        position_ids_BT: jax.Array | None,
        shift_BTD: jax.Array | None,
        keys_B: RowKeys,
    ) -> jax.Array:
        """Returns the embeddings' output [B, T, D]; positions None count from 0 in each row.

        A shift is added to the word embeddings.
        """
        # Looked up and added in float32, whatever the dtype of the layers: the three terms are of
        # very different size in trained models, and a gradient would otherwise be scattered into a
        # bfloat16 table, where frequent tokens ([MASK] first) lose most of what is added to them.
        words = self.word_embeddings[...]  # gathered by `Model.bind`
        types = partition.gather_table(self.token_type_embeddings[...], ("types", "embed"))
        split = partition.batch_sharding(3)
        hidden_BTD = words.at[input_ids_BT].get(out_sharding=split)
        if shift_BTD is not None:
            hidden_BTD += shift_BTD
        if position_ids_BT is None:
            first = self.first_position
            table = self.position_embeddings[...][first : first + input_ids_BT.shape[1]]
            hidden_BTD = add_parameter(hidden_BTD, table, ("positions", "embed"))
        else:
            positions = self.position_embeddings[...]
            positions = partition.gather_table(positions, ("positions", "embed"))
            if self.adapter is None:
                position_ids_BT = position_ids_BT + self.first_position
            else:
                is_virtual_BT = position_ids_BT < self.first_position
                prompt_BTD = self.adapter(position_ids_BT)
                hidden_BTD = jnp.where(is_virtual_BT[:, :, None], prompt_BTD, hidden_BTD)
            hidden_BTD += positions.at[position_ids_BT].get(out_sharding=split)
        hidden_BTD += types.at[token_type_ids_BT].get(out_sharding=split)
        return dropout(self.layer_norm(hidden_BTD), self.dropout_rate, keys_B)


class FeedForward(nnx.Module):
    """Two linear maps around the activation."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs, stack: int | None):
        make = partial(adapted, config, rngs=rngs, stack=stack)
        embed, mlp = {"embed": config.hidden_size}, {"mlp": config.intermediate_size}
        self.intermediate = make("feed_forward/intermediate", "rd,df->rf", embed, mlp)
        self.output = make("feed_forward/output", "rf,fd->rd", mlp, embed, reduces_tensor=True)
        self.layer_norm = LayerNorm(config, rngs=rngs, stack=stack)
        self.adapter = sublayer_adapter(config, "feed_forward", rngs=rngs, stack=stack)
        self.hidden_act = config.hidden_act
        self.fused = config.fused

    def __call__(self, hidden_BTD: jax.Array) -> jax.Array:
        """Returns the output [B, T, D] without its bias, before dropout and residual."""
        wide_BTF = self.intermediate.multiply(hidden_BTD)
        bias_F = self.intermediate.bias[...]
        return self.output.multiply(bias_activation(wide_BTF, bias_F, self.hidden_act, self.fused))


class EncoderLayer(nnx.Module):
    """One layer; with `stack`, the parameters of that many layers in a leading axis."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs, stack: int | None = None):
        self.attention = SelfAttention(config, rngs=rngs, stack=stack)
        self.feed_forward = FeedForward(config, rngs=rngs, stack=stack)
        self.dropout_rate = config.hidden_dropout_prob
        self.fused = config.fused

    def __call__(
        self,
        hidden_BTD: jax.Array,
        residual_BTD: jax.Array,
        visible_BT: jax.Array,
        keys_B: RowKeys,
        *,
        packed: bool,
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the layer's output twice, as `residual_norm` does; input and residual are equal.

        Two results, whose gradients are added up where they are used.
        """
        keys_probs = fold_rows(keys_B, _ATTENTION_PROBS)
        update_BTD = self.attention(hidden_BTD, visible_BT, keys_probs, packed=packed)
        hidden_BTD, residual_BTD = self._join(
            self.attention,
            hidden_BTD,
            update_BTD,
            residual_BTD,
            fold_rows(keys_B, _ATTENTION_OUTPUT),
        )
        update_BTD = self.feed_forward(hidden_BTD)
        return self._join(
            self.feed_forward,
            hidden_BTD,
            update_BTD,
            residual_BTD,
            fold_rows(keys_B, _FEED_FORWARD_OUTPUT),
        )

    def _join(
        self,
        sublayer: SelfAttention | FeedForward,
        inputs_BTD: jax.Array,
        update_BTD: jax.Array,
        residual_BTD: jax.Array,
        keys_B: RowKeys,
    ) -> tuple[jax.Array, jax.Array]:
        bias_D, norm = sublayer.output.bias[...], sublayer.layer_norm
        if sublayer.adapter is not None and sublayer.adapter.joins:
            update_BTD = dropout(
                add_parameter(update_BTD, bias_D, ("embed",)), self.dropout_rate, keys_B
            )
            update_BTD = sublayer.adapter(update_BTD, inputs_BTD, residual_BTD, norm)
            out_BTD = norm(residual_BTD + update_BTD)
            return out_BTD, out_BTD
        return residual_norm(
            update_BTD, bias_D, residual_BTD, norm, keys_B, self.dropout_rate, self.fused
        )


def _square(config: EncoderConfig, rngs: nnx.Rngs) -> Linear:
    """Declares the map from hidden to hidden of the pooler and of the MLM head."""
    size = config.hidden_size
    return Linear(config, "rd,de->re", {"embed": size}, {"embed_out": size}, rngs=rngs)


class BertEncoder(nnx.Module):
    """Embeddings, the stack of layers run by `jax.lax.scan`, and the pooler."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs):
        self.embeddings = Embeddings(config, rngs=rngs)
        self.layers = EncoderLayer(config, rngs=rngs, stack=config.num_hidden_layers)
        self.pooler = _square(config, rngs) if "pooler" in config.heads else None
        self.num_hidden_layers = config.num_hidden_layers
        self.unroll = config.unroll
        self.remat = config.remat
        self.first_layer = 0  # the lowest one that a gradient has to reach
        self.prompt_tokens = 0 if config.adapter is None else config.adapter.prompt_tokens

    def __call__(
        self, batch: dict[str, jax.Array], keys_B: RowKeys, *, collect: bool
    ) -> tuple[jax.Array, jax.Array | None, jax.Array]:
        """Runs embeddings and layers.

        Args:
            batch: `input_ids`, `attention_mask` and `token_type_ids`, each int32 [B, T]; where
                examples share rows, `segment_ids` (1, 2, … by example, 0 padding) and
                `position_ids` (from 0 in each example) as well. `embedding_shift`, float32
                [B, T, D], is added to the word embeddings where it is there.
            keys_B: one key per row for dropout; None turns dropout off.
            collect: also return every layer's output.

        Returns:
            The embeddings' output [B, T, D], every layer's output [L, B, T, D] (None unless
            `collect`), and the last layer's output [B, T, D]. Of virtual tokens there is none, but
            where there is a pooler, in place of each example's first token.
        """
        if not self.prompt_tokens:
            return self._run(batch, keys_B, collect=collect)
        from ptft_jax.models.adapters.prompt import with_virtual_tokens

        widened = with_virtual_tokens(batch, self.prompt_tokens, self.pooler is not None)
        found = self._run(widened.batch, keys_B, collect=collect)
        return jax.tree.map(widened.narrowed, found)

    def _run(
        self, batch: dict[str, jax.Array], keys_B: RowKeys, *, collect: bool
    ) -> tuple[jax.Array, jax.Array | None, jax.Array]:
        packed = "segment_ids" in batch
        visible_BT = batch["segment_ids" if packed else "attention_mask"]
        first_BTD = self.embeddings(
            batch["input_ids"],
            batch["token_type_ids"],
            batch.get("position_ids"),
            batch.get("embedding_shift"),
            fold_rows(keys_B, 0),
        )
        definition, stacked = nnx.split(self.layers)
        numbers = jnp.arange(self.num_hidden_layers)
        first, unroll = self.first_layer, self.unroll or self.num_hidden_layers

        def body(hidden: tuple[jax.Array, jax.Array], layer: tuple[Any, jax.Array]):
            parameters, number = layer
            if partition.splits_parameters() and unroll > 1:
                # Gathered when the layer's input is there. As nothing else says when, XLA would
                # gather all layers first, and once for all micro-batches.
                parameters, hidden = jax.lax.optimization_barrier((parameters, hidden))
            hidden = nnx.merge(definition, parameters)(
                *hidden, visible_BT, fold_rows(keys_B, 1 + number), packed=packed
            )
            return hidden, hidden[0] if collect else None

        if self.remat or partition.splits_parameters():
            # A loop keeps XLA from merging with the forward pass what is to be computed or gathered
            # again in the backward pass. Where layers stand side by side, a barrier has to.
            body = jax.checkpoint(
                body,
                prevent_cse=unroll > 1,
                policy=None if self.remat else partition.all_but_gathered,
            )

        def run(hidden: Any, start: int, end: int) -> tuple[Any, jax.Array | None]:
            layers = (stacked, numbers)
            if (start, end) != (0, self.num_hidden_layers):
                layers = jax.tree.map(lambda array: array[start:end], layers)
            if end <= first:
                layers = jax.lax.stop_gradient(layers)
            return jax.lax.scan(body, hidden, layers, unroll=min(unroll, max(end - start, 1)))

        hidden, below = (first_BTD, first_BTD), None
        if first:
            hidden, below = jax.lax.stop_gradient(run(hidden, 0, first))
        (last_BTD, _), all_LBTD = run(hidden, first, self.num_hidden_layers)
        if below is not None and all_LBTD is not None:
            all_LBTD = jnp.concatenate([below, all_LBTD])
        return first_BTD, all_LBTD, last_BTD


class MlmHead(nnx.Module):
    """Transform, LayerNorm and the decoder tied to the word embeddings, with a bias of its own.

    Follows HF `BertLMPredictionHead` and google-research/bert `get_masked_lm_output`.
    """

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs):
        self.transform = _square(config, rngs)
        self.layer_norm = LayerNorm(config, rngs=rngs)
        zeros = jax.nn.initializers.zeros
        self.bias = declare(rngs, (config.padded_vocab_size,), ("vocab",), zeros, None)
        self.hidden_act = config.hidden_act
        self.vocab_size = config.vocab_size

    def __call__(self, hidden_BMD: jax.Array, word_table_VD: jax.Array) -> jax.Array:
        hidden_BMD = activation(self.hidden_act)(self.transform(hidden_BMD))
        hidden_BMD = self.layer_norm(hidden_BMD)
        batch, masked, _ = hidden_BMD.shape
        # One matrix product over all rows: on CPU it took two thirds of the batched einsum's time.
        hidden_RD = partition.rows_of(hidden_BMD)
        logits_RV = product(
            "rd,vd->rv",
            hidden_RD,
            word_table_VD,
            ("vocab", "embed"),
            hidden_RD.dtype,
            out_dtype=jnp.dtype(jnp.float32),
        )
        logits_RV = add_parameter(logits_RV, self.bias[...], ("vocab",))
        padded = word_table_VD.shape[0]
        split = P(partition.BATCH, None, "tensor") if partition.has_mesh() else None
        logits_BMV = jnp.reshape(logits_RV, (batch, masked, padded), out_sharding=split)
        if padded == self.vocab_size:
            return logits_BMV
        exists = jax.lax.broadcasted_iota(jnp.int32, logits_BMV.shape, 2, out_sharding=split)
        return jnp.where(exists < self.vocab_size, logits_BMV, jnp.finfo(jnp.float32).min)


class LinearHead(Linear):
    """A float32 linear map from pooled or token outputs to a head's own (`config.LINEAR_HEADS`)."""

    def __init__(self, config: EncoderConfig, name: str, *, rngs: nnx.Rngs):
        inputs, outputs = {"embed": config.hidden_size}, {"labels": config.linear_heads[name]}
        # As HF draws a new head. A truncated normal is an eighth narrower, and on few examples the
        # encoder then begins to learn later (docs/decisions.md).
        init = jax.nn.initializers.normal(config.initializer_range)
        super().__init__(
            config, "rd,dk->rk", inputs, outputs, rngs=rngs, dtype="float32", init=init
        )
        rate = config.classifier_dropout
        rate = config.hidden_dropout_prob if rate is None else rate
        self.dropout_rate = rate if LINEAR_HEADS[name].dropout else 0.0

    def __call__(self, hidden_BPD: jax.Array, keys_B: RowKeys = None) -> jax.Array:
        return super().__call__(dropout(hidden_BPD, self.dropout_rate, keys_B))
