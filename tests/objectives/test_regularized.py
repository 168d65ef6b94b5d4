"""What keeps a small data set from being learnt by heart gives the losses of its formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hf_reference import gradients_of, our_side, random_batch, reference
from task_batches import (
    TASKS,
    choice,
    classification,
    multi_label,
    regression,
    span,
    tagging,
    torch_arguments,
)
from torch.nn.functional import kl_div, log_softmax, logsigmoid

from ptft_jax.models.build import build_model
from ptft_jax.models.dropout import row_keys
from ptft_jax.objectives.regularized import FastGradient, RDrop, Smart, noise, second_keys
from ptft_jax.training.mesh import MeshConfig, make_mesh, put_batch
from ptft_jax.training.optimizer import OptimizerConfig, ScheduleConfig, make_optimizer
from ptft_jax.training.step import init_state, make_train_step

SMALL = {"num_hidden_layers": 1}


def update(config, objective, batch, params=None, mesh=None, accumulate=1):
    """Returns the metrics of an update."""
    model = build_model(config)
    optimizer, schedule = make_optimizer(OptimizerConfig(), ScheduleConfig(), 10, model.axes())
    with jax.set_mesh(mesh or make_mesh(MeshConfig(), jax.devices()[:1])) as mesh:
        state = init_state(model, optimizer, seed=0, params=params)
        step = make_train_step(model, objective, optimizer, schedule, seed=0, accumulate=accumulate)
        _, metrics = step(state, put_batch(batch, jax.sharding.get_mesh()))
    return {name: float(value) for name, value in metrics.items()}


def sides(kind, **changes):
    """Returns the PyTorch model, its arguments, our objective and batch, config and parameters."""
    heads, more = TASKS[kind]
    model = reference(heads, **{**more, **SMALL, **changes})
    rows = random_batch(3, rows=6)
    objective, batch, labels = kind(np.random.default_rng(3), rows)
    arguments = torch_arguments(kind, rows, batch, labels)
    return model, arguments, objective, batch, *our_side(model, heads)


def moved(model, arguments, shift):
    """Returns the outputs of a PyTorch model whose word embeddings are moved."""
    others = {name: value for name, value in arguments.items() if name != "input_ids"}
    words = model.get_input_embeddings()(arguments["input_ids"])
    return model(**others, inputs_embeds=words + shift)


def zeros(arguments):
    shape = (*arguments["input_ids"].shape, 48)
    return torch.zeros(shape, requires_grad=True)


def divergence_of(logits, others):
    """Returns the divergence in both directions by PyTorch's function."""
    first, second = log_softmax(logits, -1), log_softmax(others, -1)
    both = kl_div(first, second, log_target=True, reduction="none")
    return (both + kl_div(second, first, log_target=True, reduction="none")).sum(-1)


@pytest.mark.parametrize(("kind", "parts"), [(classification, 2), (choice, 1)])
def test_fast_gradient_is_that_of_pytorch(kind, parts):
    """Loss and gradient of both passes, where each text is moved by its own gradient."""
    model, arguments, objective, batch, config, params = sides(kind)
    shift = zeros(arguments)
    loss = moved(model, arguments, shift).loss
    (gradient,) = torch.autograd.grad(loss, shift)
    shift = 2.0 * gradient / gradient.flatten(-2).norm(dim=-1)[..., None, None]
    expected = model(**arguments).loss + 0.7 * moved(model, arguments, shift).loss
    expected.backward()
    norm = np.sqrt(sum(np.square(one).sum() for one in gradients_of(model).values()))
    found = update(config, FastGradient(objective, 0.7, 2.0), batch, params, accumulate=parts)
    assert expected.item() > 1.05 * 1.7 * loss.item()
    np.testing.assert_allclose(found["loss"], expected.item(), rtol=1e-4)
    np.testing.assert_allclose(found["grad_norm"], norm, rtol=1e-3)


