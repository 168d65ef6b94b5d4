"""HTML elements that escape whatever is put in them; texts of data sets can hold anything."""

import html
import re
from collections.abc import Iterable, Sequence
from typing import Any

_CUT_AFTER = 400
# Numbers, shares, intervals, and what stands where there is none.
_NUMBER = re.compile(r"-|[-+]?\d[\d,.]*( %)?( to -?[\d,.]+( %)?)?")


class Html(str):
    """A text that is HTML already; any other is escaped where it is put in."""


def element(name: str, *children: Any, **attributes: Any) -> Html:
    """Makes an element.

    children: see `joined`. attributes: `class_` is class, `stroke_width` stroke-width; None leaves
    one out.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{written}>{joined(children)}</{name}>")


def joined(children: Iterable[Any]) -> Html:
    """Puts texts, numbers, `Html` and iterables of these one behind the other, None left out."""
    parts = []
    for child in children:
        if isinstance(child, Html):
            parts.append(child)
        elif isinstance(child, str) or not isinstance(child, Iterable):
            parts.append("" if child is None else html.escape(str(child)))
        else:
            parts.append(joined(child))
    return Html("".join(parts))


def table(head: Sequence[Any], rows: Iterable[Sequence[Any]], class_: str | None = None) -> Html:
    """Makes a table that scrolls by itself; columns of numbers stand at the right.

    A cell is what `element` takes as a child, or an `Html` that is a cell itself.
    """
    rows = [list(row) for row in rows]
    columns = list(zip(*rows, strict=True))
    marks = ["n" if column and all(map(_is_number, column)) else None for column in columns]
    marks = marks or [None] * len(head)
    titles = [
        element("th", title, scope="col", class_=mark)
        for title, mark in zip(head, marks, strict=True)
    ]
    body = [
        element("tr", [_cell(value, mark) for value, mark in zip(row, marks, strict=True)])
        for row in rows
    ]
    whole = element("table", element("thead", element("tr", titles)), element("tbody", body))
    return element("div", whole, class_=f"scroll {class_ or ''}".strip())


def _is_number(value: Any) -> bool:
    return not isinstance(value, Html) and _NUMBER.fullmatch(str(value)) is not None


def _cell(value: Any, mark: str | None) -> Html:
    if isinstance(value, Html) and value.startswith(("<td", "<th")):
        return value
    return element("td", value, class_=mark)


def text(words: str, most: int = _CUT_AFTER) -> Html:
    """A text of a data set, shortened where it is long, which turns nothing that stands around it.

    What is no character of XML is shown as the sign for one that cannot be shown.
    """
    shown = words if len(words) <= most else words[: most - 1].rstrip() + "…"
    shown = re.sub("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]", "\ufffd", shown)
    return element("bdi", shown, title=f"{len(words):,} characters" if shown != words else None)


def percent(share: float) -> str:
    """Writes a share as "84.2 %"."""
    return f"{100 * share:.1f} %"


def section(title: str, *children: Any) -> Html:
    """A part of the page under a title."""
    return element("section", element("h3", title), children)


def side_by_side(*children: Any) -> Html:
    """Figures and tables next to each other where the page is wide enough."""
    return element("div", children, class_="beside")
