"""Weights of classes and smoothed labels give PyTorch's losses and gradients, whole or in parts."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hf_reference import gradients_of, our_side, random_batch, reference
from task_batches import TASKS, choice, classification, multi_label, tagging, torch_arguments

from ptft_jax.models.build import build_model
from ptft_jax.training.step import init_state, make_train_step
from ptft_jax.training.updates.optimizer import OptimizerConfig, ScheduleConfig, make_optimizer

# Below one, so that those of a batch add up to less than one example of weight 1.
WEIGHTS = (0.01, 0.05, 0.02)
OPTIONS = {
    "weights": {"class_weights": WEIGHTS},
    "smoothing": {"label_smoothing": 0.2},
    "both": {"class_weights": WEIGHTS, "label_smoothing": 0.2},
}
# Kind, option, and into how many parts a batch is cut. Kinds that take several take them alike.
CASES = [
    (classification, "both", 1),
    *((classification, option, 2) for option in OPTIONS),
    (tagging, "both", 2),
    (choice, "smoothing", 2),
    (multi_label, "weights", 2),
]


def torch_loss(kind, logits, labels, options):
    """Returns the loss by PyTorch's own module."""
    weights = options.get("class_weights")
    weights = None if weights is None else torch.tensor(weights)
    if kind is multi_label:
        return torch.nn.BCEWithLogitsLoss(pos_weight=weights)(logits, labels)
    smoothing = options.get("label_smoothing", 0.0)
    loss = torch.nn.CrossEntropyLoss(weights, label_smoothing=smoothing)
    if kind is choice:  # the second example has two choices
        return (loss(logits[0], labels[0]) + loss(logits[1, :2], labels[1])) / 2
    return loss(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1))


@pytest.mark.parametrize(
    ("kind", "option", "parts"), CASES, ids=lambda one: getattr(one, "__name__", one)
)
def test_losses_and_gradients_are_those_of_pytorch(kind, option, parts):
    """The sums of weights are those of the whole batch, however many parts it is read in."""
    heads, changes = TASKS[kind]
    options = OPTIONS[option]
    model = reference(heads, **changes)
    rows = random_batch(3, rows=6)
    objective, batch, labels = kind(np.random.default_rng(3), rows)
    if kind is choice:
        labels = {"labels": torch.tensor([2, 1])}
        batch["labels"] = labels["labels"].numpy().astype(np.int32)[:, None]
        batch["choice_mask"] = np.array([[[1, 1, 1]], [[1, 1, 0]]], np.int32)
    objective = dataclasses.replace(objective, **options)
    arguments = torch_arguments(kind, rows, batch, labels)
    expected = torch_loss(kind, model(**arguments).logits, arguments["labels"], options)
    expected.backward()
    norm = np.sqrt(sum(np.square(one).sum() for one in gradients_of(model).values()))

    config, params = our_side(model, heads)
    ours = build_model(config)
    optimizer, schedule = make_optimizer(OptimizerConfig(), ScheduleConfig(), 10, ours.axes())
    step = make_train_step(ours, objective, optimizer, schedule, seed=0, accumulate=parts)
    state = init_state(ours, optimizer, seed=0, params=params)
    _, metrics = step(state, {name: jnp.asarray(array) for name, array in batch.items()})
    np.testing.assert_allclose(float(metrics["loss"]), expected.item(), rtol=1e-4)
    np.testing.assert_allclose(float(metrics["grad_norm"]), norm, rtol=1e-4)
    assert 0 <= float(metrics["accuracy"]) <= 1
