"""Bottleneck adapters: a narrow layer with a residual of its own, inside each layer's residuals.

houlsby    after attention and after the feed-forward part: x + U(gelu(D(x))) in place of what each
           adds to its residual x (Houlsby et al. 2019; LayerNorms are trained as well)
pfeiffer   after the feed-forward part alone, reading what its LayerNorm would give (Pfeiffer et al.
           2020, MAD-X, section 3.1; as in AdapterHub the LayerNorm is applied once more)
parallel   beside the feed-forward part, reading what goes into it, times 4 (He et al. 2022)

Shape suffixes: B batch, T tokens, D hidden.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from ptft_jax.models.adapters.lora import kaiming
from ptft_jax.models.config import EncoderConfig
from ptft_jax.models.layers import LayerNorm, Linear, activation

_PARALLEL_SCALE = 4.0


class Bottleneck(nnx.Module):
    """D to `rank` features and back. What it adds is next to nothing at first."""

    # It changes what a sublayer adds to its residual.
    joins = True

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs, stack: int | None):
        assert config.adapter is not None
        self.name = config.adapter.name
        wide, narrow = {"embed": config.hidden_size}, {"rank": config.adapter.rank}
        more = {"rngs": rngs, "stack": stack}
        if self.name == "houlsby":
            # Of the authors' adapter-bert, `feedforward_adapter`.
            first = second = jax.nn.initializers.truncated_normal(1e-3)
        elif self.name == "pfeiffer":
            # AdapterHub's, which is BERT's.
            first = second = jax.nn.initializers.normal(config.initializer_range)
        else:
            # LoRA's, as the paper has it.
            first, second = kaiming(config.hidden_size), jax.nn.initializers.zeros
        self.down = Linear(config, "rd,dk->rk", wide, narrow, init=first, **more)
        self.up = Linear(config, "rk,kd->rd", narrow, wide, init=second, **more)
        self.act = activation("gelu" if self.name == "houlsby" else "relu")

    def __call__(
        self,
        update_BTD: jax.Array,
        inputs_BTD: jax.Array,
        residual_BTD: jax.Array,
        norm: LayerNorm,
    ) -> jax.Array:
        """Returns what is added to the residual in place of `update_BTD`.

        Args:
            update_BTD: what the sublayer adds, after dropout.
            inputs_BTD: what went into it.
            residual_BTD: what it is added to.
            norm: the LayerNorm of the sum.
        """
        if self.name == "houlsby":
            return update_BTD + self._change(update_BTD)
        if self.name == "pfeiffer":
            return update_BTD + self._change(norm(residual_BTD + update_BTD))
        scale = jnp.asarray(_PARALLEL_SCALE, update_BTD.dtype)
        return update_BTD + scale * self._change(inputs_BTD)

    def _change(self, x_BTD: jax.Array) -> jax.Array:
        return self.up(self.act(self.down(x_BTD)))
