"""What a report shows of a run on numbers (a regression)."""

from collections.abc import Sequence

import numpy as np

from ptft_jax.data.tasks.choice import ChoiceExamples
from ptft_jax.data.tasks.classification import ClassificationExamples
from ptft_jax.data.tasks.table import Split
from ptft_jax.objectives.scores.metrics import METRICS
from ptft_jax.runs.report.chart import Series, chart
from ptft_jax.runs.report.html import Html, element, section, side_by_side, table
from ptft_jax.runs.report.kinds.classes import counted, lengths_of, of_rows, shown, texts_of
from ptft_jax.runs.report.measures import bootstrap_of, mean_interval
from ptft_jax.runs.report.parts import WORST, Analysis, Wrong, worst_errors
from ptft_jax.runs.report.slices import by_size, text_slices, worst_slices


def analysis(
    split: Split,
    examples: ClassificationExamples | ChoiceExamples,
    predictions: np.ndarray,
    metrics: Sequence[str],
) -> Analysis:
    """Returns the parts of a split; predictions are float [N], metrics those of the task."""
    assert split.labels is not None
    labels, found = split.labels.astype(np.float64), predictions.astype(np.float64)
    errors = found - labels
    slices = [
        *by_size(labels, "as label", form="{:.3g}"),
        *of_rows(examples),
        *text_slices(*texts_of(split)),
    ]
    worst = np.argsort(-np.abs(errors), kind="stable")[:WORST]

    def interval(name: str) -> tuple[float, float]:
        metric = METRICS[name]
        return bootstrap_of(lambda rows: metric(found[rows], labels[rows]), len(labels))

    return Analysis(
        counted(split),
        {name: interval(name) for name in metrics},
        [
            _scatter(labels, found, errors),
            _residuals(labels, errors),
            worst_slices(slices, np.abs(errors), "mean absolute error", more_is_better=False),
            worst_errors(
                f"The {len(worst)} predictions that are furthest off. Label → prediction.",
                [
                    Wrong(
                        f"{labels[row]:.2f}",
                        f"{found[row]:.2f}",
                        shown(split, row),
                        f"{errors[row]:+.2f}",
                        bool(examples.is_cut[row]),
                    )
                    for row in worst
                ],
            ),
            lengths_of(examples),
        ],
    )


def _scatter(labels: np.ndarray, found: np.ndarray, errors: np.ndarray) -> Html:
    ends = [float(min(labels.min(), found.min())), float(max(labels.max(), found.max()))]
    bins = min(40, max(len(errors) // 10, 5))
    counts, edges = np.histogram(errors, bins=bins)
    return section(
        "Predictions and labels",
        element(
            "p",
            f"Mean absolute error {np.abs(errors).mean():.3f}, root of the mean square "
            f"{np.sqrt(np.square(errors).mean()):.3f}, mean error {errors.mean():+.3f}; the labels "
            f"have a standard deviation of {labels.std():.3f}.",
        ),
        side_by_side(
            chart(
                "Predictions",
                [
                    Series(ends, ends, "as labelled", "guide"),
                    Series(labels, found, "", "points"),
                ],
                x="label",
                y="prediction",
            ),
            chart(
                "Errors",
                [
                    Series(
                        (edges[1:] + edges[:-1]) / 2,
                        counts,
                        "",
                        "bars",
                        0.9 * (edges[1] - edges[0]),
                    )
                ],
                x="prediction less label",
                y="examples",
            ),
        ),
    )


def _residuals(labels: np.ndarray, errors: np.ndarray) -> Html:
    rows, middles, means = [], [], []
    for one in by_size(labels, "", parts=8, form="{:.3g}"):
        inside = errors[one.rows]
        low, high = mean_interval(inside)
        middles.append(labels[one.rows].mean())
        means.append(inside.mean())
        rows.append(
            (
                one.name.strip(),
                f"{len(inside):,}",
                f"{inside.mean():+.3f}",
                f"{low:.3f} to {high:.3f}",
                f"{np.abs(inside).mean():.3f}",
            )
        )
    head = ["label", "examples", "mean error", "95 %", "mean absolute error"]
    return section(
        "Errors by label",
        table(head, rows),
        chart(
            "Mean error",
            [
                Series([labels.min(), labels.max()], [0, 0], "", "guide"),
                Series(middles, means),
            ],
            x="label",
            y="prediction less label",
        ),
    )
