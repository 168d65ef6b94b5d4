"""What a report shows of a run on vectors of texts."""

import numpy as np

from ptft_jax.data.tasks.embedding import EmbeddingExamples, EmbeddingSplit
from ptft_jax.data.tasks.table import Split
from ptft_jax.runs.report.html import Html, section, table
from ptft_jax.runs.report.kinds import scores
from ptft_jax.runs.report.kinds.classes import lengths_of
from ptft_jax.runs.report.measures import bootstrap_of, wilson
from ptft_jax.runs.report.parts import WORST, Analysis, Wrong, worst_errors
from ptft_jax.runs.report.slices import Slice, by_size, text_slices, worst_slices


def of_scores(split: EmbeddingSplit, examples: EmbeddingExamples, cosines: np.ndarray) -> Analysis:
    """Returns the parts of a split with scores, as of a regression; they go from 0 to 1 there."""
    first, second = ([texts[place] for texts in split.texts] for place in (0, 1))
    scaled = Split(first, second, split.likeness, split.source)
    return scores.analysis(scaled, examples, cosines, ("spearman", "pearson"))


def of_ranks(
    split: EmbeddingSplit, examples: EmbeddingExamples, ranks: np.ndarray, nearest: list[str]
) -> Analysis:
    """Returns the parts of a split of which the ranks of texts' own, int [N], are known."""
    right = ranks == 1
    first, second = ([texts[place] for texts in split.texts] for place in (0, 1))
    slices = [
        *by_size(examples.lengths, "tokens"),
        Slice("cut by max_seq_length", examples.is_cut),
        *text_slices(first, second),
    ]
    worst = np.argsort(-ranks, kind="stable")[: min(WORST, int(np.sum(~right)))]
    return Analysis(
        f"{len(split):,} pairs",
        {
            "accuracy": wilson(float(right.sum()), len(right)),
            "mrr": bootstrap_of(lambda rows: float(np.mean(1 / ranks[rows])), len(ranks)),
        },
        [
            _by_rank(ranks),
            worst_slices(slices, right.astype(np.float64), "accuracy"),
            worst_errors(
                f"The {len(worst)} texts whose own is furthest away. Rank of their own → 1.",
                [
                    Wrong(
                        "1",
                        f"{ranks[row]:,}",
                        [("", first[row]), ("own", second[row]), ("nearest", nearest[row])],
                        "",
                        bool(examples.is_cut[row]),
                    )
                    for row in worst.tolist()
                ],
            ),
            lengths_of(examples, "All texts of an example together."),
        ],
    )


def _by_rank(ranks: np.ndarray) -> Html:
    rows = [
        (f"among the first {most}", f"{np.sum(ranks <= most):,}", f"{np.mean(ranks <= most):.1%}")
        for most in (1, 3, 10, 100)
        if most == 1 or most <= ranks.max() * 3
    ]
    return section("Where a text's own stands", table(["rank", "texts", "share"], rows))
