"""What a report shows of a run on multiple choice."""

from collections.abc import Sequence

import numpy as np

from ptft_jax.data.tasks.choice import ChoiceExamples, ChoiceSplit
from ptft_jax.objectives.scores.metrics import softmax
from ptft_jax.runs.report.html import Html, percent, section, table
from ptft_jax.runs.report.kinds.classes import lengths_of
from ptft_jax.runs.report.measures import wilson
from ptft_jax.runs.report.parts import WORST, Analysis, Wrong, reliability, worst_errors
from ptft_jax.runs.report.slices import Slice, by_size, text_slices, worst_slices


def analysis(
    split: ChoiceSplit, examples: ChoiceExamples, logits: np.ndarray, found: np.ndarray
) -> Analysis:
    """Returns the parts of a split.

    logits: float [N, P], the lowest where no choice is. found: what was chosen, int [N].
    """
    assert split.labels is not None
    rows = np.arange(len(split))
    is_right = split.is_right
    if is_right is None:
        is_right = split.labels[:, None] == np.arange(logits.shape[1])
    right = is_right[rows, found]
    sure = softmax(logits.astype(np.float64))[rows, found]
    counts = np.array([len(choices) for choices in split.choices])
    asked = [
        "\n".join((context, *choices))
        for context, choices in zip(split.contexts, split.choices, strict=True)
    ]
    by_count = [Slice(f"{count} choices", counts == count) for count in np.unique(counts)]
    slices = [
        *by_count,
        *(Slice(f"choice {n + 1} is right", is_right[:, n]) for n in range(logits.shape[1])),
        *by_size(examples.lengths, "tokens"),
        Slice("cut by max_seq_length", examples.is_cut),
        *text_slices(asked),
    ]
    worst = np.flatnonzero(~right)
    worst = worst[np.argsort(-sure[worst], kind="stable")][:WORST]
    accuracy = wilson(float(right.sum()), len(right))
    return Analysis(
        f"{len(split):,} questions",
        {"accuracy": accuracy},
        [
            _by_count(by_count, right),
            _by_place(is_right, found, right),
            reliability(sure, right),
            worst_slices(slices, right.astype(np.float64), "accuracy"),
            worst_errors(
                f"Wrong choices of the highest probability, {len(worst)} of {np.sum(~right):,}. "
                "Right → chosen.",
                [
                    Wrong(
                        _listed(np.flatnonzero(is_right[row]) + 1),
                        str(found[row] + 1),
                        [
                            ("", split.contexts[row]),
                            *((str(n), words) for n, words in _shown(split, is_right, found, row)),
                        ],
                        percent(float(sure[row])),
                        bool(examples.is_cut[row]),
                    )
                    for row in worst.tolist()
                ],
            ),
            lengths_of(examples, "All choices of an example together."),
        ],
    )


def _by_count(slices: Sequence[Slice], right: np.ndarray) -> Html | None:
    if len(slices) < 2:
        return None
    rows = []
    for name, inside in slices:
        hits, count = int(right[inside].sum()), int(inside.sum())
        low, high = wilson(hits, count)
        chance = percent(1 / int(name.split()[0]))
        rows.append((name, f"{count:,}", f"{hits / count:.3f}", f"{low:.3f} to {high:.3f}", chance))
    head = ["examples with", "count", "accuracy", "95 %", "by chance"]
    return section("By number of choices", table(head, rows))


def _by_place(is_right: np.ndarray, found: np.ndarray, right: np.ndarray) -> Html | None:
    """Where the right choices stand, and where those that were taken."""
    rows = []
    for place in range(is_right.shape[1]):
        inside = is_right[:, place]
        if inside.any():
            taken, share = int(np.sum(found == place)), float(right[inside].mean())
            rows.append((f"{place + 1}", f"{inside.sum():,}", f"{taken:,}", f"{share:.3f}"))
    return section("By place of the choice", table(["place", "right", "chosen", "accuracy"], rows))


def _listed(places: np.ndarray) -> str:
    return ", ".join(map(str, places))


def _shown(
    split: ChoiceSplit, is_right: np.ndarray, found: np.ndarray, row: int
) -> list[tuple[int, str]]:
    """The right choices and the one that was taken; the others of many would bury them."""
    choices = split.choices[row]
    kept = [n for n in range(len(choices)) if is_right[row, n] or n == found[row]]
    kept = range(len(choices)) if len(choices) <= 5 else kept
    return [(n + 1, choices[n]) for n in kept]
