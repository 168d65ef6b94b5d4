"""What keeps a small data set from being learnt by heart gives the losses of its formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
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
from ptft_jax.objectives.added.mixup import Mixup, following
from ptft_jax.objectives.added.regularized import FastGradient, RDrop, Smart, noise, second_keys
from ptft_jax.objectives.totals import loss_of
from ptft_jax.training.mesh import MeshConfig, make_mesh, put_batch, put_params

ROWS = 6
KEYS = row_keys(0, jnp.int32(0), ROWS)


def sides(kind):
    """Returns the PyTorch model, its arguments, our objective and batch, config and parameters."""
    heads, changes = TASKS[kind]
    model = reference(heads, num_hidden_layers=1, **changes)
    rows = random_batch(3, rows=ROWS)
    objective, batch, labels = kind(np.random.default_rng(3), rows)
    arguments = torch_arguments(kind, rows, batch, labels)
    batch = {name: jnp.asarray(array) for name, array in batch.items()}
    return model, arguments, objective, batch, *our_side(model, heads)


def loss_and_gradients(config, params, objective, batch):
    """Returns what a training step makes of a batch: loss, metrics and norm of the gradients."""
    model = build_model(config)

    def loss(params, batch):
        keys = row_keys(0, jnp.int32(0), batch["input_ids"].shape[0])
        totals = objective(model.bind(params), batch, keys=keys)
        return loss_of(totals, objective.weights(batch)), totals.metrics

    compute = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (found, metrics), grads = compute(params, batch)
    means = {name: float(total / count) for name, (total, count) in metrics.items()}
    return {"loss": float(found), "grad_norm": float(optax.tree.norm(grads)), **means}


def moved(model, arguments, shift):
    """Returns the outputs of a PyTorch model whose word embeddings are moved."""
    others = {name: value for name, value in arguments.items() if name != "input_ids"}
    words = model.get_input_embeddings()(arguments["input_ids"])
    return model(**others, inputs_embeds=words + shift)


def norm_of(model):
    return np.sqrt(sum(np.square(one).sum() for one in gradients_of(model).values()))


def divergence_of(logits, others):
    """Returns the divergence in both directions by PyTorch's function."""
    first, second = log_softmax(logits, -1), log_softmax(others, -1)
    both = kl_div(first, second, log_target=True, reduction="none")
    return (both + kl_div(second, first, log_target=True, reduction="none")).sum(-1)


def test_fast_gradient_is_that_of_pytorch():
    """Loss and gradient of both passes, where each text is moved by its own gradient."""
    model, arguments, objective, batch, config, params = sides(classification)
    shift = torch.zeros((ROWS, 23, 48), requires_grad=True)
    loss = moved(model, arguments, shift).loss
    (gradient,) = torch.autograd.grad(loss, shift)
    shift = 2.0 * gradient / gradient.flatten(-2).norm(dim=-1)[..., None, None]
    expected = model(**arguments).loss + 0.7 * moved(model, arguments, shift).loss
    expected.backward()
    found = loss_and_gradients(config, params, FastGradient(objective, 0.7, 2.0), batch)
    assert expected.item() > 1.05 * 1.7 * loss.item()
    np.testing.assert_allclose(found["loss"], expected.item(), rtol=1e-4)
    np.testing.assert_allclose(found["grad_norm"], norm_of(model), rtol=1e-3)

    # Where no layer is trained, the gradient by the embeddings comes down through all of them.
    encoder = build_model(config).bind(params, first_layer=1)
    objective = FastGradient(objective, 0.7, 2.0)
    totals = jax.jit(lambda batch: objective(encoder, batch, keys=KEYS))(batch)
    frozen = loss_of(totals, objective.weights(batch))
    np.testing.assert_allclose(frozen, expected.item(), rtol=1e-4)


def test_smart_is_that_of_pytorch():
    """Loss and gradient from the same noise, which is a row's own wherever it is."""
    model, arguments, objective, batch, config, params = sides(classification)
    epsilon, step_size = 0.02, 0.05
    start = epsilon * np.asarray(noise(KEYS, jnp.zeros((ROWS, 23, 48))))
    shift = torch.tensor(start, requires_grad=True)
    output = model(**arguments)
    first = divergence_of(moved(model, arguments, shift).logits, output.logits.detach()).sum()
    (gradient,) = torch.autograd.grad(first, shift)
    largest = gradient.abs().flatten(-2).max(dim=-1).values
    shift = (shift.detach() + step_size * gradient / largest[:, None, None]).clip(-epsilon, epsilon)
    added = divergence_of(moved(model, arguments, shift).logits, output.logits).mean()
    expected = output.loss + 3.0 * added
    expected.backward()
    objective = Smart(objective, 3.0, epsilon, step_size)
    found = loss_and_gradients(config, params, objective, batch)
    assert added.item() > 2 * first.item() / ROWS
    np.testing.assert_allclose(found["divergence"], added.item(), rtol=1e-3)
    np.testing.assert_allclose(found["loss"], expected.item(), rtol=1e-4)
    np.testing.assert_allclose(found["grad_norm"], norm_of(model), rtol=1e-3)

    mesh = make_mesh(MeshConfig(data=1, fsdp=2, tensor=4))
    with jax.set_mesh(mesh):
        placed = put_params(params, build_model(config).axes(), mesh)
        rows = put_batch(jax.tree.map(np.asarray, batch), mesh)
        spread = loss_and_gradients(config, placed, objective, rows)
    for name, value in found.items():
        np.testing.assert_allclose(spread[name], value, rtol=1e-3, err_msg=name)