def test_smart_is_that_of_pytorch():
    """Loss and gradient, from the same noise."""
    model, arguments, objective, batch, config, params = sides(classification)
    epsilon, step_size = 0.02, 0.05
    keys = row_keys(0, jnp.int32(0), 6)
    start = epsilon * np.asarray(noise(keys, jnp.zeros((6, 23, 48))))
    shift = torch.tensor(start, requires_grad=True)
    model_output = model(**arguments)
    logits = model_output.logits
    divergence = divergence_of(moved(model, arguments, shift).logits, logits.detach()).sum()
    (gradient,) = torch.autograd.grad(divergence, shift)
    largest = gradient.abs().flatten(-2).max(dim=-1).values
    shift = (shift.detach() + step_size * gradient / largest[:, None, None]).clip(-epsilon, epsilon)
    added = divergence_of(moved(model, arguments, shift).logits, logits).mean()
    expected = model_output.loss + 3.0 * added
    expected.backward()
    norm = np.sqrt(sum(np.square(one).sum() for one in gradients_of(model).values()))
    found = update(config, Smart(objective, 3.0, epsilon, step_size), batch, params)
    assert added.item() > 2 * divergence.item() / 6
    np.testing.assert_allclose(found["divergence"], added.item(), rtol=1e-3)
    np.testing.assert_allclose(found["loss"], expected.item(), rtol=1e-4)
    np.testing.assert_allclose(found["grad_norm"], norm, rtol=1e-3)


@pytest.mark.parametrize("kind", TASKS, ids=lambda kind: kind.__name__)
def test_divergences_are_those_of_pytorch(kind):
    """At each position of each kind of task; choices and tokens that are none add nothing."""
    objective, batch, _ = kind(np.random.default_rng(0), random_batch(3, rows=6))
    rng = np.random.default_rng(1)
    shape = {choice: (2, 1, 3), tagging: (6, 23, 3), span: (6, 1, 2, 23)}.get(kind, (6, 1, 3))
    ours, theirs = (rng.normal(size=shape).astype(np.float32) for _ in range(2))
    if kind is span:
        expected = divergence_of(torch.tensor(ours[..., :9]), torch.tensor(theirs[..., :9])).mean(2)
        for logits in (ours, theirs):
            logits[..., 9:] = np.finfo(np.float32).min
    elif kind is multi_label:
        both = [torch.tensor(np.stack([one, -one], -1)) for one in (ours, theirs)]
        first, second = map(logsigmoid, both)
        expected = ((first.exp() - second.exp()) * (first - second)).sum(-1).mean(-1)
    elif kind is regression:
        ours, theirs = ours[..., :1], theirs[..., :1]
        expected = torch.tensor((ours - theirs)[..., 0] ** 2)
    else:
        expected = divergence_of(torch.tensor(ours), torch.tensor(theirs))
    found = objective.divergences(jnp.asarray(ours), jnp.asarray(theirs))
    assert found.shape == objective.counts(jax.tree.map(jnp.asarray, batch)).shape
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_two_passes_with_other_masks():
    """R-Drop: the mean of two losses, and the divergence of what two passes gave."""
    _, _, objective, batch, config, params = sides(tagging)
    dropping = config.replace(hidden_dropout_prob=0.3)
    plain, none = update(config, objective, batch, params), RDrop(objective, 2.0)
    found = update(config, none, batch, params)
    assert found["divergence"] == 0
    for name in ("loss", "grad_norm", "accuracy"):
        np.testing.assert_allclose(found[name], plain[name], rtol=1e-5)

    encoder = build_model(dropping).bind(params)
    keys = row_keys(0, jnp.int32(0), 6)
    logits = [objective.logits(encoder, batch, one) for one in (keys, second_keys(keys))]
    weights = torch.tensor(batch["label_weights"])
    labels = torch.tensor(batch["labels"]).long()[..., None]
    first, second = (torch.tensor(np.asarray(one)) for one in logits)
    losses = [-log_softmax(one, -1).gather(-1, labels)[..., 0] for one in (first, second)]
    added = (divergence_of(first, second) / 2 * weights).sum() / weights.sum()
    expected = ((losses[0] + losses[1]) / 2 * weights).sum() / weights.sum() + 2.0 * added
    found = update(dropping, none, batch, params)
    assert added.item() > 0.01
    np.testing.assert_allclose(found["loss"], expected.item(), rtol=1e-4)
    np.testing.assert_allclose(found["divergence"], added.item(), rtol=1e-3)


@pytest.mark.parametrize("regularizer", [RDrop, Smart])
def test_the_same_on_any_mesh(regularizer):
    """Noise and masks are those of a row, wherever it is, in bfloat16 as well."""
    _, _, objective, batch, config, params = sides(classification)
    batch = {name: np.concatenate([rows, rows[::-1], rows[:4]]) for name, rows in batch.items()}
    config = config.replace(hidden_dropout_prob=0.1)
    objective = regularizer(objective)
    expected = update(config, objective, batch, params)
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    found = update(config, objective, batch, params, mesh, accumulate=2)
    for name in ("loss", "grad_norm", "divergence"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-3, err_msg=name)
