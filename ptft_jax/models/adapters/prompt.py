"""Virtual tokens in front of a text, whose trained vectors stand where word embeddings do.

prompt     the vectors themselves (Lester et al. 2021)
p_tuning   what three maps make of them (Liu et al. 2021, "GPT Understands, Too"; the MLP that is
           PEFT's `PromptEncoder`), which is all that is left of the maps after training

As in PEFT virtual tokens are of token type 0, have the first positions, and a pooler reads the
first of them in place of [CLS].

Shape suffixes: B batch, T tokens of a text's row, W the same with virtual tokens, S examples of a
row, V virtual tokens of each, D hidden.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec as P

from ptft_jax.models import partition
from ptft_jax.models.adapters.lora import kaiming
from ptft_jax.models.build import Batch, Params
from ptft_jax.models.config import EncoderConfig
from ptft_jax.models.layers import Linear, add_parameter, declare

_MAPS = ("first", "second", "third")


class Prompt(nnx.Module):
    """The parameters `tokens` [V, D], drawn as PEFT's are, and of `p_tuning` the maps behind."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs):
        assert config.adapter is not None
        size = config.hidden_size
        shape = self.shape = (config.adapter.num_virtual_tokens, size)
        self.axes = ("virtual", "embed")
        self.tokens = declare(rngs, shape, self.axes, jax.nn.initializers.normal(1.0), None)
        self.has_maps = config.adapter.name == "p_tuning"
        for name in _MAPS if self.has_maps else ():
            inputs, outputs = {"embed": size}, {"embed_out": size}
            more = {"rngs": rngs, "init": kaiming(size), "dtype": "float32"}
            setattr(self, name, Linear(config, "rd,de->re", inputs, outputs, **more))

    def __call__(self, position_ids_BW: jax.Array) -> jax.Array:
        """Returns the vector [B, W, D] of the virtual token of each position, float32.

        Of positions behind them it says nothing that is of use.
        """
        shape = len(position_ids_BW), *self.shape
        nothing = jnp.zeros(shape, jnp.float32, out_sharding=partition.batch_sharding(3))
        vectors_BVD = add_parameter(nothing, self.tokens[...], self.axes)
        for name in _MAPS if self.has_maps else ():
            vectors_BVD = jax.nn.relu(vectors_BVD) if name != _MAPS[0] else vectors_BVD
            vectors_BVD = getattr(self, name)(vectors_BVD)
        places_BW = jnp.minimum(position_ids_BW, self.shape[0] - 1)
        return jnp.take_along_axis(vectors_BVD, places_BW[:, :, None], axis=1)


def encoded(params: Params, config: EncoderConfig) -> tuple[Params, EncoderConfig]:
    """Returns the parameters, on the host, of the `prompt` that computes what a `p_tuning` does.

    Others are returned as they are.
    """
    if config.adapter is None or config.adapter.name != "p_tuning":
        return params, config
    own = params["encoder"]["embeddings"]["adapter"]
    vectors = np.asarray(own["tokens"], np.float32)
    for name in _MAPS:
        vectors = np.maximum(vectors, 0) if name != _MAPS[0] else vectors
        vectors = vectors @ np.asarray(own[name]["kernel"]) + np.asarray(own[name]["bias"])
    embeddings = {**params["encoder"]["embeddings"], "adapter": {"tokens": vectors}}
    params = {**params, "encoder": {**params["encoder"], "embeddings": embeddings}}
    adapter = dataclasses.replace(config.adapter, name="prompt")
    return params, config.replace(adapter=adapter)


class Widened(NamedTuple):
    """A batch with virtual tokens.

    Attributes:
        batch: what an encoder takes, each array [B, W, …].
        places: [B, T], where the output of each token is found among those of the batch; of a first
            token it may be that of its first virtual one.
    """

    batch: Batch
    places: jax.Array

    def narrowed(self, hidden: jax.Array) -> jax.Array:
        """Returns outputs [B, W, D] or [L, B, W, D] at the places of the text's tokens."""
        places = self.places[:, :, None]
        if hidden.ndim == 4:
            places = jnp.broadcast_to(places, (len(hidden), *places.shape))
        return jnp.take_along_axis(hidden, places, axis=-2)


def with_virtual_tokens(batch: Batch, count: int, pools_first: bool) -> Widened:
    """Puts virtual tokens in front of each example of a batch.

    Args:
        batch: see `BertEncoder`. Packed rows have the first token of each text as well, either as
            `first_positions` [B, S], and then room for virtual tokens, or as `pooled_positions` in
            any number of dimensions, and then they are made longer.
        count: how many, V.
        pools_first: whether the place of a first token is to be that of its first virtual token.
    """
    packed = "segment_ids" in batch
    visible = "segment_ids" if packed else "attention_mask"
    tokens = batch["input_ids"].shape[1]
    has_room = "first_positions" in batch
    if packed:
        firsts_BS = batch["first_positions" if has_room else "pooled_positions"]
        firsts_BS = partition.merged(firsts_BS, 1)
        positions_BT = batch["position_ids"]
    else:
        firsts_BS = jnp.zeros_like(batch[visible][:, :1])
        positions_BT = jnp.zeros_like(batch[visible]) + jnp.arange(tokens)
    wide = tokens if has_room else tokens + count * firsts_BS.shape[1]

    def local(visible_BT, positions_BT, firsts_BS):
        rows = jnp.arange(len(visible_BT))[:, None]
        # Virtual tokens of its own example and of those before it precede a token.
        to_BT = jnp.arange(tokens) + count * visible_BT
        kept_BT = jnp.where(visible_BT > 0, to_BT, wide)  # what is beyond the end is dropped
        source_BW = jnp.full((len(visible_BT), wide), tokens, jnp.int32)
        source_BW = source_BW.at[rows, kept_BT].set(jnp.arange(tokens), mode="drop")

        def moved(values, shift):
            return jnp.take_along_axis(values + shift, source_BW, 1, mode="fill", fill_value=0)

        number_BS = jnp.take_along_axis(visible_BT, firsts_BS, axis=1)
        start_BS = jnp.take_along_axis(to_BT, firsts_BS, axis=1) - count
        # A place for an example may be empty: it has no number.
        start_BS = jnp.where(number_BS > 0, start_BS, wide)
        numbers_BW, positions_BW = moved(visible_BT, 0), moved(positions_BT, count)
        for virtual in range(count):
            at = rows, start_BS + virtual
            numbers_BW = numbers_BW.at[at].set(number_BS, mode="drop")
            positions_BW = positions_BW.at[at].set(virtual, mode="drop")
        is_first_BT = (positions_BT == 0) & (visible_BT > 0) & pools_first
        places_BT = jnp.where(is_first_BT, to_BT - count, to_BT)
        return source_BW, numbers_BW, positions_BW, places_BT

    split = P(partition.BATCH, None)
    compute = partition.where_it_lies(local, (split,) * 3, (split,) * 4)
    source_BW, numbers_BW, positions_BW, places_BT = compute(
        batch[visible], positions_BT, firsts_BS
    )

    def of_each(values: jax.Array) -> jax.Array:
        places = source_BW.reshape(*source_BW.shape, *[1] * (values.ndim - 2))
        return jnp.take_along_axis(values, places, axis=1, mode="fill", fill_value=0)

    names = ("input_ids", "token_type_ids", "embedding_shift")
    made = {name: of_each(batch[name]) for name in names if name in batch}
    return Widened(made | {visible: numbers_BW, "position_ids": positions_BW}, places_BT)
