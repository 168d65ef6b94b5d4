"""Heads on top of the encoder: masked language model, next sentence, classification.

Shape suffixes: B batch, M masked positions, P pooled positions, D hidden, V vocabulary (padded),
K labels, R = B x M rows.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec as P

from ptft_jax.models import partition
from ptft_jax.models.config import EncoderConfig
from ptft_jax.models.dropout import RowKeys, dropout
from ptft_jax.models.layers import (
    LayerNorm,
    Linear,
    activation,
    add_parameter,
    declare,
    product,
)


class MlmHead(nnx.Module):
    """Transform, LayerNorm and the decoder tied to the word embeddings, with a bias of its own.

    Follows HF `BertLMPredictionHead` and google-research/bert `get_masked_lm_output`.
    """

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs):
        dtype = jnp.dtype(config.dtype)
        self.transform = Linear(
            "rd,de->re",
            inputs={"embed": config.hidden_size},
            outputs={"embed_out": config.hidden_size},
            init=jax.nn.initializers.truncated_normal(config.initializer_range),
            rngs=rngs,
            dtype=dtype,
        )
        self.layer_norm = LayerNorm(
            config.hidden_size, eps=config.layer_norm_eps, rngs=rngs, dtype=dtype
        )
        zeros = jax.nn.initializers.zeros
        self.bias = declare(rngs, (config.padded_vocab_size,), ("vocab",), zeros, None)
        self.hidden_act = config.hidden_act
        self.vocab_size = config.vocab_size

    def __call__(self, hidden_BMD: jax.Array, word_table_VD: jax.Array) -> jax.Array:
        hidden_BMD = activation(self.hidden_act)(self.transform(hidden_BMD))
        hidden_BMD = self.layer_norm(hidden_BMD)
        batch, masked, size = hidden_BMD.shape
        # One matrix product over all rows: on CPU it took two thirds of the batched einsum's time.
        hidden_RD = hidden_BMD.reshape(-1, size)
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


class NspHead(Linear):
    """A float32 linear map from the pooled [CLS] to two classes (HF `BertOnlyNSPHead`)."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs, classes: int = 2):
        super().__init__(
            "rd,dk->rk",
            inputs={"embed": config.hidden_size},
            outputs={"labels": classes},
            init=jax.nn.initializers.truncated_normal(config.initializer_range),
            rngs=rngs,
            dtype=jnp.dtype(jnp.float32),
        )


class ClassificationHead(NspHead):
    """Dropout before the same map to K labels (HF `BertForSequenceClassification`)."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs, classes=config.num_labels)
        rate = config.classifier_dropout
        self.dropout_rate = config.hidden_dropout_prob if rate is None else rate

    def __call__(self, pooled_BPD: jax.Array, keys_B: RowKeys = None) -> jax.Array:
        return super().__call__(dropout(pooled_BPD, self.dropout_rate, keys_B))
