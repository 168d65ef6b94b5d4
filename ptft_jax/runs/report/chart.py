"""Charts as SVG that takes its colours from the page, so that they are there in light and dark."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ptft_jax.runs.report.html import Html, element

_WIDTH, _HEIGHT = 360, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 10, 40
# More points than these are thinned out: they would lie on each other.
_MOST = 1500


@dataclass(frozen=True)
class Series:
    """What one colour of a chart shows.

    xs, ys: [N], NaN is left out. form: "bars" go from 0 up and are `width` wide; a "guide" is a
    dashed line to compare with. label: for the legend, "" for none.
    """

    xs: Sequence[float] | np.ndarray
    ys: Sequence[float] | np.ndarray
    label: str = ""
    form: Literal["line", "points", "bars", "guide"] = "line"
    width: float = 1.0


Range = tuple[float, float]


def chart(
    title: str,
    series: Sequence[Series],
    *,
    x: str,
    y: str,
    x_range: Range | None = None,
    y_range: Range | None = None,
) -> Html:
    """Draws a figure with a title, axes and, where there are labels, a legend.

    x, y: what the axes count. x_range, y_range: None takes what the series fill.
    """
    x_low, x_high = x_range or _filled([one.xs for one in series])
    bars = any(one.form == "bars" for one in series)
    y_low, y_high = y_range or _filled([one.ys for one in series], from_zero=bars)

    def across(value: float) -> float:
        return _LEFT + (value - x_low) / (x_high - x_low) * (_WIDTH - _LEFT - _RIGHT)

    def down(value: float) -> float:
        return _HEIGHT - _BOTTOM - (value - y_low) / (y_high - y_low) * (_HEIGHT - _TOP - _BOTTOM)

    marks = []
    for value in _ticks(y_low, y_high):
        place = f"{down(value):.1f}"
        marks.append(element("path", d=f"M{_LEFT} {place}H{_WIDTH - _RIGHT}", class_="rule"))
        marks.append(element("text", _written(value), x=_LEFT - 6, y=place, class_="y"))
    for value in _ticks(x_low, x_high):
        marks.append(
            element("text", _written(value), x=f"{across(value):.1f}", y=_HEIGHT - 24, class_="x")
        )
    marks.append(element("text", x, x=(_LEFT + _WIDTH) / 2, y=_HEIGHT - 6, class_="x"))
    colour, legend = 0, []
    for one in series:
        if one.form == "line" and np.isfinite(one.ys).sum() == 1:
            one = replace(one, form="points")  # a line through one place is a dot that nobody sees
        name = one.form if one.form == "guide" else f"{one.form} c{colour % 4}"
        colour += one.form != "guide"
        path = _path(one, across, down, down(max(y_low, 0.0)))
        marks.append(element("path", d=path, class_=name))
        if one.label:
            legend.append(element("span", element("i", class_=f"key {name}"), one.label))
    drawing = element(
        "svg",
        element("title", f"{title}: {y} against {x}"),
        marks,
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
    )
    unit = None if y == title.lower() else element("span", y, class_="unit")
    caption = element("figcaption", element("b", title), " ", unit)
    return element("figure", caption, drawing, element("div", legend, class_="legend"))


def _path(series: Series, across, down, ground: float) -> str:
    xs, ys = np.asarray(series.xs, np.float64), np.asarray(series.ys, np.float64)
    known = np.isfinite(xs) & np.isfinite(ys)
    xs, ys = xs[known], ys[known]
    if len(xs) > _MOST:
        kept = np.unique(np.linspace(0, len(xs) - 1, _MOST).astype(np.int64))
        xs, ys = xs[kept], ys[kept]
    places = [(across(a), down(b)) for a, b in zip(xs, ys, strict=True)]
    if series.form == "bars":
        half = (across(series.width) - across(0)) / 2
        return "".join(
            f"M{a - half:.1f} {ground:.1f}V{b:.1f}H{a + half:.1f}V{ground:.1f}z" for a, b in places
        )
    # A line of no length with round ends is a point.
    if series.form == "points":
        return "".join(f"M{a:.1f} {b:.1f}h0" for a, b in places)
    return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in places) if places else ""


def _filled(parts: Sequence[Sequence[float] | np.ndarray], *, from_zero: bool = False) -> Range:
    values = np.concatenate([np.asarray(part, np.float64) for part in parts])
    values = values[np.isfinite(values)]
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    low = 0.0 if from_zero else low
    if low == high:  # from 0 on: half as much around a score of 0 or 1 would be no score
        return (min(low, 0.0), max(high, 0.0)) if low else (0.0, 1.0)
    edge = (high - low) / 25
    return (low if from_zero else low - edge), high + edge


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers between two ends, four to eight."""
    rough = (high - low) / 5
    size = 10.0 ** math.floor(math.log10(rough))
    step = min((size * factor for factor in (1, 2, 5, 10)), key=lambda one: abs(one - rough))
    return [
        step * n for n in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    ]


def _written(value: float) -> str:
    # Twelve digits tell neighbours apart, and leave out what rounding added.
    if value and not 1e-3 <= abs(value) < 1e5:
        digits, power = f"{value:.11e}".split("e")
        return f"{float(digits):.12g}e{int(power)}"
    return f"{value:,.12g}"
