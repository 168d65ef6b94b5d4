"""What the pages of several kinds of task show."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ptft_jax.runs.report.chart import Series, chart
from ptft_jax.runs.report.html import (
    Html,
    element,
    percent,
    section,
    side_by_side,
    table,
    text,
)
from ptft_jax.runs.report.measures import Interval, calibration, precision_recall_f1

# How many of the worst errors a page shows.
WORST = 20
# Characters of a text that an error shows, and of one that stands in an error before it.
_SHOWN, _SHOWN_AGAIN = 240, 80
_MOST_CLASSES = 30


class Analysis(NamedTuple):
    """What there is to say of one split.

    Attributes:
        counted: what was scored: "408 pairs".
        intervals: of metrics by name.
        sections: parts of the page; None stands for one without content.
    """

    counted: str
    intervals: dict[str, Interval]
    sections: list[Html | None]


class Wrong(NamedTuple):
    """An example that is wrong: what was wanted and found, and its texts, each with its name."""

    wanted: Any
    found: Any
    texts: Sequence[tuple[str, Any]]
    note: str = ""
    is_cut: bool = False


def worst_errors(about: str, errors: Iterable[Wrong]) -> Html | None:
    """Shows errors, the worst first; None without any."""
    seen: set[str] = set()
    cards = [_card(one, seen) for one in errors]
    if not cards:
        return None
    return section("Worst errors", element("p", about), element("ol", cards, class_="errors"))


def _card(one: Wrong, seen: set[str]) -> Html:
    """Shows an error; `seen` are the texts before it, and with them its own after it."""
    verdict = element(
        "p",
        element("span", one.wanted, class_="wanted"),
        " → ",
        element("span", one.found, class_="found"),
        element("span", one.note, class_="note"),
        element("span", "cut by max_seq_length", class_="cut") if one.is_cut else None,
    )
    texts = []
    for name, words in one.texts:
        most = _SHOWN_AGAIN if words in seen else _SHOWN
        shown = words if isinstance(words, Html) else text(words, most)
        texts.append(element("p", element("b", name), " ", shown))
        seen.add(words)
    return element("li", verdict, texts)


def confusion_matrix(names: Sequence[str], matrix: np.ndarray) -> Html | None:
    """Shows which classes are taken for which: all of them, or the pairs that most often are."""
    if len(names) > _MOST_CLASSES:
        return _confused_pairs(names, matrix)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    rows = []
    for row, name in enumerate(names):
        cells = [
            element(
                "td",
                f"{matrix[row, column]:,}" if matrix[row, column] else "·",
                class_="cell right" if row == column else "cell",
                style=f"--share:{shares[row, column]:.3f}",
                title=f"{name} → {names[column]}: {percent(shares[row, column])}",
            )
            for column in range(len(names))
        ]
        rows.append((element("th", name, scope="row"), *cells, f"{matrix[row].sum():,}"))
    return section(
        "Confusion matrix",
        element("p", "A row for each label, a column for what was predicted."),
        table(["label", *names, "all"], rows, class_="matrix" if len(names) < 6 else "matrix many"),
    )


def _confused_pairs(names: Sequence[str], matrix: np.ndarray) -> Html | None:
    wrong = matrix * ~np.eye(len(names), dtype=bool)
    places = np.argsort(-wrong, axis=None, kind="stable")[:_MOST_CLASSES]
    pairs = [divmod(int(place), len(names)) for place in places]
    rows = [
        (names[a], names[b], f"{wrong[a, b]:,}", percent(wrong[a, b] / matrix[a].sum()))
        for a, b in pairs
        if wrong[a, b]
    ]
    if not rows:
        return None
    return section(
        "Classes most often confused",
        element("p", f"The most frequent of all pairs of {len(names)} classes."),
        table(["label", "predicted", "examples", "of the label"], rows),
    )


def class_scores(
    names: Sequence[str],
    counts: np.ndarray,
    in_training: np.ndarray,
    unit: str = "examples",
) -> Html:
    """Shows the scores of each class, from its counts [3, K] over all examples."""
    scores, support = precision_recall_f1(counts), counts[2]
    order = np.argsort(-support, kind="stable")
    rows = []
    for index in order:
        row = [names[index], *(f"{values[index]:.3f}" for values in scores)]
        rows.append([*row, f"{support[index]:,.0f}", f"{in_training[index]:,}"])
    head = ["class", "precision", "recall", "F1", unit, "in this data's train"]
    return section("Scores per class", table(head, rows))


def reliability(confidences: np.ndarray, right: np.ndarray, of: str = "predictions") -> Html:
    """Shows how far the probabilities of what was predicted can be believed."""
    found = calibration(confidences, right)
    bins = len(found.counts)
    middles = (np.arange(bins) + 0.5) / bins
    gap = float(confidences.mean() - right.mean())
    tendency = "too sure" if gap > 0 else "not sure enough"
    unit = (0.0, 1.0)
    return section(
        "Calibration",
        element(
            "p",
            f"Expected calibration error {found.error:.3f} ({bins} bins of equal width). The {of} "
            f"are right in {percent(float(right.mean()))} and have a probability of "
            f"{percent(float(confidences.mean()))} in the mean: {tendency} by "
            f"{percent(abs(gap))}.",
        ),
        side_by_side(
            chart(
                "Reliability",
                [
                    Series(middles, found.accuracy, "right", "bars", 0.9 / bins),
                    Series([0, 1], [0, 1], "as right as sure", "guide"),
                ],
                x="probability of the prediction",
                y="share that is right",
                x_range=unit,
                y_range=unit,
            ),
            chart(
                "How sure",
                [Series(middles, found.counts, "", "bars", 0.9 / bins)],
                x="probability of the prediction",
                y=of,
                x_range=unit,
            ),
        ),
    )


def lengths(
    sizes: np.ndarray, is_cut: np.ndarray | None, limit: int, what: str, about: str
) -> Html:
    """Shows how long rows are [N], and how many did not fit into `limit` tokens."""
    bins = min(30, int(np.ptp(sizes)) + 1)
    counts, edges = np.histogram(sizes, bins=bins)
    middles = (edges[1:] + edges[:-1]) / 2
    cut = 0 if is_cut is None else int(is_cut.sum())
    low, middle, high = np.percentile(sizes, (5, 50, 95))
    words = (
        f"Median {middle:,.0f} tokens; 5 % have less than {low:,.0f}, 5 % more than {high:,.0f}."
    )
    words += f" {about}" if about else ""
    words += f" {cut:,} of {len(sizes):,} ({percent(cut / len(sizes))}) were cut." if cut else ""
    series = [Series(middles, counts, "", "bars", 0.9 * (edges[1] - edges[0]))]
    if cut:
        series.append(Series([limit, limit], [0, int(counts.max())], f"limit: {limit}", "guide"))
    return section(
        "Lengths", element("p", words), side_by_side(chart("Lengths", series, x="tokens", y=what))
    )
