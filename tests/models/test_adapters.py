"""Adapters that PEFT does not have compute what their papers say; others are in test_peft."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hf_reference import our_side, random_batch, reference, relative, torch_inputs
from torch.nn.functional import gelu, relu

from ptft_jax.models.build import build_model
from ptft_jax.models.config import AdapterConfig
from ptft_jax.models.parts import named

BATCH = random_batch()


def adapted(name, **settings):
    """Returns a PyTorch encoder, our model of the same weights with an adapter, and parameters.

    The adapter's values are wide ones.
    """
    theirs = reference(("pooler",))
    config, params = our_side(theirs, ("pooler",))
    config = config.replace(adapter=AdapterConfig(name, **settings))
    model = build_model(config)
    fresh = model.init(jax.random.key(0))["encoder"]["layers"]
    rng = np.random.default_rng(0)
    for part, sublayer in fresh.items():
        if "adapter" in sublayer:
            wide = jax.tree.map(
                lambda leaf: jnp.asarray(rng.normal(0, 0.2, leaf.shape), jnp.float32),
                sublayer["adapter"],
            )
            params["encoder"]["layers"][part]["adapter"] = wide
    return theirs, model, params


def changed(params, part, act):
    """Returns the function of a layer's number and rows that an adapter computes, in PyTorch."""
    own = {
        path: torch.tensor(np.asarray(value))
        for path, value in named(params["encoder"]["layers"][part]["adapter"])
    }

    def change(layer, x):
        low = act(x @ own["down/kernel"][layer] + own["down/bias"][layer])
        return low @ own["up/kernel"][layer] + own["up/bias"][layer]

    return change


def replace(theirs, params, name):
    """Puts the adapter of a name into each layer of a PyTorch encoder."""
    for number, layer in enumerate(theirs.encoder.layer):
        for part, output in (("attention", layer.attention.output), ("feed_forward", layer.output)):
            if name == "houlsby":
                change = changed(params, part, gelu)
            elif part == "feed_forward":
                change = changed(params, part, relu)
            else:
                continue

            def forward(states, inputs, output=output, change=change, number=number):
                update = output.dense(states)
                if name == "houlsby":
                    update = update + change(number, update)
                elif name == "pfeiffer":
                    update = update + change(number, output.LayerNorm(update + inputs))
                else:
                    update = update + 4 * change(number, inputs)
                return output.LayerNorm(update + inputs)

            output.forward = forward


@pytest.mark.parametrize("name", ["houlsby", "pfeiffer", "parallel"])
def test_bottlenecks(name):
    """As the papers' equations, written for PyTorch's layers."""
    theirs, model, params = adapted(name, rank=5)
    names = ("input_ids", "attention_mask", "token_type_ids")
    batch = {key: jnp.asarray(BATCH[key]) for key in names}
    ours = model.bind(params).last_hidden_state(batch)
    replace(theirs, params, name)
    with torch.no_grad():
        found = theirs(**torch_inputs(BATCH)).last_hidden_state.numpy()
    real = BATCH["attention_mask"].astype(bool)
    assert relative(np.asarray(ours)[real], found[real]) < 1e-4


def test_each_example_of_a_packed_row_attends_to_a_prefix():
    """And to nothing of its neighbours, as in a row of its own."""
    _, model, params = adapted("prefix", num_virtual_tokens=3)
    encoder, lengths = model.bind(params), BATCH["attention_mask"].sum(axis=1)
    packed = {
        name: np.zeros((1, lengths.sum()), np.int32)
        for name in ("input_ids", "token_type_ids", "segment_ids", "position_ids")
    }
    start = 0
    for row, length in enumerate(lengths):
        for name in ("input_ids", "token_type_ids"):
            packed[name][0, start : start + length] = BATCH[name][row, :length]
        packed["segment_ids"][0, start : start + length] = row + 1
        packed["position_ids"][0, start : start + length] = np.arange(length)
        start += length
    packed["attention_mask"] = np.ones_like(packed["input_ids"])
    names = ("input_ids", "attention_mask", "token_type_ids")
    alone = encoder.last_hidden_state({name: jnp.asarray(BATCH[name]) for name in names})
    together = encoder.last_hidden_state(jax.tree.map(jnp.asarray, packed))
    real = np.asarray(alone)[BATCH["attention_mask"].astype(bool)]
    np.testing.assert_allclose(np.asarray(together)[0], real, atol=1e-4)
