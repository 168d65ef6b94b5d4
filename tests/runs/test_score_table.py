"""The table of several tasks and seeds: figures by hand, published ones beside them."""

import csv
import io

import pytest

from ptft_jax.data.tasks.catalogue import find_task
from ptft_jax.data.tasks.suites.published import PUBLISHED, SOURCES
from ptft_jax.runs.many.score_table import as_csv, markdown, picture, rows_of

ENTRIES = [
    {
        "task": "mrpc",
        "settings": "",
        "seed": seed,
        "metrics": ("accuracy", "f1"),
        "results": {"dev": {"loss": 0.5, "accuracy": accuracy, "f1": 0.9}},
        "seconds": 10.0 * (seed + 1),
    }
    for seed, accuracy in enumerate((0.80, 0.84, 0.88))
] + [
    {
        "task": "squad",
        "settings": "",
        "seed": 0,
        "metrics": ("f1",),
        "results": {"dev": {"f1": 88.5}},
        "seconds": 7.0,
    }
]


def test_means_and_deviations_over_seeds():
    """In percent, with the deviation of a sample, the median, the best, and what others got."""
    text = markdown(rows_of(ENTRIES), ["a protocol"])
    assert "- a protocol" in text
    assert (
        "| mrpc | dev | accuracy | 3 | 84.00 ± 4.00 | 84.00 | 88.00 | 84.07 [1], 90.20 [3] | 20 |"
        in text
    )
    assert "| mrpc | dev | f1 | 3 | 90.00 ± 0.00 |" in text
    assert "| squad | dev | f1 | 1 | 88.50 | 88.50 | 88.50 | 88.52 [4], 88.50 [5] | 7 |" in text
    assert "[1] bert-base-cased" in text
    assert "[2]" not in text
    assert "mrpc dev, accuracy" in picture(rows_of(ENTRIES))


def test_a_score_that_is_not_defined_is_left_out():
    """A correlation of equal values is null in results.json."""
    entry = {**ENTRIES[0], "results": {"dev": {"accuracy": None, "f1": 0.5}}}
    assert [row.metric for row in rows_of([entry])] == ["f1"]


def test_every_score_is_in_the_csv():
    """For one's own statistics: each run, split and metric as it is in results.json."""
    rows = list(csv.DictReader(io.StringIO(as_csv(ENTRIES))))
    assert len(rows) == 3 * 3 + 1
    assert rows[1] == {
        "task": "mrpc",
        "settings": "",
        "seed": "0",
        "split": "dev",
        "metric": "accuracy",
        "score": "0.8",
        "seconds": "10.0",
    }


@pytest.mark.parametrize("task", PUBLISHED)
def test_published_scores_are_of_a_metric_of_their_task(task):
    """A score beside another metric, or without its source, would mislead."""
    entities = ("f1", "precision", "recall", "accuracy")  # what a tagging file's tags decide
    metrics = getattr(find_task(task), "metrics", entities)
    for one in PUBLISHED[task]:
        assert one.metric in metrics
        assert one.source in SOURCES
        assert 50 < one.percent < 100
    pairs = [(one.metric, one.source) for one in PUBLISHED[task]]
    assert len(set(pairs)) == len(pairs)
