"""What tables of several runs are written as, beside Markdown."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any


def as_csv_text(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Returns rows below their head, as a CSV with lines that end in a line feed."""
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([head, *rows])
    return file.getvalue()


def as_svg(figure: Any) -> str:
    """Returns a figure of matplotlib as SVG."""
    file = io.BytesIO()
    figure.savefig(file, format="svg")
    return file.getvalue().decode()