@pytest.mark.parametrize("kind", TASKS, ids=lambda kind: kind.__name__)
def test_divergences_are_those_of_pytorch(kind):
    """At each position of each kind of task; tokens that are no candidates add nothing."""
    objective, batch, _ = kind(np.random.default_rng(0), random_batch(3, rows=ROWS))
    rng = np.random.default_rng(1)
    shapes = {choice: (2, 1, 3), tagging: (ROWS, 23, 3), span: (ROWS, 1, 2, 23)}
    shape = shapes.get(kind, (ROWS, 1, 1 if kind is regression else 3))
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
        expected = torch.tensor((ours - theirs)[..., 0] ** 2)
    else:
        expected = divergence_of(torch.tensor(ours), torch.tensor(theirs))
    ours, theirs = jnp.asarray(ours), jnp.asarray(theirs)
    found = objective.divergences(ours, theirs) + objective.divergences(theirs, ours)
    assert found.shape == objective.counts(jax.tree.map(jnp.asarray, batch)).shape
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_two_passes_with_other_masks():
    """R-Drop: the mean of two losses, and the divergence of what two passes gave; no divergence
    without dropout.
    """
    _, _, objective, batch, config, params = sides(tagging)
    twice, still = RDrop(objective, 2.0), build_model(config)
    model = build_model(config.replace(hidden_dropout_prob=0.3))

    @jax.jit
    def compute(params):
        encoder = model.bind(params)
        logits = [objective.logits(encoder, batch, one) for one in (KEYS, second_keys(KEYS))]
        plain = objective(still.bind(params), batch, keys=KEYS)
        return logits, plain, *(twice(one.bind(params), batch, keys=KEYS) for one in (still, model))

    logits, plain, alike, found = compute(params)
    assert float(alike.loss["divergence"]) == 0
    np.testing.assert_allclose(alike.loss["tagging"], plain.loss["tagging"], rtol=1e-6)
    weights = torch.tensor(np.asarray(batch["label_weights"]))
    labels = torch.tensor(np.asarray(batch["labels"])).long()[..., None]
    first, second = (torch.tensor(np.asarray(one)) for one in logits)
    losses = [-log_softmax(one, -1).gather(-1, labels)[..., 0] for one in (first, second)]
    added = (divergence_of(first, second) / 2 * weights).sum() / weights.sum()
    expected = ((losses[0] + losses[1]) / 2 * weights).sum() / weights.sum() + 2.0 * added
    assert added.item() > 0.01
    np.testing.assert_allclose(loss_of(found, twice.weights(batch)), expected.item(), rtol=1e-4)


@pytest.mark.parametrize("kind", [classification, multi_label, regression])
def test_mixup_is_that_of_pytorch(kind):
    """Loss and gradient of pooled vectors mixed by given shares, against either label."""
    model, arguments, objective, batch, config, params = sides(kind)
    # As a packed row of two has them: an example and the next one, the last one and the first.
    pairs = {name: value.reshape(3, 2, *value.shape[1:]) for name, value in batch.items()}
    batch = {
        name: pairs[name].reshape(3, -1)
        for name in ("input_ids", "attention_mask", "token_type_ids")
    }
    tokens = batch["input_ids"].shape[1] // 2
    batch["segment_ids"] = jnp.tile(jnp.repeat(jnp.array([1, 2]), tokens), (3, 1))
    batch["segment_ids"] *= batch["attention_mask"]
    batch["position_ids"] = jnp.tile(jnp.arange(tokens), (3, 2))
    batch["pooled_positions"] = jnp.tile(jnp.array([0, tokens]), (3, 1))
    for name in ("labels", "weights"):
        batch[name] = pairs[name][:, :, 0]
    share = np.random.default_rng(0).random(ROWS).astype(np.float32)
    batch["shares"] = jnp.asarray(share.reshape(3, 2))
    found = loss_and_gradients(config, params, Mixup(objective), batch)
    other = np.arange(ROWS).reshape(3, 2)[:, ::-1].reshape(-1)
    share = torch.tensor(share)
    base = {name: value for name, value in arguments.items() if name != "labels"}
    pooled = model.bert(**base).pooler_output
    mixed = share[:, None] * pooled + (1 - share[:, None]) * pooled[other.tolist()]
    logits, labels = model.classifier(mixed), arguments["labels"]
    losses = [
        torch.stack([LOSSES[kind](logits[row], of[row]) for row in range(ROWS)])
        for of in (labels, labels[other.tolist()])
    ]
    loss = (share * losses[0] + (1 - share) * losses[1]).mean()
    loss.backward()
    assert found["loss"] == pytest.approx(loss.item(), rel=1e-4)
    assert found["grad_norm"] == pytest.approx(norm_of(model), rel=1e-3)


LOSSES = {
    classification: torch.nn.functional.cross_entropy,
    multi_label: torch.nn.functional.binary_cross_entropy_with_logits,
    regression: lambda logits, label: (logits[0] - label) ** 2,
}


def test_who_is_mixed_with_whom():
    """The next real example of the row; one that is alone with itself; fillers with nobody."""
    weights = jnp.array([[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]], jnp.float32)
    expected = [[1, 2, 0, 3], [0, 1, 2, 3], [0, 1, 2, 3]]
    assert following({"weights": weights}).tolist() == expected
