"""Labels of a table's rows: classes, several classes at once, or scores."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ptft_jax.data.tasks.files.reading import Table
from ptft_jax.errors import ConfigError, DataError

# White space of all kinds, and characters without width.
# More numbers with a point than this are scores, not names of classes.
_MOST_DECIMALS = 20
_INVISIBLE = " \t\r\n\u00a0\u200b\u200c\u200d\u202f\u2060\u3000\ufeff"


def find_labels(table: Table, column: str, several: bool) -> tuple[str, ...]:
    """The labels of a train table, sorted: by number if all are numbers, else by spelling."""
    kinds: dict[str, int] = {}
    if several:
        table = _one_label_a_row(table, column)
    for row, value in enumerate(table.columns[column]):
        if value is not None:  # said where labels are read
            kinds.setdefault(_kind(value), row)
    if len(kinds) > 1:
        (one, first), (other, second), *_ = kinds.items()
        raise DataError(
            f"{table.at(second)}: column '{column}' holds {other} here and {one} in "
            f"{table.at(first)}: expected labels of one kind"
        )
    names = {_label_text(table, row, column) for row in range(len(table))}
    if len(names) < 2:
        raise DataError(
            f"{table.path}: all {len(table)} rows have the label '{''.join(names)}' in column "
            f"'{column}'; expected at least two different labels"
        )
    numbers = {name: _number(name) for name in names}
    if all(number is not None for number in numbers.values()):
        if len(names) > _MOST_DECIMALS and any("." in name for name in names):
            raise ConfigError(
                f"{table.path}: column '{column}' holds {len(names)} different numbers, like "
                f"{min(names)}; expected classes. Scores are trained on with "
                "--config.table.regression=True"
            )
        return tuple(sorted(names, key=lambda name: (numbers[name], name)))
    return tuple(sorted(names))


def _one_label_a_row(table: Table, column: str) -> Table:
    """A table of the same lines with one row for each label of a column that holds several."""
    labels, lines = [], []
    for row, value in enumerate(table.columns[column]):
        parts = value.split("|") if isinstance(value, str) else value
        if not isinstance(parts, list | tuple):
            raise DataError(
                f"{table.at(row)}: column '{column}' holds {value!r}; expected labels with | "
                "between them, or a list of labels"
            )
        found = [] if parts == [""] else parts
        labels += found
        lines += [table.lines[row]] * len(found)
    return Table(table.path, {column: labels}, lines, table.unit)


def multi_hot(table: Table, column: str, names: Sequence[str]) -> np.ndarray:
    """The labels of a column that holds several, float32 `[N, K]` of zeros and ones."""
    labels = np.zeros((len(table), len(names)), np.float32)
    each = _one_label_a_row(table, column)
    rows = {line: row for row, line in enumerate(table.lines)}
    for line, index in zip(each.lines, class_ids(each, column, names), strict=True):
        labels[rows[line], index] = 1
    return labels


def class_ids(table: Table, column: str, names: Sequence[str]) -> np.ndarray:
    ids = {name: index for index, name in enumerate(names)}
    labels = np.empty(len(table), np.int32)
    for row in range(len(table)):
        name = _label_text(table, row, column)
        if name not in ids:
            shown = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
            raise DataError(
                f"{table.at(row)}: label '{name}' in column '{column}' is not in the set: {shown}"
            )
        labels[row] = ids[name]
    return labels


def scores(table: Table, column: str, score_range: tuple[float, float] | None) -> np.ndarray:
    low, high = score_range or (-math.inf, math.inf)
    labels = np.empty(len(table), np.float32)
    for row in range(len(table)):
        text = _label_text(table, row, column)
        number = _number(text)
        if number is None or not low <= number <= high:
            expected = f"a number from {low:g} to {high:g}" if score_range else "a finite number"
            raise DataError(
                f"{table.at(row)}: score '{text}' in column '{column}'; expected {expected}"
            )
        labels[row] = number
    return labels


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "true or false"
    return "a number" if isinstance(value, int | float) else "a text"


def _label_text(table: Table, row: int, column: str) -> str:
    """A label as a text: 1.0 is 1, and what cannot be seen at its ends is not part of it."""
    value = table.columns[column][row]
    text = value.strip(_INVISIBLE) if isinstance(value, str) else value
    if isinstance(text, bool):
        return "true" if text else "false"  # as JSON writes it
    if isinstance(text, float) and text.is_integer():
        return str(int(text))
    if text == "" or not isinstance(text, str | int | float) or text in (math.inf, -math.inf):
        text = None
    if text is None or text != text:
        raise DataError(
            f"{table.at(row)}: column '{column}' holds {value!r}; expected a label on every row"
        )
    text = str(text)
    check_characters(table, row, column, text)
    return text


def check_characters(table: Table, row: int, column: str, text: str) -> None:
    """Raises DataError for half of a surrogate pair, which JSON can spell and no encoding hold."""
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise DataError(
            f"{table.at(row)}: column '{column}' holds half of a surrogate pair; expected whole "
            "characters"
        )


def check_texts(table: Table, columns: Sequence[str]) -> None:
    """Raises DataError for a text that is nothing but white space: there is nothing to learn from.

    Benchmarks have some (QQP); in a table of one's own it is a mistake.
    """
    for column in columns:
        for row, text in enumerate(table.columns[column]):
            if isinstance(text, str) and not text.strip(_INVISIBLE):
                raise DataError(
                    f"{table.at(row)}: column '{column}' holds no text; expected one on every row "
                    "of train and dev: write it, or take the row out"
                )


def is_unlabelled(table: Table, column: str, names: Sequence[str]) -> bool:
    """Whether a test split's labels are all -1, null, NaN or nothing, as public test sets have."""
    absent = {"", "-1", "-1.0", "none", "null", "nan", "na"} - {name.lower() for name in names}
    return all(str(value).strip(_INVISIBLE).lower() in absent for value in table.columns[column])


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
