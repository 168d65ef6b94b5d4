"""What a report shows of a run on several labels of a text."""

from collections.abc import Sequence

import numpy as np

from ptft_jax.data.tasks.classification import ClassificationExamples
from ptft_jax.data.tasks.table import Split
from ptft_jax.runs.report.html import percent
from ptft_jax.runs.report.kinds.classes import counted, lengths_of, of_rows, shown, texts_of
from ptft_jax.runs.report.measures import OF_LABELS, bootstrap, sigmoid, wilson
from ptft_jax.runs.report.parts import (
    WORST,
    Analysis,
    Wrong,
    class_scores,
    reliability,
    worst_errors,
)
from ptft_jax.runs.report.slices import Slice, text_slices, worst_slices


def analysis(
    split: Split,
    examples: ClassificationExamples,
    logits: np.ndarray,
    names: Sequence[str],
    train_labels: np.ndarray,
) -> Analysis:
    """Returns the parts of a split.

    logits: float [N, K], a label is predicted above 0. names: of the K labels. train_labels: zeros
    and ones [examples, K] of the training examples.
    """
    assert split.labels is not None
    labels, found = split.labels > 0.5, logits > 0
    right = labels == found
    counts = np.stack([labels & found, found, labels], axis=1).astype(np.float64)
    all_right = right.all(axis=1)
    probabilities = sigmoid(logits)
    confidences = np.maximum(probabilities, 1 - probabilities)
    slices = [
        *(Slice(f"label {name}", labels[:, index]) for index, name in enumerate(names)),
        Slice("without a label", ~labels.any(axis=1)),
        *of_rows(examples),
        *text_slices(*texts_of(split)),
    ]
    # The worst decision of each example.
    wrong = np.where(right, 0.0, confidences)
    worst = np.argsort(-wrong.max(axis=1), kind="stable")[: min(WORST, int(np.sum(~all_right)))]
    intervals = {name: bootstrap(counts, metric) for name, metric in OF_LABELS.items()}
    return Analysis(
        counted(split),
        intervals | {"accuracy": wilson(float(all_right.sum()), len(all_right))},
        [
            class_scores(names, counts.sum(axis=0), train_labels.sum(axis=0).astype(np.int64)),
            reliability(confidences.ravel(), right.ravel(), "decisions"),
            worst_slices(slices, all_right.astype(np.float64), "share with all labels right"),
            worst_errors(
                f"Texts with the wrong decision of the highest probability, {len(worst)} of "
                f"{np.sum(~all_right):,} that have a wrong one. Labels → predictions.",
                [
                    Wrong(
                        _listed(names, labels[row]),
                        _listed(names, found[row]),
                        shown(split, row),
                        f"{names[int(wrong[row].argmax())]}: {percent(float(wrong[row].max()))}",
                        bool(examples.is_cut[row]),
                    )
                    for row in worst.tolist()
                ],
            ),
            lengths_of(examples),
        ],
    )


def _listed(names: Sequence[str], has: np.ndarray) -> str:
    return ", ".join(name for name, one in zip(names, has, strict=True) if one) or "(none)"
