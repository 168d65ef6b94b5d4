"""What a report shows of a run on classes, one for each text or pair."""

from collections.abc import Sequence

import numpy as np

from ptft_jax.data.tasks.choice import ChoiceExamples
from ptft_jax.data.tasks.classification import ClassificationExamples
from ptft_jax.data.tasks.table import Split
from ptft_jax.objectives.scores.metrics import softmax
from ptft_jax.runs.report.chart import Series, chart
from ptft_jax.runs.report.html import Html, element, percent, section, side_by_side
from ptft_jax.runs.report.measures import (
    OF_CLASSES,
    bootstrap,
    confusion,
    counts_of_classes,
    threshold_curve,
    wilson,
)
from ptft_jax.runs.report.parts import (
    WORST,
    Analysis,
    Wrong,
    class_scores,
    confusion_matrix,
    lengths,
    reliability,
    worst_errors,
)
from ptft_jax.runs.report.slices import Slice, by_name, by_size, text_slices, worst_slices


def analysis(
    split: Split,
    examples: ClassificationExamples,
    logits: np.ndarray,
    names: Sequence[str],
    train_labels: np.ndarray,
    metrics: Sequence[str],
) -> Analysis:
    """Returns the parts of a split.

    logits: float [N, K]. names: of the K classes. train_labels: class ids of the training examples.
    metrics: the task's, to give an interval of each.
    """
    labels = split.labels
    assert labels is not None
    probabilities, found = softmax(logits.astype(np.float64)), logits.argmax(axis=1)
    confidences, right = probabilities[np.arange(len(found)), found], found == labels
    counts = counts_of_classes(labels, found, len(names))
    matrix = confusion(labels, found, len(names))
    in_training = np.bincount(train_labels, minlength=len(names))
    slices = [*by_name("label", names, labels), *of_rows(examples), *text_slices(*texts_of(split))]
    worst = np.flatnonzero(~right)
    worst = worst[np.argsort(-confidences[worst], kind="stable")][:WORST]
    return Analysis(
        counted(split),
        _intervals(split, counts, right, metrics),
        [
            confusion_matrix(names, matrix),
            class_scores(names, counts.sum(axis=0), in_training),
            reliability(confidences, right),
            _thresholds(probabilities[:, 1], labels == 1, names[1]) if len(names) == 2 else None,
            worst_slices(slices, right.astype(np.float64), "accuracy"),
            worst_errors(
                f"Wrong predictions of the highest probability, {len(worst)} of "
                f"{np.sum(~right):,} that are wrong. Label → prediction.",
                [
                    Wrong(
                        names[int(labels[row])],
                        names[int(found[row])],
                        shown(split, row),
                        percent(float(confidences[row])),
                        bool(examples.is_cut[row]),
                    )
                    for row in worst.tolist()
                ],
            ),
            lengths_of(examples),
        ],
    )


def _intervals(
    split: Split, counts: np.ndarray, right: np.ndarray, metrics: Sequence[str]
) -> dict[str, tuple[float, float]]:
    found = {}
    if split.groups is not None:
        # Answers to one question are not drawn one by one.
        wrong = np.bincount(split.groups, weights=~right)
        found["exact_match"] = wilson(float(np.sum(wrong == 0)), len(wrong))
        sums = np.zeros((len(wrong), *counts.shape[1:]))
        np.add.at(sums, split.groups, counts)
        counts = sums
    else:
        found["accuracy"] = wilson(float(right.sum()), len(right))
    for name in metrics:
        if name in OF_CLASSES and name not in found:
            found[name] = bootstrap(counts, OF_CLASSES[name])
    return found


def _thresholds(probabilities: np.ndarray, is_positive: np.ndarray, name: str) -> Html | None:
    if not is_positive.any():
        return None
    curve = threshold_curve(probabilities, is_positive)
    best = int(np.argmax(curve.f1))
    at_half = max(int(np.searchsorted(-curve.thresholds, -0.5, side="right")) - 1, 0)
    return section(
        f"Threshold for {name}",
        element(
            "p",
            f"F1 is {curve.f1[at_half]:.3f} where it is predicted from a probability of 0.5 on, "
            f"and at most {curve.f1[best]:.3f}, from {curve.thresholds[best]:.3f} on, which is "
            "chosen on the very examples that are scored and so flatters.",
        ),
        side_by_side(
            chart(
                f"Scores of {name}",
                [
                    Series(curve.thresholds, curve.precision, "precision"),
                    Series(curve.thresholds, curve.recall, "recall"),
                    Series(curve.thresholds, curve.f1, "F1"),
                ],
                x=f"threshold of the probability of {name}",
                y="score",
                x_range=(0.0, 1.0),
                y_range=(0.0, 1.0),
            ),
            chart(
                "Precision and recall",
                [Series(curve.recall, curve.precision)],
                x="recall",
                y="precision",
                x_range=(0.0, 1.0),
                y_range=(0.0, 1.0),
            ),
        ),
    )


# What all kinds of tasks on texts and pairs share.


def counted(split: Split) -> str:
    """Says how many examples a split has."""
    words = f"{len(split):,} {'texts' if split.texts_b is None else 'pairs'}"
    if split.groups is not None:
        words += f" of {len(np.unique(split.groups)):,} questions"
    return words


def texts_of(split: Split) -> tuple[list[str], list[str] | None]:
    """Returns the texts of a split, and the second ones of pairs."""
    return split.texts_a, split.texts_b


def shown(split: Split, row: int) -> list[tuple[str, str]]:
    """Returns the texts of an example with their names."""
    if split.texts_b is None:
        return [("", split.texts_a[row])]
    return [("A", split.texts_a[row]), ("B", split.texts_b[row])]


def of_rows(examples: ClassificationExamples | ChoiceExamples) -> list[Slice]:
    """Returns the slices by length, and by whether a text was cut."""
    return [*by_size(examples.lengths, "tokens"), Slice("cut by max_seq_length", examples.is_cut)]


def lengths_of(examples: ClassificationExamples | ChoiceExamples, about: str = "") -> Html:
    """Shows how long the rows of a split are; `about`: what a row holds."""
    limit = examples.buckets[-1]
    return lengths(examples.lengths, examples.is_cut, limit, "examples", about)
