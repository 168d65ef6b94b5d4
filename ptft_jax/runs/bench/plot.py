"""Rounds as a picture: a point for each, a line at each side's median."""

import io
import statistics
from collections.abc import Mapping, Sequence

FORMATS = ("svg", "png", "pdf")


def rounds_plot(rounds: Mapping[str, Sequence[float]], what: str, title: str, kind: str) -> bytes:
    """Draws the rounds of all sides.

    Args:
        rounds: side → a figure for each round.
        what: the figure with its unit, for the axis.
        title: of the picture.
        kind: one of `FORMATS`.
    """
    # Takes a second to import. A Figure of its own needs no screen.
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for number, (name, values) in enumerate(rounds.items()):
        color, median = f"C{number}", statistics.median(values)
        axes.plot(range(1, 1 + len(values)), values, "o", color=color)
        axes.axhline(median, color=color, linewidth=1, label=f"{name}: {median:,.4g}")
    axes.set_xlabel("round")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel(what)
    axes.set_ylim(bottom=0)
    axes.set_title(title)
    axes.legend(title="median")
    file = io.BytesIO()
    figure.savefig(file, format=kind)
    return file.getvalue()
