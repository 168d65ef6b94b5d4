"""The trials of a sweep as one table: Markdown, CSV and a picture."""

import dataclasses
from collections.abc import Mapping, Sequence
from fractions import Fraction
from statistics import mean, median, stdev
from typing import Any

from ptft_jax.runs.many.files import as_csv_text, as_svg


@dataclasses.dataclass(frozen=True)
class Line:
    """A trial: the same settings with one or several seeds.

    Attributes:
        settings: the keys that the sweep varies, with their values.
        share: of its updates that it has made; 1 at the end.
        entries: of each run that is made `seed`, `results` (metrics by split) and `seconds`.
        scores: of these runs, by what decides, in percent where more is better.
        whole: whether all runs are made, so that it has a place.
    """

    settings: Mapping[str, Any]
    share: Fraction
    entries: Sequence[Mapping[str, Any]]
    scores: Sequence[float]
    whole: bool


def markdown(lines: Sequence[Line], metric: str, better: str, head: Sequence[str]) -> str:
    """Returns the table.

    Args:
        lines: the trials in their order, best first.
        metric: what decides, with its split.
        better: "max" or "min".
        head: what stands above the table.
    """
    names = list(lines[0].settings)
    columns = ("#", *names, "updates", "n", f"{metric}: mean ± std", "median", "best", "s / run")
    text = [f"- {line}" for line in head]
    text += ["", f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    digits = 2 if better == "max" else 4
    for place, line in enumerate(lines, 1):
        scores, seconds = line.scores, [entry["seconds"] for entry in line.entries]
        spread = f" ± {stdev(scores):.{digits}f}" if len(scores) > 1 else ""
        cells = (
            *(str(place) if line.whole else "", *(str(value) for value in line.settings.values())),
            *("all" if line.share == 1 else str(line.share), str(len(scores))),
            f"{mean(scores):.{digits}f}{spread}" if scores else "failed",
            *(f"{of(scores):.{digits}f}" if scores else "" for of in (median, _BEST[better])),
            f"{mean(seconds):.0f}" if seconds else "",
        )
        text.append(f"| {' | '.join(cells)} |")
    return "\n".join(text) + "\n"


_BEST = {"max": max, "min": min}


def as_csv(lines: Sequence[Line]) -> str:
    """Returns every score, a line for each run, split and metric."""
    head = (*lines[0].settings, "updates", "seed", "split", "metric", "score", "seconds")
    rows = [
        (*line.settings.values(), line.share, entry["seed"], split, metric, score, entry["seconds"])
        for line in lines
        for entry in line.entries
        for split, metrics in entry["results"].items()
        for metric, score in metrics.items()
    ]
    return as_csv_text(head, rows)


def picture(lines: Sequence[Line], metric: str) -> str:
    """Draws the scores over the values of each setting: a dot for each seed, a bar at the median.

    Trials that were stopped are hollow. Returns SVG.
    """
    from matplotlib.figure import Figure  # takes a second

    names = list(lines[0].settings)
    drawn = [line for line in lines if line.scores]
    figure = Figure(figsize=(max(4.0, 3.2 * len(names)), 3.6), layout="constrained")
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        values = [line.settings[name] for line in drawn]
        numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
        if numbers and min(values) > 0 and max(values) >= 5 * min(values):
            axes.set_xscale("log")
        texts = list(dict.fromkeys(map(str, values)))
        for line, value in zip(drawn, values, strict=True):
            x = value if numbers else texts.index(str(value))
            full = "C0" if line.share == 1 else "none"
            style = {"markerfacecolor": full, "color": "C0", "markersize": 4, "alpha": 0.6}
            axes.plot([x] * len(line.scores), line.scores, "o", **style)
            axes.plot([x], [median(line.scores)], "_", color="C3", markersize=12)
        if not numbers:
            axes.set_xticks(range(len(texts)), texts, rotation=20)
        axes.set_xlabel(name)
    panels[0].set_ylabel(metric)
    return as_svg(figure)
