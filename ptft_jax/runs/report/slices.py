"""Parts of a split by what its texts are like, and those of them that are scored worst."""

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from ptft_jax.runs.report.html import Html, element, section, table
from ptft_jax.runs.report.measures import mean_interval

# Below so many examples a mean says nothing, and the part is not named.
LEAST = 20
_SHOWN = 8
_WORDS = re.compile(r"[\u3400-\u9fff]|[^\W_]+")
_FEATURES = {
    "a negation": re.compile(
        r"\b(?:no|not|never|none|nobody|nothing|neither|nor|without|cannot)\b|n['\u2019]t\b|[不没沒無无]",
        re.IGNORECASE,
    ),
    "a number": re.compile(r"\d"),
    "a question mark": re.compile(r"[?\uff1f]"),
}


class Slice(NamedTuple):
    """Some of the examples: what they have in common, and which they are, bool [N]."""

    name: str
    rows: np.ndarray


def text_slices(texts: Sequence[str], others: Sequence[str] | None = None) -> list[Slice]:
    """Returns the slices of texts, or of pairs, by what they hold and share."""
    pairs = texts if others is None else list(map("\n".join, zip(texts, others, strict=True)))
    found = []
    for name, pattern in _FEATURES.items():
        rows = np.array([pattern.search(text) is not None for text in pairs], bool)
        found += [Slice(f"with {name}", rows), Slice(f"without {name}", ~rows)]
    if others is not None:
        overlaps = np.array([_overlap(*pair) for pair in zip(texts, others, strict=True)])
        found += by_size(overlaps, "of the words shared", parts=3, form="{:.0%}")
    return found


def by_size(sizes: np.ndarray, what: str, *, parts: int = 4, form: str = "{:,.0f}") -> list[Slice]:
    """Returns equal parts of the examples in the order of a size [N], as far as sizes differ."""
    edges = np.unique(np.quantile(sizes, np.linspace(0, 1, parts + 1), method="nearest"))
    found = []
    for number, (low, high) in enumerate(pairwise(edges)):
        is_last = number == len(edges) - 2
        rows = (sizes >= low) & ((sizes <= high) if is_last else (sizes < high))
        inside = sizes[rows]
        first, last = form.format(inside.min()), form.format(inside.max())
        name = first if first == last else f"{first} to {last}"
        found.append(Slice(f"{name} {what}", rows))
    return found


def by_name(prefix: str, names: Sequence[str], ids: np.ndarray) -> list[Slice]:
    """Returns the examples of each of some classes; `ids` are int [N]."""
    return [Slice(f"{prefix} {name}", ids == index) for index, name in enumerate(names)]


def worst_slices(
    slices: Sequence[Slice], values: np.ndarray, what: str, *, more_is_better: bool = True
) -> Html | None:
    """Shows the slices with the worst means of `values` [N]; None where there are none to show."""
    sign = 1 if more_is_better else -1
    overall = float(values.mean())
    large = [one for one in slices if LEAST <= one.rows.sum() < len(values)]
    large.sort(key=lambda one: sign * float(values[one.rows].mean()))
    rows = []
    for one in large[:_SHOWN]:
        inside = values[one.rows]
        mean, (low, high) = float(inside.mean()), mean_interval(inside)
        if sign * mean >= sign * overall:
            break
        apart = high < overall if more_is_better else low > overall
        name = element("span", one.name, class_="apart" if apart else None)
        rows.append((name, f"{len(inside):,}", f"{mean:.3f}", f"{low:.3f} to {high:.3f}"))
    if not rows:
        return None
    return section(
        "Slices that do worst",
        element(
            "p",
            f"Over all it is {overall:.3f}. {len(large)} slices of {LEAST} examples or more were "
            "looked at, so some are worse by chance; the whole 95 % interval of ",
            element("span", "those marked", class_="apart"),
            " is worse than the mean.",
        ),
        table(["slice", "examples", what, "95 %"], rows),
    )


def _overlap(one: str, other: str) -> float:
    """The share of all different words of a pair that both texts have (Jaccard)."""
    first, second = (set(_WORDS.findall(text.lower())) for text in (one, other))
    return len(first & second) / max(len(first | second), 1)
