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
    fresh = model.init(jax.random.key(0))["encoder"]
    places = {part: params["encoder"]["layers"][part] for part in fresh["layers"]}
    places["embeddings"] = params["encoder"]["embeddings"]
    rng = np.random.default_rng(0)
    for part, place in places.items():
        own = {**fresh["layers"], **fresh}[part].get("adapter", {})
        wide = jax.tree.map(
            lambda leaf: jnp.asarray(rng.normal(0, 0.2, leaf.shape), jnp.float32), own
        )
        place |= {"adapter": wide} if own else {}
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


def test_the_outputs_of_a_text_behind_a_prompt():
    """Are PyTorch's at its tokens, where no pooler wants the first virtual token's."""
    theirs, model, params = adapted("prompt", num_virtual_tokens=3)
    inputs = torch_inputs(BATCH)
    prompt = torch.tensor(np.asarray(params["encoder"]["embeddings"]["adapter"]["tokens"]))
    words = theirs.embeddings.word_embeddings(inputs.pop("input_ids"))
    inputs = {name: torch.nn.functional.pad(one, (3, 0)) for name, one in inputs.items()}
    inputs["attention_mask"][:, :3] = 1
    rows = torch.cat([prompt.expand(len(words), -1, -1), words], dim=1)
    with torch.no_grad():
        found = theirs(inputs_embeds=rows, **inputs).last_hidden_state.numpy()
    names = ("input_ids", "attention_mask", "token_type_ids")
    batch = {key: jnp.asarray(BATCH[key]) for key in names}
    del params["encoder"]["pooler"]
    encoder = build_model(model.config.replace(heads=())).bind(params)
    real = BATCH["attention_mask"].astype(bool)
    for ours in (encoder.last_hidden_state(batch), encoder.hidden_states(batch)[-1]):
        assert relative(np.asarray(ours)[real], found[:, 3:][real]) < 1e-4


@pytest.mark.parametrize("name", ["prefix", "prompt", "p_tuning"])
def test_each_example_of_a_packed_row_has_its_virtual_tokens(name):
    """And sees nothing of its neighbours, as in a row of its own; places may be left empty."""
    _, model, params = adapted(name, num_virtual_tokens=3)
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
    packed["pooled_positions"] = np.zeros((1, len(lengths) + 2), np.int32)
    packed["pooled_positions"][0, : len(lengths)] = np.cumsum(lengths) - lengths
    names = ("input_ids", "attention_mask", "token_type_ids")
    alone = encoder.last_hidden_state({name: jnp.asarray(BATCH[name]) for name in names})
    together = encoder.last_hidden_state(jax.tree.map(jnp.asarray, packed))
    real = np.asarray(alone)[BATCH["attention_mask"].astype(bool)]
    np.testing.assert_allclose(np.asarray(together)[0], real, atol=1e-4)
