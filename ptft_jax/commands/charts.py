"""Charts as inline SVG: columns, bars and a line, drawn by hand so that a page needs nothing else.

Everything that comes from outside goes through `escaped`. Colours are CSS classes of the page.
"""

import html
import math
from collections.abc import Sequence
from typing import NamedTuple

_WIDTH, _HEIGHT = 520, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 8, 12, 34
_LONGEST = 28  # characters of a label beside a bar


class Series(NamedTuple):
    """A name for the legend, and a share (0 to 1) for each label."""

    name: str
    shares: Sequence[float]


def escaped(text: object) -> str:
    """Text for HTML or SVG; characters that cannot stand there are written by their numbers."""
    shown = "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in str(text)
    )
    return html.escape(shown)


def percent(share: float) -> str:
    """Writes a share as 12.3%, 1.23% or 0.0004%."""
    if 0 < share < 5e-5:
        return f"{100 * share:.1g}%"
    return f"{share:.2%}" if share < 0.0995 else f"{share:.1%}"


def columns(title: str, labels: Sequence[str], series: Series, marks: Series | None = None) -> str:
    """A column for each label, and a mark of another series across it where there is one."""
    most = max([*series.shares, *(marks.shares if marks else ()), 1e-9])
    top, ticks = _scale(most)
    width = (_WIDTH - _LEFT - _RIGHT) / max(len(labels), 1)
    parts = _grid(ticks, top)
    every = max(1, math.ceil(max(map(len, labels), default=1) * 7 / width))
    for number, label in enumerate(labels):
        x = _LEFT + number * width
        share = series.shares[number] if number < len(series.shares) else 0.0
        said = f"{label}: {percent(share)}"
        y = _y(share, top)
        if marks is not None and number < len(marks.shares):
            said += f", {marks.name} {percent(marks.shares[number])}"
        parts.append(
            f'<g><title>{escaped(said)}</title><rect class="bar" x="{x + width * 0.12:.1f}" '
            f'y="{y:.1f}" width="{width * 0.76:.1f}" height="{_y(0, top) - y:.1f}" rx="1.5"/>'
        )
        if marks is not None and number < len(marks.shares):
            y = _y(marks.shares[number], top)
            parts.append(
                f'<line class="mark" x1="{x + width * 0.04:.1f}" x2="{x + width * 0.96:.1f}" '
                f'y1="{y:.1f}" y2="{y:.1f}"/>'
            )
        parts.append("</g>")
        if number % every == 0:
            parts.append(_label(x + width / 2, label))
    return _figure(title, parts, [series.name, marks.name] if marks else [])


def bars(title: str, rows: Sequence[tuple[str, float]]) -> str:
    """A horizontal bar for each label with its share, in the order given."""
    most = max([share for _, share in rows] + [1e-9])
    height = 19
    longest = max((len(label) for label, _ in rows), default=0)
    room = 16 + 7 * min(longest, _LONGEST)
    parts = []
    for number, (label, share) in enumerate(rows):
        y = number * height + 4
        length = (_WIDTH - room - 64) * share / most
        parts.append(
            f"<g><title>{escaped(label)}: {percent(share)}</title>"
            f'<text class="name" x="{room - 8}" y="{y + 12}" text-anchor="end">'
            f'{escaped(_end_of(label))}</text><rect class="bar" x="{room}" y="{y + 2}" '
            f'width="{length:.1f}" height="13" rx="1.5"/>'
            f'<text class="value" x="{room + length + 6:.1f}" y="{y + 12}">'
            f"{percent(share)}</text></g>"
        )
    return _figure(title, parts, [], height=len(rows) * height + 8)


def _end_of(label: str) -> str:
    return label if len(label) <= _LONGEST else f"…{label[1 - _LONGEST :]}"


def line(title: str, points: Sequence[tuple[float, float]], across: str) -> str:
    """Shares (0 to 1) over positive numbers on a logarithmic axis; `across` says what those are."""
    low, high = math.log10(points[0][0]), math.log10(max(points[-1][0], points[0][0] * 10))

    def x_of(value: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (math.log10(value) - low) / (high - low)

    parts = _grid([0.0, 0.25, 0.5, 0.75, 1.0], 1.0)
    for power in range(math.ceil(low), math.floor(high) + 1):
        x = x_of(10**power)
        parts.append(
            f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_y(0, 1):.1f}"/>'
        )
        anchor = "start" if power == 0 else "middle"
        parts.append(_label(x, f"{10**power:,}", anchor))
    path = " ".join(f"{x_of(value):.1f},{_y(share, 1.0):.1f}" for value, share in points)
    parts.append(f'<polyline class="curve" points="{path}"/>')
    for value, share in points:
        parts.append(
            f'<circle class="dot" cx="{x_of(value):.1f}" cy="{_y(share, 1.0):.1f}" r="5">'
            f"<title>{value:,.0f} {escaped(across)}: {percent(share)}</title></circle>"
        )
    return _figure(title, parts, [])


def _scale(most: float) -> tuple[float, list[float]]:
    """The end of an axis that begins at 0, and three to six round ticks."""
    power = 10.0 ** math.floor(math.log10(most))
    step = next(size * power for size in (0.2, 0.5, 1, 2, 5) if most / (size * power) <= 5)
    count = math.ceil(most / step - 1e-9)
    return count * step, [tick * step for tick in range(count + 1)]


def _y(share: float, top: float) -> float:
    return _HEIGHT - _BOTTOM - (_HEIGHT - _BOTTOM - _TOP) * share / top


def _grid(ticks: Sequence[float], top: float) -> list[str]:
    parts = []
    for tick in ticks:
        y = _y(tick, top)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="tick" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">'
            f"{100 * tick:.4g}%</text>"
        )
    return parts


def _label(x: float, text: str, anchor: str = "middle") -> str:
    return (
        f'<text class="tick" x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="{anchor}">'
        f"{escaped(text)}</text>"
    )


def _figure(title: str, parts: Sequence[str], legend: Sequence[str], height: int = _HEIGHT) -> str:
    kinds = ("bar", "mark")
    keys = "".join(
        f'<span class="key"><i class="{kind}"></i>{escaped(name)}</span>'
        for kind, name in zip(kinds, legend, strict=False)
    )
    return (
        f'<figure><figcaption>{escaped(title)}{keys}</figcaption><svg viewBox="0 0 {_WIDTH} '
        f'{height}" role="img" aria-label="{escaped(title)}">{"".join(parts)}</svg></figure>'
    )
