"""What a student learns from its teacher is what PyTorch's losses make of two of its models."""

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
    relative_gradients,
    torch_inputs,
)
from task_batches import TASKS, classification, torch_arguments
from torch.nn.functional import cosine_embedding_loss, kl_div, log_softmax, mse_loss, softmax

from ptft_jax.convert.bert import to_hf
from ptft_jax.models.build import build_model
from ptft_jax.models.dropout import row_keys
from ptft_jax.objectives.added.distilled import Distilled
from ptft_jax.objectives.pretraining import PretrainingObjective
from ptft_jax.objectives.totals import loss_of

ROWS, TEMPERATURE = 6, 2.0
MLM = ("mlm",)


def check(model, theirs, expected, objective, batch, heads):
    """Compares loss and gradients of a training step with PyTorch's."""
    expected.backward()
    config, params = our_side(model, heads)
    teacher_config, teacher = our_side(theirs, heads)
    student, wise = build_model(config), build_model(teacher_config)
    batch = {name: jnp.asarray(array) for name, array in batch.items()}

    def loss(params):
        keys = row_keys(0, jnp.int32(0), ROWS)
        said = objective.taught(wise.bind(teacher), batch)
        totals = objective(student.bind(params), batch | said, keys=keys)
        return loss_of(totals, objective.weights(batch))

    found, grads = jax.jit(jax.value_and_grad(loss))(params)
    np.testing.assert_allclose(found, expected.item(), rtol=1e-4)
    for name, apart in relative_gradients(to_hf(grads, config), gradients_of(model)).items():
        assert apart < 1e-3, name


def soft(logits, wise):
    """Returns the divergence of two models' logits [N, K]."""
    first = log_softmax(logits / TEMPERATURE, -1)
    second = softmax(wise / TEMPERATURE, -1)
    return kl_div(first, second, reduction="batchmean") * TEMPERATURE**2


def test_a_masked_language_model():
    """DistilBERT's loss: masked tokens by label and teacher, and the cosine of the last state."""
    rows = random_batch(3, rows=ROWS)
    model, theirs = reference(MLM, num_hidden_layers=1), reference(MLM, seed=7)
    inputs = torch_inputs(rows)
    ours = model(**inputs, output_hidden_states=True)
    with torch.no_grad():
        wise = theirs(**inputs, output_hidden_states=True)
    at, slots = np.nonzero(rows["masked_lm_weights"])
    places = at, rows["masked_lm_positions"][at, slots]
    labels = torch.tensor(rows["masked_lm_ids"][at, slots]).long()
    real = rows["attention_mask"].astype(bool)
    last = [output.hidden_states[-1][real] for output in (ours, wise)]
    expected = (
        5 * soft(ours.logits[places], wise.logits[places])
        + 2 * torch.nn.functional.cross_entropy(ours.logits[places], labels)
        + cosine_embedding_loss(*last, torch.ones(len(last[0])))
    )
    task = PretrainingObjective(next_sentence=False)
    objective = Distilled(task, TEMPERATURE, 5.0, 1.0, 2.0)
    check(model, theirs, expected, objective, rows, MLM)


def test_layers_of_a_classifier():
    """TinyBERT's: squared differences of pairs of layers, and the embeddings, beside the logits."""
    rows, layers = random_batch(3, rows=ROWS), ((0, 0), (1, 3))
    heads, changes = TASKS[classification]
    model = reference(heads, num_hidden_layers=1, **changes)
    theirs = reference(heads, seed=7, num_hidden_layers=3, **changes)
    task, batch, labels = classification(np.random.default_rng(3), rows)
    arguments = torch_arguments(classification, rows, batch, labels)
    ours = model(**arguments, output_hidden_states=True)
    with torch.no_grad():
        wise = theirs(**arguments, output_hidden_states=True)
    real = rows["attention_mask"].astype(bool)
    apart = [
        mse_loss(ours.hidden_states[one][real], wise.hidden_states[other][real])
        for one, other in layers
    ]
    expected = 0.5 * ours.loss + 0.5 * soft(ours.logits, wise.logits) + 3 * sum(apart) / 2
    objective = Distilled(task, TEMPERATURE, 0.5, 3.0, 0.5, "mse", layers)
    check(model, theirs, expected, objective, batch, heads)


@pytest.mark.parametrize("kind", TASKS, ids=lambda kind: kind.__name__)
def test_a_model_that_is_its_own_teacher(kind):
    """It has nothing to learn, in every kind of task: the loss is the task's."""
    heads, changes = TASKS[kind]
    model = reference(heads, num_hidden_layers=1, **changes)
    task, batch, _ = kind(np.random.default_rng(3), random_batch(3, rows=ROWS))
    config, params = our_side(model, heads)
    encoder = build_model(config).bind(params)
    batch = {name: jnp.asarray(array) for name, array in batch.items()}
    objective = Distilled(task, 0.5, soft_weight=1.0, hidden_weight=1.0, task_weight=1.0)
    batch |= objective.taught(encoder, batch)
    keys = row_keys(0, jnp.int32(0), len(batch["input_ids"]))
    totals = objective(encoder, batch, keys=keys)
    alone = task(encoder, batch, keys=None)
    expected = loss_of(alone, task.weights(batch))
    np.testing.assert_allclose(loss_of(totals, objective.weights(batch)), expected, rtol=1e-5)
    assert objective(encoder, batch, keys=None).loss == alone.loss
