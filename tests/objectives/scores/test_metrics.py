"""The metrics are checked against values computed by hand or published, not against themselves."""

import math
import warnings

import numpy as np
import pytest

from ptft_jax.errors import ConfigError, DataError
from ptft_jax.objectives.scores import metrics

# 10 examples: 3 true positives, 1 false positive, 2 false negatives, 4 true negatives.
LABELS = np.array([1, 1, 1, 1, 1, 0, 0, 0, 0, 0])
PREDICTIONS = np.array([1, 1, 1, 0, 0, 1, 0, 0, 0, 0])


def test_classification_metrics_by_hand():
    """Counted from the confusion table above: 7/10, 2·3/(2·3+1+2), (3·4-1·2)/sqrt(4·5·5·6)."""
    found = metrics.compute_metrics(["accuracy", "f1", "matthews_correlation"], PREDICTIONS, LABELS)
    assert found["accuracy"] == pytest.approx(0.7)
    assert found["f1"] == pytest.approx(6 / 9)
    assert found["matthews_correlation"] == pytest.approx(10 / math.sqrt(600))


@pytest.mark.parametrize(
    ("name", "predictions", "labels", "expected"),
    [
        # Wikipedia's cats and dogs (6, 1, 2, 3), and intelligence by hours of television.
        ("matthews_correlation", [1] * 6 + [0] * 2 + [1] + [0] * 3, [1] * 8 + [0] * 4, 0.478),
        (
            "spearman",
            [106, 100, 86, 101, 99, 103, 97, 113, 112, 110],
            [7, 27, 2, 50, 28, 29, 20, 12, 6, 17],
            -29 / 165,
        ),
        # Ties take the average rank: 1, 2.5, 2.5, 4 against 1, 2, 3, 4.
        ("spearman", [1.0, 2.0, 2.0, 3.0], [1.0, 2.0, 3.0, 4.0], 4.5 / math.sqrt(4.5 * 5.0)),
        # Deviations -1, 0, 1 and -4/3, -1/3, 5/3.
        ("pearson", [1.0, 2.0, 3.0], [1.0, 2.0, 4.0], 3 / math.sqrt(2 * 42 / 9)),
        # SciPy warns on nearly equal predictions.
        ("pearson", [3.0 + 1e-14, 3.0, 3.0], [1, 0, 0], 1.0),
    ],
)
def test_metrics_are_those_published_or_worked_out(name, predictions, labels, expected):
    found = metrics.compute_metrics([name], np.array(predictions), np.array(labels))
    assert found[name] == pytest.approx(expected, abs=5e-4)


@pytest.mark.parametrize("name", ["f1", "matthews_correlation", "pearson", "spearman"])
def test_constant_predictions_give_zero_without_a_warning(name):
    """A collapsed model must be scored 0.0: NaN would win or lose every comparison at random."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert metrics.compute_metrics([name], np.zeros(10), LABELS) == {name: 0.0}


def test_logits_and_scores_become_predictions():
    """[N, K] logits mean the largest; [N, 1] are the scores of a regression."""
    logits = np.array([[0.1, 0.9], [2.0, -1.0], [-3.0, -2.0]], np.float32)
    assert metrics.compute_metrics(["accuracy"], logits, np.array([1, 0, 0]))["accuracy"] == (
        pytest.approx(2 / 3)
    )
    scores = np.array([[1.0], [2.0], [3.0]], np.float32)
    labels = np.array([2.0, 4.0, 6.0], np.float32)
    assert metrics.compute_metrics(["pearson"], scores, labels)["pearson"] == pytest.approx(1.0)


def test_misuse_is_an_error():
    """An unknown name, no examples, lengths that differ and NaN outputs never give a figure."""
    with pytest.raises(ConfigError, match="no metric 'acuracy'; the metrics are: accuracy"):
        metrics.compute_metrics(["acuracy"], PREDICTIONS, LABELS)
    with pytest.raises(ConfigError, match="no labelled examples"):
        metrics.compute_metrics(["accuracy"], np.zeros((0, 2)), np.zeros(0))
    with pytest.raises(ValueError, match="do not fit"):
        metrics.compute_metrics(["accuracy"], PREDICTIONS[:3], LABELS)
    for wrong in (np.nan, np.inf, -np.inf):
        outputs = np.array([[1.0, 2.0], [wrong, wrong], [wrong, 0.0]])
        with pytest.raises(DataError, match="outputs in 2 of 3 rows are not finite"):
            metrics.compute_metrics(["accuracy"], outputs, np.array([1, 0, 1]))
