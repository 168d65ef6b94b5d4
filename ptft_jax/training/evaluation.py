"""Metrics over a whole split: sums of all batches, divided once.

The outputs of the evaluation steps are fully replicated, so every process of a job gets the same
numbers; each hands in its own rows of every batch, and all have the same number of batches.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from ptft_jax.errors import DataError
from ptft_jax.objectives.totals import Totals

Batch = Mapping[str, np.ndarray]
Put = Callable[[Batch], Any]
Outputs = dict[str, np.ndarray]


def evaluate(
    eval_step: Callable[[Any, Any], Totals], params: Any, batches: Iterable[Batch], put: Put
) -> dict[str, float]:
    """Return the means over all batches: 'loss' and the metrics of the objective.

    'loss' is the sum over its terms of loss / weight, as in training. `eval_step` maps the
    parameters and a batch placed by `put` to sums; they are added in float64. A metric without a
    single count is 0. Raises DataError when there is no batch.
    """

    def step(params: Any, batch: Any) -> tuple[Totals, dict[str, Any]]:
        return eval_step(params, batch), {}

    return evaluate_with_outputs(step, params, batches, put)[0]


def evaluate_with_outputs(
    eval_step: Callable[[Any, Any], tuple[Totals, Mapping[str, Any]]],
    params: Any,
    batches: Iterable[Batch],
    put: Put,
) -> tuple[dict[str, float], Outputs]:
    """Return the means as `evaluate` does, and the per-row outputs of all batches in their order.

    `eval_step` returns, beside the sums, arrays [B, …] by name, and 'weights' [B] or [B, P]: rows
    without any weight only fill a batch up and are left out. An array of two axes may be wider in
    one batch than in another, as rows of tokens are: the others get zeros at their ends.
    """
    totals: Totals | None = None
    rows: list[Mapping[str, np.ndarray]] = []
    # One batch is in flight while the sums of the one before are fetched.
    ahead = None
    for batch in batches:
        running = eval_step(params, put(batch))
        if ahead is not None:
            totals = _collect(totals, rows, ahead)
        ahead = running
    if ahead is None:
        raise DataError("the split to evaluate gives no batch: it holds no examples")
    totals = _collect(totals, rows, ahead)
    outputs = {name: _stacked([part[name] for part in rows]) for name in rows[0]}
    return _means(totals), outputs


def _stacked(parts: list[np.ndarray]) -> np.ndarray:
    if parts[0].ndim == 2:
        width = max(part.shape[1] for part in parts)
        parts = [np.pad(part, ((0, 0), (0, width - part.shape[1]))) for part in parts]
    return np.concatenate(parts)


def _collect(totals: Totals | None, rows: list[Mapping[str, np.ndarray]], running: Any) -> Totals:
    """Fetch one batch, append its real rows to `rows` and return the sums with its own added."""
    sums, outputs = jax.device_get(running)
    sums = jax.tree.map(np.float64, sums)
    if outputs:
        weights = outputs["weights"]
        real = weights.reshape(len(weights), -1).any(axis=1)
        rows.append({name: values[real] for name, values in outputs.items() if name != "weights"})
    else:
        rows.append({})
    return sums if totals is None else jax.tree.map(np.add, totals, sums)


def _means(totals: Totals) -> dict[str, float]:
    loss = sum(_divide(totals.loss[term], totals.weight[term]) for term in totals.loss)
    metrics = {name: _divide(total, count) for name, (total, count) in totals.metrics.items()}
    return {"loss": float(loss), **metrics}


def _divide(total: Any, count: Any) -> float:
    return float(total / count) if count else 0.0
