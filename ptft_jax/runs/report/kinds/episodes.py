"""What a report shows of a run on episodes."""

from collections.abc import Iterable

import numpy as np

from ptft_jax.data.tasks.episodes.drawing import EpisodeShape
from ptft_jax.data.tasks.episodes.examples import EpisodeExamples
from ptft_jax.data.tasks.episodes.splits import EpisodeSplit
from ptft_jax.runs.report.html import Html, percent, section, table
from ptft_jax.runs.report.kinds.classes import lengths_of
from ptft_jax.runs.report.measures import mean_interval
from ptft_jax.runs.report.parts import WORST, Analysis, Wrong, worst_errors
from ptft_jax.runs.report.slices import Slice, by_name, by_size, text_slices, worst_slices

# Logits, rows and labels of some episodes.
Asked = Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]


def analysis(
    split: EpisodeSplit, examples: EpisodeExamples, asked: Asked, shape: EpisodeShape
) -> Analysis:
    """Returns the parts of a split, by how often each text was classified right."""
    assert split.labels is not None
    times, right = np.zeros(len(split)), np.zeros(len(split))
    none, none_right, each = 0, 0, []
    for logits, rows, labels in asked:
        is_right = logits.argmax(axis=-1) == labels
        each.append(is_right.mean(axis=1))
        of_class = np.broadcast_to(labels < shape.n_way, is_right.shape)
        np.add.at(times, rows[of_class], 1)
        np.add.at(right, rows[of_class], is_right[of_class])
        none += int(np.sum(~of_class))
        none_right += int(np.sum(is_right[~of_class]))
    scores = np.concatenate(each)
    seen = np.flatnonzero(times)
    shares = right[seen] / times[seen]
    worst = seen[np.argsort(shares, kind="stable")][: min(WORST, int(np.sum(shares < 1)))]
    slices = [
        *by_name("class", split.names, split.labels[seen]),
        *by_size(examples.lengths[seen], "tokens"),
        Slice("cut by max_seq_length", examples.is_cut[seen]),
        *text_slices([split.texts[row] for row in seen], None),
    ]
    return Analysis(
        f"{len(scores):,} episodes of {len(split):,} texts",
        {"accuracy": mean_interval(scores)},
        [
            _by_class(split, times, right, none, none_right),
            worst_slices(slices, shares, "accuracy"),
            worst_errors(
                f"The {len(worst)} texts that were classified right least often.",
                [
                    Wrong(
                        split.names[split.labels[row]],
                        percent(float(right[row] / times[row])),
                        [("", split.texts[row])],
                        f"in {int(times[row]):,} episodes",
                        bool(examples.is_cut[row]),
                    )
                    for row in worst.tolist()
                ],
            ),
            lengths_of(examples),
        ],
    )


def _by_class(
    split: EpisodeSplit, times: np.ndarray, right: np.ndarray, none: int, none_right: int
) -> Html:
    assert split.labels is not None
    asked = np.bincount(split.labels, times, len(split.names))
    found = np.bincount(split.labels, right, len(split.names))
    order = np.argsort(found / np.maximum(asked, 1), kind="stable")
    rows = [
        (split.names[one], f"{asked[one]:,.0f}", percent(float(found[one] / max(asked[one], 1))))
        for one in order
    ]
    if none:
        rows.append(("(none of the classes)", f"{none:,}", percent(none_right / none)))
    return section("By class", table(["class", "classified", "right"], rows))
