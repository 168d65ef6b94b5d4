"""What a report says of predictions beside their metrics, in NumPy.

Counts of classes are float64 `[…, 3, K]`: of each class the hits, the predictions and the labels.
Sums of them over examples give all metrics of classes, so a resample of the examples is scored
without being made.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Interval = tuple[float, float]

_Z95 = 1.959963984540054
_RESAMPLES = 1000
# Where each is scored from its rows, which takes a millisecond or more.
_RESAMPLES_OF_ROWS = 300
# More different values than these are rounded to so many before they are drawn, which takes long.
_LEVELS = 500


def wilson(hits: float, count: int) -> Interval:
    """The 95 % interval of a share (Wilson 1927), which stays within 0 and 1."""
    share, z2 = hits / count, _Z95**2
    middle = share + z2 / (2 * count)
    reach = _Z95 * np.sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    low, high = (middle - reach) / (1 + z2 / count), (middle + reach) / (1 + z2 / count)
    return max(float(low), 0.0), min(float(high), 1.0)


def bootstrap(statistics: np.ndarray, metric: Callable[[np.ndarray], np.ndarray]) -> Interval:
    """The 95 % percentile interval of a metric of sums, over 1,000 resamples (Efron 1979).

    statistics: of each example what is summed, `[N, …]`. metric: from sums `[R, …]` to `[R]`.
    How often each different row is drawn is one multinomial draw, whatever N is.
    """
    shape = statistics.shape[1:]
    rows, counts = np.unique(
        statistics.reshape(len(statistics), -1).astype(np.float64), axis=0, return_counts=True
    )
    total = len(statistics)
    drawn = np.random.default_rng(0).multinomial(total, counts / total, size=_RESAMPLES)
    return _percentiles(metric((drawn @ rows).reshape(_RESAMPLES, *shape)))


def bootstrap_of(score: Callable[[np.ndarray], float], count: int) -> Interval:
    """The 95 % percentile interval of what is no metric of sums: `score` takes drawn rows [N]."""
    generator = np.random.default_rng(0)
    drawn = (generator.integers(0, count, count) for _ in range(_RESAMPLES_OF_ROWS))
    return _percentiles(np.array([score(rows) for rows in drawn]))


def mean_interval(values: np.ndarray) -> Interval:
    """The 95 % interval of a mean: Wilson's where all values are 0 or 1, else by resamples."""
    if np.isin(values, (0, 1)).all():
        return wilson(float(values.sum()), len(values))
    low, step = values.min(), np.ptp(values) / _LEVELS
    if len(np.unique(values)) > _LEVELS:
        values = low + np.round((values - low) / step) * step
    return bootstrap(values, lambda sums: sums / len(values))


def half_interval(values: np.ndarray) -> float:
    """Half of the 95 % interval of a mean of many: 1.96 standard errors."""
    return float(_Z95 * values.std() / np.sqrt(len(values)))


def _percentiles(values: np.ndarray) -> Interval:
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Probabilities of logits of yes or no."""
    return np.exp(-np.logaddexp(0.0, -logits.astype(np.float64)))


def confusion(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> np.ndarray:
    """How many examples of each class (row) are predicted to be of each (column), int `[K, K]`."""
    cells = labels.astype(np.int64) * num_classes + predictions
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def counts_of_classes(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> np.ndarray:
    """The counts `[N, 3, K]` of examples with one label each, both int `[N]`."""
    label, prediction = (np.eye(num_classes)[ids] for ids in (labels, predictions))
    return np.stack([label * prediction, prediction, label], axis=1)


def precision_recall_f1(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of counts `[…, 3, K]` the scores of each class `[…, K]`, 0 where they are not defined."""
    hits, predicted, right = (counts[..., place, :] for place in range(3))
    return _share(hits, predicted), _share(hits, right), _share(2 * hits, predicted + right)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros_like(part, np.float64), where=whole > 0)


def _matthews(sums: np.ndarray) -> np.ndarray:
    hits, predicted, right = np.moveaxis(sums, -2, 0)
    total = right.sum(axis=-1)
    above = hits.sum(axis=-1) * total - (predicted * right).sum(axis=-1)
    squares = [total**2 - (values**2).sum(axis=-1) for values in (predicted, right)]
    return _share(above, np.sqrt(np.maximum(squares[0] * squares[1], 0)))


def _f1_macro(sums: np.ndarray) -> np.ndarray:
    """As scikit-learn has it: the mean over classes that occur."""
    occurs = sums[..., 1, :] + sums[..., 2, :] > 0
    return _share(precision_recall_f1(sums)[2].sum(axis=-1), occurs.sum(axis=-1))


# Of sums of counts `[R, 3, K]`, each metric `[R]`, as in `objectives.metrics`.
OF_CLASSES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "accuracy": lambda sums: _share(sums[:, 0].sum(axis=-1), sums[:, 2].sum(axis=-1)),
    "f1": lambda sums: precision_recall_f1(sums)[2][:, 1],
    "f1_macro": _f1_macro,
    "matthews_correlation": _matthews,
}
OF_LABELS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "f1_micro": lambda sums: precision_recall_f1(sums.sum(axis=-1, keepdims=True))[2][:, 0],
    "f1_macro": lambda sums: precision_recall_f1(sums)[2].mean(axis=-1),
}


class Calibration(NamedTuple):
    """Of each bin of confidence the count, the mean confidence and the share of right predictions.

    All `[bins]`, NaN where a bin is empty; `error` is the expected calibration error.
    """

    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    error: float


def calibration(confidences: np.ndarray, right: np.ndarray, bins: int = 15) -> Calibration:
    """How far confidences are from the share that is right (ECE of Guo et al. 2017).

    confidences: float `[N]` in [0, 1]. right: bool `[N]`. Bin m of M holds what is in
    ((m - 1) / M, m / M].
    """
    place = np.clip(np.ceil(confidences * bins).astype(np.int64) - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    sums = [np.bincount(place, values, bins) for values in (confidences, right)]
    with np.errstate(invalid="ignore"):
        confidence, accuracy = (values / counts for values in sums)
    error = float(np.abs(sums[0] - sums[1]).sum() / len(confidences))
    return Calibration(counts, confidence, accuracy, error)


class Thresholds(NamedTuple):
    """Precision, recall and F1 where all from a threshold on are predicted to be positive, `[T]`.

    The thresholds are the different probabilities, falling.
    """

    thresholds: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray


def threshold_curve(probabilities: np.ndarray, is_positive: np.ndarray) -> Thresholds:
    """Scores of the positive class against the probability from which on it is predicted."""
    order = np.argsort(-probabilities, kind="stable")
    values, hits = probabilities[order], np.cumsum(is_positive[order])
    ends = np.append(np.flatnonzero(np.diff(values)), len(values) - 1)
    counts = np.stack([hits[ends], ends + 1, np.full(len(ends), hits[-1])]).astype(np.float64)
    return Thresholds(values[ends], *precision_recall_f1(counts))
