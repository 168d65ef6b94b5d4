"""The numbers of a report against scikit-learn, SciPy and cases worked out by hand."""

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import (
    confusion_matrix,
    precision_recall_curve,
    precision_recall_fscore_support,
)

from ptft_jax.objectives.scores.metrics import METRICS, softmax
from ptft_jax.runs.report.measures import (
    OF_CLASSES,
    OF_LABELS,
    bootstrap,
    bootstrap_of,
    calibration,
    confusion,
    counts_of_classes,
    half_interval,
    mean_interval,
    precision_recall_f1,
    sigmoid,
    threshold_curve,
    wilson,
)

LABELS = np.random.default_rng(0).integers(0, 4, 500)
PREDICTIONS = np.where(
    np.random.default_rng(1).random(500) < 0.6, LABELS, np.random.default_rng(2).integers(0, 4, 500)
)


@pytest.mark.parametrize(("hits", "count"), [(8, 10), (0, 7), (7, 7), (431, 1043)])
def test_wilson(hits, count):
    expected = binomtest(hits, count).proportion_ci(method="wilson")
    assert wilson(hits, count) == pytest.approx((expected.low, expected.high), abs=1e-12)
    values = np.arange(count) < hits
    assert mean_interval(values.astype(float)) == wilson(hits, count)


def test_confusion_and_scores_per_class():
    assert (confusion(LABELS, PREDICTIONS, 4) == confusion_matrix(LABELS, PREDICTIONS)).all()
    counts = counts_of_classes(LABELS, PREDICTIONS, 5).sum(axis=0)
    *scores, support = precision_recall_fscore_support(
        LABELS,
        PREDICTIONS,
        labels=range(5),
        zero_division=0.0,  # type: ignore[arg-type]
    )
    assert np.allclose(precision_recall_f1(counts), scores)
    assert (counts[2] == support).all()


@pytest.mark.parametrize("name", ["accuracy", "f1_macro", "matthews_correlation", "f1"])
def test_metrics_of_sums_are_the_metrics(name):
    """Also of a resample: it is how often each example was drawn."""
    num = 2 if name == "f1" else 4
    labels, predictions = LABELS % num, PREDICTIONS % num
    drawn = np.random.default_rng(3).integers(0, 500, 500)
    counts = counts_of_classes(labels, predictions, num)
    for rows in (np.arange(500), drawn, np.flatnonzero(labels == 0)):
        ours = OF_CLASSES[name](counts[rows].sum(axis=0)[None])[0]
        assert ours == pytest.approx(METRICS[name](predictions[rows], labels[rows]), abs=1e-12)


@pytest.mark.parametrize("name", ["f1_micro", "f1_macro"])
def test_metrics_of_several_labels(name):
    generator = np.random.default_rng(4)
    labels, found = (generator.random((200, 5)) < 0.3 for _ in range(2))
    labels[:, 4] = found[:, 4] = False
    counts = np.stack([labels & found, found, labels], axis=1).astype(float)
    expected = METRICS[name](found.astype(float), labels.astype(float))
    assert OF_LABELS[name](counts.sum(axis=0)[None])[0] == pytest.approx(expected, abs=1e-12)


def test_bootstrap_is_that_of_drawn_examples():
    """Against resamples that are made and scored by scikit-learn; and far wider for 50 examples."""
    labels, predictions = LABELS % 2, PREDICTIONS % 2
    found = bootstrap(counts_of_classes(labels, predictions, 2), OF_CLASSES["f1"])
    drawn = bootstrap_of(lambda rows: METRICS["f1"](predictions[rows], labels[rows]), 500)
    assert found == pytest.approx(drawn, abs=0.012)
    few = bootstrap(counts_of_classes(labels[:50], predictions[:50], 2), OF_CLASSES["f1"])
    assert few[1] - few[0] > 2 * (found[1] - found[0])


@pytest.mark.parametrize("count", [400, 20_000])
def test_the_interval_of_a_mean_is_that_of_drawn_examples(count):
    """Also of many values, which are rounded; and it stays within them, where few are not 0."""
    values = np.random.default_rng(5).random(count)
    reach = half_interval(values)
    around = values.mean() - reach, values.mean() + reach
    assert mean_interval(values) == pytest.approx(around, abs=0.15 * reach)
    low, high = mean_interval(np.append(np.zeros(count - 1), 0.4))
    assert 0 <= low < 0.4 / count < high


def test_calibration_by_hand():
    """Of 15 bins: 0.62 and 0.64 share the tenth, 0.6 ends the ninth, 1.0 ends the last."""
    confidences = np.array([0.62, 0.64, 0.6, 1.0])
    found = calibration(confidences, np.array([True, False, True, True]))
    assert found.counts.nonzero()[0].tolist() == [8, 9, 14]
    assert found.counts[[8, 9, 14]].tolist() == [1, 2, 1]
    assert found.accuracy[[8, 9, 14]].tolist() == [1.0, 0.5, 1.0]
    assert found.confidence[9] == pytest.approx(0.63)
    # (1 |1 - 0.6| + 2 |0.5 - 0.63| + 1 |1 - 1|) / 4
    assert found.error == pytest.approx(0.165)
    assert np.isnan(found.accuracy[0])


def test_threshold_curve():
    generator = np.random.default_rng(6)
    probabilities, is_positive = generator.random(300).round(2), generator.random(300) < 0.4
    curve = threshold_curve(probabilities, is_positive)
    precision, recall, thresholds = precision_recall_curve(
        is_positive, probabilities, drop_intermediate=False
    )
    assert np.allclose(curve.thresholds, thresholds[::-1])
    assert np.allclose(curve.precision, precision[:-1][::-1])
    assert np.allclose(curve.recall, recall[:-1][::-1])


def test_probabilities_of_large_logits():
    assert softmax(np.array([[1000.0, 0.0], [-1000.0, -1000.0]])).tolist() == [[1, 0], [0.5, 0.5]]
    assert sigmoid(np.array([-1000.0, 0.0, 1000.0])).tolist() == [0.0, 0.5, 1.0]
