"""Scores of several tasks and seeds as one table: Markdown, CSV and a picture."""

import dataclasses
from collections.abc import Mapping, Sequence
from statistics import mean, median, stdev
from typing import Any

from ptft_jax.data.tasks.suites.published import PUBLISHED, SOURCES
from ptft_jax.runs.many.files import as_csv_text, as_svg


@dataclasses.dataclass(frozen=True)
class Row:
    """One metric of one task over all its seeds.

    Attributes:
        task, split, metric: what was scored.
        scores: one for each seed, in percent where the metric lies in [-1, 1].
        seconds: of training and scoring, for each seed.
    """

    task: str
    split: str
    metric: str
    scores: tuple[float, ...]
    seconds: tuple[float, ...]

    @property
    def spread(self) -> float | None:
        """Standard deviation of the scores, of a sample; None for a single one."""
        return stdev(self.scores) if len(self.scores) > 1 else None

    @property
    def published(self) -> str:
        """What others got, with the numbers of the sources."""
        found = [one for one in PUBLISHED.get(self.task, ()) if one.metric == self.metric]
        if self.split.endswith("mismatched"):
            return ""
        return ", ".join(f"{one.percent:.2f} [{one.source}]" for one in found)


def rows_of(entries: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Returns the rows of finished runs.

    Args:
        entries: of each run `task`, `metrics` (the names that count), `results` (metrics by split)
            and `seconds`, in the order of tasks and seeds.
    """
    rows = []
    for task in dict.fromkeys(entry["task"] for entry in entries):
        own = [entry for entry in entries if entry["task"] == task]
        for split in own[0]["results"]:
            for metric in own[0]["metrics"]:
                scores = [entry["results"][split].get(metric) for entry in own]
                if None in scores:
                    continue  # a correlation that is not defined
                scale = 1 if any(abs(score) > 1 for score in scores) else 100
                found = tuple(scale * score for score in scores)
                rows.append(Row(task, split, metric, found, tuple(e["seconds"] for e in own)))
    return rows


def markdown(rows: Sequence[Row], protocol: Sequence[str]) -> str:
    """Returns the table with the protocol in its head and the sources below it."""
    lines = [f"- {line}" for line in protocol]
    head = ("task", "split", "metric", "n", "mean ± std", "median", "best", "published", "s / run")
    lines += ["", f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row in rows:
        spread = "" if row.spread is None else f" ± {row.spread:.2f}"
        cells = (
            *(row.task, row.split, row.metric, str(len(row.scores))),
            *(f"{mean(row.scores):.2f}{spread}", f"{median(row.scores):.2f}"),
            *(f"{max(row.scores):.2f}", row.published, f"{mean(row.seconds):.0f}"),
        )
        lines.append(f"| {' | '.join(cells)} |")
    cited = [number for number in SOURCES if any(f"[{number}]" in row.published for row in rows)]
    if cited:
        lines += ["", *(f"[{number}] {SOURCES[number]}  " for number in cited)]
    return "\n".join(lines) + "\n"


def as_csv(entries: Sequence[Mapping[str, Any]]) -> str:
    """Returns every score, a line for each run, split and metric.

    The entries of `rows_of` have `settings` here, "" where a task has one set of them only.
    """
    rows = [
        (entry["task"], entry["settings"], entry["seed"], split, metric, score, entry["seconds"])
        for entry in entries
        for split, metrics in entry["results"].items()
        for metric, score in metrics.items()
    ]
    head = ("task", "settings", "seed", "split", "metric", "score", "seconds")
    return as_csv_text(head, rows)


def picture(rows: Sequence[Row]) -> str:
    """Draws each task's first metric: a point for each seed, a bar at the mean; SVG."""
    from matplotlib.figure import Figure  # takes a second

    shown = list({(row.task, row.split): row for row in reversed(rows)}.values())[::-1]
    figure = Figure(figsize=(8, 1 + 0.45 * len(shown)), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(shown):
        axes.barh(place, mean(row.scores), color="C0", alpha=0.35, height=0.6)
        axes.plot(row.scores, [place] * len(row.scores), "o", color="C0", markersize=4)
    axes.set_yticks(range(len(shown)), [f"{row.task} {row.split}, {row.metric}" for row in shown])
    axes.invert_yaxis()
    axes.set_xlabel("score (a point for each seed, the bar is the mean)")
    return as_svg(figure)
