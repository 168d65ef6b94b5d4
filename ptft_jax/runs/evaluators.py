"""Evaluation of whole splits, as training, `ptft evaluate` and the demo do it."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from jax.sharding import Mesh

from ptft_jax.data.batches import evaluation_batches
from ptft_jax.data.pretraining.examples import PretrainingExamples
from ptft_jax.data.tasks.classification import ClassificationExamples
from ptft_jax.errors import DataError
from ptft_jax.models.build import Model, Params
from ptft_jax.objectives.classification import ClassificationObjective
from ptft_jax.objectives.metrics import compute_metrics, not_finite
from ptft_jax.objectives.pretraining import PretrainingObjective
from ptft_jax.training.cluster.job import Job
from ptft_jax.training.evaluation import evaluate, evaluate_with_outputs
from ptft_jax.training.loop import until_stopped
from ptft_jax.training.mesh import process_rows, put_batch
from ptft_jax.training.step import make_eval_step, make_scoring_step

Evaluate = Callable[[Params], Mapping[str, Mapping[str, float]]]


def pretraining_evaluator(
    model: Model,
    objective: PretrainingObjective,
    examples: PretrainingExamples,
    batch_size: int,
    accumulate: int,
    max_examples: int,
    mesh: Mesh,
    job: Job,
) -> Evaluate:
    """Returns the function from parameters to {"dev": {loss, mlm_accuracy, …}}.

    The examples are those of epoch 0 of the split, the same at every call. `max_examples` 0 means
    all of them; it is rounded up to whole batches of training, which are read in its micro-batches:
    what fits in training fits here. The function raises DataError where the loss is not finite.
    """
    step = make_eval_step(model, objective)
    part = batch_size // accumulate
    rows = process_rows(mesh, part)
    max_batches = -(-max_examples // batch_size) * accumulate if max_examples else None

    def run(params: Params) -> dict[str, dict[str, float]]:
        batches = evaluation_batches(examples, part, rows, max_batches)
        put = partial(put_batch, mesh=mesh)
        with _split("dev"):
            means = evaluate(step, params, until_stopped(batches, job), put)
            _check_loss(means["loss"])
        return {"dev": means}

    return run


def classification_evaluator(
    model: Model,
    objective: ClassificationObjective,
    splits: Mapping[str, ClassificationExamples],
    metrics: tuple[str, ...],
    batch_size: int,
    mesh: Mesh,
    job: Job,
) -> Evaluate:
    """Returns the function from parameters to {split: {loss, the task's metrics}}.

    It raises DataError where outputs or loss are not finite.
    """
    step = make_scoring_step(model, objective)
    rows = process_rows(mesh, batch_size)
    put: Any = partial(put_batch, mesh=mesh)

    def score(params: Params, examples: ClassificationExamples) -> dict[str, float]:
        batches = evaluation_batches(examples, batch_size, rows)
        means, outputs = evaluate_with_outputs(step, params, until_stopped(batches, job), put)
        scores = compute_metrics(metrics, outputs["logits"], outputs["labels"])
        _check_loss(means["loss"])
        return {"loss": means["loss"], **scores}

    def run(params: Params) -> dict[str, dict[str, float]]:
        results = {}
        for name, examples in splits.items():
            with _split(name):
                results[name] = score(params, examples)
        return results

    return run


@contextmanager
def _split(name: str) -> Iterator[None]:
    """Names the split in a DataError of its evaluation."""
    try:
        yield
    except DataError as error:
        raise DataError(f"split {name}: {error}") from error


def _check_loss(loss: float) -> None:
    if not math.isfinite(loss):
        raise not_finite("the loss is")
