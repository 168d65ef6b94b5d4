"""What was forgotten and what passed on, from the scores of tasks one after another."""

import csv

import numpy as np
import pytest

from ptft_jax.runs.many.task_matrix import TaskMatrix, as_csv, markdown, picture

NONE = np.nan
MATRIX = TaskMatrix(
    (("a", "accuracy"), ("b", "f1"), ("c", "pearson")),
    np.array(
        [
            [[80.0, NONE, NONE], [70.0, 60.0, NONE], [75.0, 50.0, 90.0]],
            [[82.0, NONE, NONE], [84.0, 62.0, NONE], [80.0, 66.0, 92.0]],
        ]
    ),
    np.array([[80.0, 55.0, 91.0], [82.0, 65.0, 91.0]]),
)


def test_what_is_forgotten_is_against_the_best_before():
    """Also against a score after another task; below 0 where a later one helped."""
    assert MATRIX.forgotten.tolist() == [[5.0, 10.0], [4.0, -4.0]]
    assert MATRIX.final.tolist() == pytest.approx([215 / 3, 238 / 3])


def test_what_passes_on_is_against_a_run_alone():
    """When a task has just been learned; the first has none before it."""
    assert MATRIX.transfer.tolist() == [[5.0, -1.0], [-3.0, 1.0]]


def test_the_table_has_means_and_deviations_and_the_file_every_score():
    """Two seeds; what is not scored stays empty."""
    text = markdown(MATRIX, ["head"])
    assert "| after b | 77.0 ± 9.9 | 61.0 ± 1.4 |  |" in text
    assert "| forgotten at the end | 4.5 ± 0.7 | 3.0 ± 9.9 |  |" in text
    assert "| forward transfer |  | 1.0 ± 5.7 | 0.0 ± 1.4 |" in text
    assert "forgotten, mean 3.8 ± 5.3; forward transfer, mean 0.5 ± 2.1" in text
    rows = list(csv.DictReader(as_csv(MATRIX, [3, 5]).splitlines()))
    assert len(rows) == 2 * (6 + 3)
    assert rows[1] == {
        "seed": "3",
        "after": "b",
        "task": "a",
        "metric": "accuracy",
        "score": "70.0",
    }
    svg = picture(MATRIX)
    assert svg.lstrip().startswith("<?xml")
    assert all(name in svg for name in ("a, accuracy", "b, f1", "c, pearson"))
