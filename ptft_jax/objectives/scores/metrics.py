"""The official metrics of GLUE are computed on NumPy arrays, with scikit-learn and SciPy.

All of them lie in [-1, 1] and larger is better. Where a metric is not defined (a correlation with
predictions or labels that are all equal, F1 without any positive) the value is 0.0, never NaN, so
that a collapsed run compares as worse than one that learnt anything.

The two libraries are imported where they are used: together they take two seconds to load, which
commands that score nothing should not wait for.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from ptft_jax.errors import ConfigError, not_finite


def accuracy(predictions: np.ndarray, labels: np.ndarray) -> float:
    """The share of predictions that equal their label; of `[N, K]`, all K labels."""
    right = predictions == labels
    return float(np.mean(right if right.ndim == 1 else right.all(axis=1)))


def f1(predictions: np.ndarray, labels: np.ndarray) -> float:
    """F1 of class 1 among the classes 0 and 1; 0.0 if it is neither there nor predicted."""
    from sklearn.metrics import f1_score

    return float(f1_score(labels, predictions, pos_label=1, zero_division=0.0))  # type: ignore[arg-type]


def matthews_correlation(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Matthews' correlation coefficient; 0.0 if all predictions or all labels are equal."""
    if _is_constant(predictions) or _is_constant(labels):
        return 0.0
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(labels, predictions))


def pearson(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Pearson's linear correlation; 0.0 if all predictions or all labels are equal."""
    if _is_constant(predictions) or _is_constant(labels):
        return 0.0
    return float(np.corrcoef(_centred(predictions), _centred(labels))[0, 1])


def spearman(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Spearman's rank correlation, ties by average rank; 0.0 if all of either are equal."""
    if _is_constant(predictions) or _is_constant(labels):
        return 0.0
    from scipy.stats import rankdata

    # The rank correlation by its definition; scipy.stats.spearmanr warns on some constant input.
    return pearson(rankdata(predictions), rankdata(labels))


def f1_micro(predictions: np.ndarray, labels: np.ndarray) -> float:
    """F1 over all labels of all examples, both `[N, K]` of zeros and ones; 0.0 without any."""
    from sklearn.metrics import f1_score

    return float(f1_score(labels, predictions, average="micro", zero_division=0.0))  # type: ignore[arg-type]


def f1_macro(predictions: np.ndarray, labels: np.ndarray) -> float:
    """The mean of the classes' F1: of classes `[N]`, or of K labels `[N, K]` of zeros and ones."""
    from sklearn.metrics import f1_score

    return float(f1_score(labels, predictions, average="macro", zero_division=0.0))  # type: ignore[arg-type]


def exact_match(predictions: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> float:
    """The share of questions all of whose answers are right (Khashabi et al. 2018, MultiRC).

    groups: the question of each answer, int `[N]`.
    """
    wrong = np.bincount(groups, weights=predictions != labels)
    return float(np.mean(wrong[np.unique(groups)] == 0))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Returns the probabilities [..., K] of logits, in their dtype."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def log_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    """The mean of -log of the labels' probabilities, of logits `[N, K]` and int labels `[N]`."""
    right = softmax(logits.astype(np.float64))[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(right, np.finfo(np.float64).tiny)).mean())


def distinct_choices(scores: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """The choice of each example, int64 `[N]`, where those of a group have the same choices.

    scores: `[N, P]`. Each choice is taken once in a group, the highest scores first, as in CLUE's
    code for CHID; an example for which none is left takes its best one.
    """
    chosen = scores.argmax(axis=1)
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        open_rows, taken = set(rows.tolist()), set()
        order = np.argsort(-scores[rows], axis=None, kind="stable")
        for place in order.tolist():
            row, choice = int(rows[place // scores.shape[1]]), place % scores.shape[1]
            if row in open_rows and choice not in taken:
                chosen[row] = choice
                open_rows.remove(row)
                taken.add(choice)
    return chosen


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": accuracy,
    "f1": f1,
    "f1_micro": f1_micro,
    "f1_macro": f1_macro,
    "matthews_correlation": matthews_correlation,
    "pearson": pearson,
    "spearman": spearman,
}


def compute_metrics(
    names: Sequence[str],
    outputs: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray | None = None,
) -> dict[str, float]:
    """Each named metric of a model's outputs against the labels.

    outputs: logits `[N, K]`, of which the largest is the prediction; `[N, 1]` or `[N]` are the
    predictions themselves (scores for the correlations, class ids for the others).
    labels: `[N]`, class ids or scores; or `[N, K]` zeros and ones, predicted where a logit is
    above 0. groups: as `exact_match` takes them.
    Raises ConfigError for an unknown metric and for no examples at all, DataError for outputs that
    are not finite, ValueError for lengths that differ.
    """
    known = (
        METRICS
        if groups is None
        else {**METRICS, "exact_match": partial(exact_match, groups=groups)}
    )
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigError(f"no metric '{unknown[0]}'; the metrics are: {', '.join(known)}")
    outputs, labels = np.asarray(outputs), np.asarray(labels)
    several = labels.ndim == 2
    if outputs.shape[: labels.ndim] != labels.shape or outputs.ndim > 2:
        raise ValueError(f"outputs {outputs.shape} do not fit the labels {labels.shape}")
    if not len(labels):
        raise ConfigError("there are no labelled examples to score")
    # Half-precision outputs would lose digits in the sums of the correlations.
    predictions = outputs.astype(np.float64)
    check_outputs(predictions)
    if several:
        predictions = (predictions > 0).astype(np.float64)
    elif predictions.ndim == 2:
        one_column = predictions.shape[1] == 1
        predictions = predictions[:, 0] if one_column else predictions.argmax(axis=1)
    return {name: known[name](predictions, labels) for name in names}


def check_outputs(outputs: np.ndarray) -> None:
    """Raises DataError where rows of outputs [N, …] are not finite, and says how many."""
    finite = np.isfinite(outputs).reshape(len(outputs), -1).all(axis=1)
    if not finite.all():
        raise not_finite(f"the model's outputs in {np.sum(~finite)} of {len(finite)} rows are")


def _centred(values: np.ndarray) -> np.ndarray:
    """Values moved and scaled into [-1, 1], so that no square of a small difference underflows."""
    centred = values - np.mean(values, dtype=np.float64)
    return centred / np.abs(centred).max()


def _is_constant(values: np.ndarray) -> bool:
    return bool(np.ptp(values) == 0)
