"""Prefix-tuning: keys and values that every token attends to beside its own (Li & Liang 2021).

Positions are counted from behind them, as PEFT does for BERT: a model with P positions reads P less
`num_virtual_tokens` tokens.

Shape suffixes: V virtual tokens, N heads, H head size.
"""

import jax
from flax import nnx

from ptft_jax.models.config import EncoderConfig
from ptft_jax.models.layers import declare


class Prefix(nnx.Module):
    """The parameters `keys` and `values` [V, N, H] of a layer, drawn as PEFT's are."""

    joins = False

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs, stack: int | None):
        assert config.adapter is not None
        shape = (config.adapter.num_virtual_tokens, config.num_attention_heads, config.head_size)
        init = jax.nn.initializers.normal(1.0)
        axes = ("virtual", "heads", "head_size")
        self.keys = declare(rngs, shape, axes, init, stack)
        self.values = declare(rngs, shape, axes, init, stack)
