"""The table of a sweep: figures by hand, in the order they are given, the failed ones last."""

import csv
import io
from fractions import Fraction

from ptft_jax.runs.many.sweep_table import Line, as_csv, markdown, picture


def line(rate: float, share: Fraction, scores: list[float], whole: bool = True) -> Line:
    """A trial with a run for each score."""
    entries = [
        {"seed": seed, "seconds": 10.0, "results": {"dev": {"accuracy": score / 100}}}
        for seed, score in enumerate(scores)
    ]
    return Line({"learning_rate": rate, "name": "adamw"}, share, entries, scores, whole)


LINES = [
    line(3e-5, Fraction(1), [80.0, 84.0, 91.0]),
    line(1e-5, Fraction(1, 3), [70.0, 70.0, 71.0]),
    line(1e-2, Fraction(1, 3), [50.0], whole=False),
    line(1e-1, Fraction(1, 3), [], whole=False),
]


def test_mean_deviation_median_and_best_of_each_trial():
    """A trial of which a run is missing has no place."""
    text = markdown(LINES, "dev accuracy", "max", ["a head"])
    assert text.startswith("- a head\n")
    assert "| 1 | 3e-05 | adamw | all | 3 | 85.00 ± 5.57 | 84.00 | 91.00 | 10 |" in text
    assert "| 2 | 1e-05 | adamw | 1/3 | 3 | 70.33 ± 0.58 | 70.00 | 71.00 | 10 |" in text
    assert "|  | 0.01 | adamw | 1/3 | 1 | 50.00 | 50.00 | 50.00 | 10 |" in text
    assert "|  | 0.1 | adamw | 1/3 | 0 | failed |  |  |  |" in text
    loss = markdown([line(1e-4, Fraction(1), [1.25, 2.0])], "dev loss", "min", [])
    assert "| 1.6250 ± 0.5303 | 1.6250 | 1.2500 |" in loss


def test_every_score_is_in_the_csv_and_every_setting_in_the_picture():
    """For one's own statistics, and to see which setting matters."""
    rows = list(csv.DictReader(io.StringIO(as_csv(LINES))))
    assert len(rows) == 3 + 3 + 1
    assert rows[3]["updates"] == "1/3"
    assert (rows[0]["learning_rate"], rows[0]["metric"]) == ("3e-05", "accuracy")
    svg = picture(LINES, "dev accuracy")
    assert all(f"<!-- {name} -->" in svg for name in ("learning_rate", "name", "dev accuracy"))
