"""Our model computes what Hugging Face's PyTorch classes compute, to float32 rounding.

The bound is 1e-4 of each tensor's largest value; what was measured is about 1e-6.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hf_reference import (
    gradients_of,
    our_side,
    random_batch,
    reference,
    relative,
    relative_gradients,
    torch_inputs,
    torch_pretraining_labels,
)

from ptft_jax.convert.bert import to_hf
from ptft_jax.models.build import build_model
from ptft_jax.objectives.classification import ClassificationObjective
from ptft_jax.objectives.pretraining import PretrainingObjective
from ptft_jax.objectives.totals import loss_of

BOUND = 1e-4
PRETRAINING = ("pooler", "mlm", "nsp")


def on_device(batch):
    """Returns a batch as JAX arrays, for calls outside `jax.jit`."""
    return {name: jnp.asarray(rows) for name, rows in batch.items()}


def loss_and_gradients(config, params, objective, batch):
    """Returns the loss and the gradients under HF's names."""
    model = build_model(config)

    @jax.jit
    @jax.value_and_grad
    def loss(params, batch):
        totals = objective(model.bind(params), batch, keys=None)
        return loss_of(totals, totals.weight)

    value, gradients = loss(params, batch)
    return float(value), to_hf(gradients, config)


@pytest.fixture(scope="module")
def pretraining():
    """A reference model, a padded batch, and the reference's outputs, loss and gradients."""
    model, batch = reference(PRETRAINING), random_batch()
    labels = torch_pretraining_labels(batch)
    outputs = model(**torch_inputs(batch), **labels, output_hidden_states=True)
    outputs.loss.backward()
    return model, batch, outputs, gradients_of(model)


def test_outputs_of_the_pretraining_model(pretraining):
    """Every hidden state, the pooler and both heads agree, at padded positions too."""
    model, batch, outputs, _ = pretraining
    config, params = our_side(model, PRETRAINING)
    assert config.padded_vocab_size > config.vocab_size
    everywhere = np.tile(np.arange(23), (5, 1))

    @jax.jit
    def run(params, batch):
        encoder = build_model(config).bind(params)
        hidden = encoder.hidden_states(batch)
        pooled = encoder.pooled(hidden[-1], batch["pooled_positions"])
        last = encoder.last_hidden_state(batch)
        mlm = encoder.mlm_logits(last, jnp.asarray(everywhere))
        return hidden, last, pooled, mlm, encoder.nsp_logits(pooled)

    hidden, last, pooled, mlm, nsp = run(params, batch)
    assert len(hidden) == len(outputs.hidden_states) == config.num_hidden_layers + 1
    with torch.no_grad():
        pooler_output = model.bert(**torch_inputs(batch)).pooler_output
    for ours, theirs in zip(hidden, outputs.hidden_states, strict=True):
        assert relative(ours, theirs.detach()) < BOUND
    assert relative(last, outputs.hidden_states[-1].detach()) < BOUND
    assert relative(pooled[:, 0], pooler_output) < BOUND
    assert relative(mlm[..., :99], outputs.prediction_logits.detach()) < BOUND
    assert relative(nsp[:, 0], outputs.seq_relationship_logits.detach()) < BOUND
    assert np.asarray(mlm[..., 99:]).max() < -1e30, (
        "a token id beyond the vocabulary can be predicted"
    )


@pytest.mark.parametrize(
    "settings", [{}, {"unroll": 3}, {"remat": True}], ids=["scan", "unroll", "remat"]
)
def test_pretraining_loss_and_gradients(pretraining, settings):
    """Loss and every gradient agree, however the layers are run."""
    model, batch, outputs, theirs = pretraining
    config, params = our_side(model, PRETRAINING, **settings)
    loss, ours = loss_and_gradients(config, params, PretrainingObjective(), batch)
    assert loss == pytest.approx(outputs.loss.item(), rel=BOUND)
    errors = relative_gradients(ours, theirs)
    assert max(errors.values()) < BOUND, errors


def test_activations_are_those_of_the_same_name(pretraining):
    """Each `hidden_act` that the config accepts is HF's function of that name."""
    _, batch, _, _ = pretraining
    for name in ("gelu_new", "gelu_pytorch_tanh", "relu"):
        model = reference(("pooler",), hidden_act=name, num_hidden_layers=1)
        config, params = our_side(model, ("pooler",))
        ours = build_model(config).bind(params).last_hidden_state(batch)
        with torch.no_grad():
            theirs = model(**torch_inputs(batch)).last_hidden_state
        assert relative(ours, theirs) < BOUND, name


@pytest.mark.parametrize("num_labels", [3, 1], ids=["classification", "regression"])
def test_sequence_classification(num_labels):
    """Logits, loss and every gradient of the classifier agree, for labels and for a value."""
    heads = ("pooler", "classification")
    model, batch = reference(heads, num_labels=num_labels), random_batch()
    rng = np.random.default_rng(1)
    labels = rng.normal(size=5).astype(np.float32) if num_labels == 1 else rng.integers(0, 3, 5)
    outputs = model(**torch_inputs(batch), labels=torch.tensor(labels))
    outputs.loss.backward()
    config, params = our_side(model, heads)
    assert config.num_labels == num_labels
    batch = {
        "labels": labels if num_labels == 1 else labels.astype(np.int32),
        "weights": np.ones(5, np.float32),
        **batch,
    }
    objective = ClassificationObjective(regression=num_labels == 1)
    logits = objective.predict(build_model(config).bind(params), on_device(batch))
    assert relative(logits, outputs.logits.detach()) < BOUND
    loss, ours = loss_and_gradients(config, params, objective, batch)
    assert loss == pytest.approx(outputs.loss.item(), rel=BOUND)
    errors = relative_gradients(ours, gradients_of(model))
    assert max(errors.values()) < BOUND, errors
