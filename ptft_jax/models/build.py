"""Builds a model from its config, and keeps Flax NNX inside `ptft_jax.models`.

Outside, parameters are a plain nested dict of float32 arrays; `Model.bind` turns such a dict into
the object that computes (`Encoder`). Why: dispatch over a plain tree costs a fraction of what NNX
state costs, and a plain tree outlives changes in NNX's own state layout.

Shape suffixes: B batch, T tokens, M masked positions, P pooled positions, D hidden, V vocabulary
(padded), K labels.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from ptft_jax.models import partition
from ptft_jax.models.config import LINEAR_HEADS, EncoderConfig
from ptft_jax.models.dropout import RowKeys
from ptft_jax.models.encoder import BertEncoder, LinearHead, MlmHead

Params = dict[str, Any]
Batch = dict[str, Any]


class Heads(nnx.Module):
    """The heads that the config asks for; the others are None."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs):
        self.mlm = MlmHead(config, rngs=rngs) if "mlm" in config.heads else None
        for name in LINEAR_HEADS:
            has = name in config.heads
            setattr(self, name, LinearHead(config, name, rngs=rngs) if has else None)


class Encoder(nnx.Module):
    """An encoder with its heads and parameters bound: the object that objectives call."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs):
        self.encoder = BertEncoder(config, rngs=rngs)
        self.heads = Heads(config, rngs=rngs)

    def without_gradient(self) -> "Encoder":
        """Returns the same encoder as a function of its batch alone.

        No gradient goes to its parameters; that of `embedding_shift` comes down through all layers.
        """
        definition, state = nnx.split(self)
        fixed = nnx.merge(definition, jax.lax.stop_gradient(state))
        fixed.encoder.first_layer = 0
        return fixed

    def no_shift(self, batch: Batch) -> Float[Array, "B T D"]:
        """Returns an `embedding_shift` (see `BertEncoder`) of zeros, laid out as a batch is."""
        size = self.encoder.embeddings.word_embeddings.shape[1]
        shape = (*batch["input_ids"].shape, size)
        return jnp.zeros(shape, jnp.float32, out_sharding=partition.batch_sharding(3))

    def hidden_states(self, batch: Batch, keys: RowKeys = None) -> list[Float[Array, "B T D"]]:
        """Returns the embeddings' output and every layer's, as HF's `output_hidden_states` does.

        Args:
            batch: `input_ids`, `attention_mask` and `token_type_ids`, each int32 [B, T]; packed
                rows also have `segment_ids` and `position_ids` (see `BertEncoder`).
            keys: one PRNG key per row for dropout; None turns dropout off.
        """
        first_BTD, all_LBTD, _ = self.encoder(batch, keys, collect=True)
        assert all_LBTD is not None
        return [first_BTD, *all_LBTD]

    def last_hidden_state(self, batch: Batch, keys: RowKeys = None) -> Float[Array, "B T D"]:
        """Returns the last layer's output; arguments as in `hidden_states`.

        A batch may have it as `last_hidden_state`, [B, S, D] of any S tokens, from an encoder that
        is not trained; then nothing is computed.
        """
        if "last_hidden_state" in batch:
            return batch["last_hidden_state"]
        return self.encoder(batch, keys, collect=False)[2]

    def pooled(
        self, hidden_BTD: Float[Array, "B T D"], positions_BP: Int[Array, "B P"]
    ) -> Float[Array, "B P D"]:
        """Returns tanh of the pooler's map at each position, by convention that of a [CLS]."""
        pooler = _required(self.encoder.pooler, "pooler")
        return jnp.tanh(pooler(take_positions(hidden_BTD, positions_BP)))

    def mlm_logits(
        self, hidden_BTD: Float[Array, "B T D"], positions_BM: Int[Array, "B M"]
    ) -> Float[Array, "B M V"]:
        """Returns float32 vocabulary logits at the masked positions only.

        Gathering before the vocabulary product saves (T - M) / T of the head. Columns of padded
        vocabulary rows hold the lowest float32.
        """
        head = _required(self.heads.mlm, "mlm")
        table_VD = self.encoder.embeddings.word_embeddings[...]
        return head(take_positions(hidden_BTD, positions_BM), table_VD)

    def logits(
        self, head: str, hidden_BPD: Float[Array, "B P D"], keys: RowKeys = None
    ) -> Float[Array, "B P K"]:
        """Returns the float32 outputs of one of `LINEAR_HEADS`.

        Args:
            head: its name. Of `nsp` class 0 says that B follows A, class 1 that it is random; of
                `span` output 0 begins an answer and output 1 ends it.
            hidden_BPD: pooled outputs [B, P, D], or the last hidden state [B, T, D].
            keys: one PRNG key per row for the dropout before it; None turns it off.
        """
        return _required(getattr(self.heads, head), head)(hidden_BPD, keys)


