"""A batch of each kind of task for us and for its PyTorch class, made of six rows of text."""

import numpy as np
import torch
from hf_reference import torch_inputs

from ptft_jax.objectives.choice import ChoiceObjective
from ptft_jax.objectives.classification import ClassificationObjective
from ptft_jax.objectives.span import SpanObjective
from ptft_jax.objectives.tagging import TaggingObjective


def with_choices(batch):
    """Returns three choices a row, each in a row of its own, and the same packed into one row."""
    length = batch["attention_mask"].sum(axis=1)
    packed = {
        name: np.zeros((2, 3 * batch["input_ids"].shape[1]), np.int32)
        for name in ("input_ids", "token_type_ids", "segment_ids", "position_ids")
    }
    starts = np.zeros((2, 3), np.int32)
    for row in range(6):
        one, choice = divmod(row, 3)
        start, end = starts[one, choice], starts[one, choice] + length[row]
        for name in ("input_ids", "token_type_ids"):
            packed[name][one, start:end] = batch[name][row, : length[row]]
        packed["segment_ids"][one, start:end] = choice + 1
        packed["position_ids"][one, start:end] = np.arange(length[row])
        if choice < 2:
            starts[one, choice + 1] = end
    packed["attention_mask"] = (packed["segment_ids"] > 0).astype(np.int32)
    return packed | {
        "pooled_positions": starts[:, None],
        "choice_mask": np.ones((2, 1, 3), np.int32),
    }


def classification(rng, batch):
    labels = rng.integers(0, 3, 6)
    ours = {"labels": labels.astype(np.int32)[:, None], "weights": np.ones((6, 1), np.float32)}
    return ClassificationObjective(), batch | ours, {"labels": torch.tensor(labels)}


def regression(rng, batch):
    labels = rng.normal(size=6).astype(np.float32)
    ours = {"labels": labels[:, None], "weights": np.ones((6, 1), np.float32)}
    return ClassificationObjective("regression"), batch | ours, {"labels": torch.tensor(labels)}


def multi_label(rng, batch):
    labels = rng.integers(0, 2, (6, 3)).astype(np.float32)
    ours = {"labels": labels[:, None], "weights": np.ones((6, 1), np.float32)}
    objective = ClassificationObjective("multi_label_classification")
    return objective, batch | ours, {"labels": torch.tensor(labels)}


def tagging(rng, batch):
    labels = rng.integers(0, 3, batch["input_ids"].shape).astype(np.int32)
    weights = (rng.random(labels.shape) < 0.6) * batch["attention_mask"].astype(np.float32)
    theirs = torch.tensor(np.where(weights > 0, labels, -100)).long()
    ours = {"labels": labels, "label_weights": weights, "weights": np.ones((6, 1), np.float32)}
    return TaggingObjective(), batch | ours, {"labels": theirs}


def span(rng, batch):
    # Rows of full length: PyTorch's softmax goes over padding as well.
    full = {"attention_mask": np.ones_like(batch["attention_mask"])}
    batch = batch | full | {"input_ids": np.maximum(batch["input_ids"], 1)}
    ends = np.sort(rng.integers(0, 23, (6, 2)), axis=1).astype(np.int32)
    ours = {"start_positions": ends[:, :1], "end_positions": ends[:, 1:]}
    theirs = {name: torch.tensor(places[:, 0]).long() for name, places in ours.items()}
    return SpanObjective(), batch | ours | {"weights": np.ones((6, 1), np.float32)}, theirs


def choice(rng, batch):
    labels = rng.integers(0, 3, 2)
    ours = {"labels": labels.astype(np.int32)[:, None], "weights": np.ones((2, 1), np.float32)}
    return ChoiceObjective(), with_choices(batch) | ours, {"labels": torch.tensor(labels)}


TASKS = {
    classification: (("pooler", "classification"), {"num_labels": 3}),
    regression: (("pooler", "classification"), {"num_labels": 1}),
    multi_label: (
        ("pooler", "classification"),
        {"num_labels": 3, "problem_type": "multi_label_classification"},
    ),
    tagging: (("tagging",), {"num_labels": 3}),
    span: (("span",), {}),
    choice: (("pooler", "choice"), {"max_position_embeddings": 40}),
}

# The others differ from classification in their loss alone, which is of float32 logits.
ONE_PER_HEAD = (classification, tagging, span, choice)


def torch_arguments(kind, rows, batch, labels):
    """Returns what the PyTorch class takes: the rows, three of which are choices, and labels."""
    inputs = torch_inputs(rows if kind is choice else batch)
    if kind is choice:
        inputs = {name: array.reshape(2, 3, -1) for name, array in inputs.items()}
    return {**inputs, **labels}