def take_positions(
    hidden_BTD: Float[Array, "B T D"], positions_BP: Int[Array, "B P"]
) -> Float[Array, "B P D"]:
    """Gathers each row's hidden states at that row's positions."""
    return jnp.take_along_axis(hidden_BTD, positions_BP[:, :, None], axis=1)


def _required(module: Any, head: str) -> Any:
    if module is None:
        raise ValueError(f"the model has no {head!r} head: name it in EncoderConfig.heads")
    return module


class Model:
    """A model's definition without its parameters."""

    def __init__(self, config: EncoderConfig):
        self.config = config
        module = nnx.eval_shape(lambda: Encoder(config, rngs=nnx.Rngs(params=0)))
        self._definition, self._state = nnx.split(module)

    def init(self, key: jax.Array) -> Params:
        """Returns freshly initialised float32 parameters as a nested dict.

        Truncated normal of `initializer_range` for kernels and embeddings, zeros for biases, ones
        for LayerNorm scales (google-research/bert `modeling.py`, `create_initializer`); a normal
        distribution for kernels of `LINEAR_HEADS` (HF `_init_weights`).
        """
        return _plain(nnx.split(Encoder(self.config, rngs=nnx.Rngs(params=key)))[1])

    def abstract(self) -> Params:
        """Returns the parameters' tree with `jax.ShapeDtypeStruct` leaves."""
        return _plain(self._state)

    def axes(self) -> Params:
        """Returns the parameters' tree with the logical axis names of each array as leaves."""
        return _plain(self._state, lambda variable: variable.get_metadata("logical_axes"))

    def bind(self, params: Params, first_layer: int = 0) -> Encoder:
        """Returns the encoder that computes with these parameters.

        A gradient goes down to `first_layer`, the lowest one that has something to train, and stops
        there; 0: it goes on to the embeddings.

        The word table is the one parameter with two uses, at both ends of the model. It is gathered
        here, so that both share the copy and its gradients are exchanged once.
        """
        embeddings = dict(params["encoder"]["embeddings"])
        table_VD = partition.gather_table(embeddings["word_embeddings"], ("vocab", "embed"))
        embeddings["word_embeddings"] = table_VD
        params = {**params, "encoder": {**params["encoder"], "embeddings": embeddings}}
        state = jax.tree.map(
            lambda variable, value: variable.replace(value),
            self._state,
            nnx.State(params),
            is_leaf=lambda node: isinstance(node, nnx.Variable),
        )
        encoder = nnx.merge(self._definition, state)
        encoder.encoder.first_layer = first_layer
        return encoder


def _plain(state: Any, leaf: Any = lambda variable: variable.get_value()) -> Any:
    """Turns NNX state into nested dicts, in the state's own order of keys."""
    if isinstance(state, nnx.Variable):
        return leaf(state)
    return {str(key): _plain(child, leaf) for key, child in state.items()}


def build_model(config: EncoderConfig) -> Model:
    """Builds the model that a config describes, without allocating its parameters."""
    return Model(config)
