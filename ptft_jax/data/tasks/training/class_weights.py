"""How much an example of each class counts in the loss, from what a config says."""

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ptft_jax.data.tasks.files.reading import nearest
from ptft_jax.errors import ConfigError

BALANCED = "balanced"


def read_class_weights(
    text: str, names: Sequence[str], counts: np.ndarray, others: np.ndarray | None = None
) -> tuple[float, ...] | None:
    """The weight of each class; None where the config says nothing.

    text: "" | "balanced" | numbers in the order of the labels, with commas between | a JSON object
        from labels to numbers, in which what is left out has 1.
    counts: training examples of each class, `[K]`. "balanced" makes all classes count alike, as
        scikit-learn does: n / (K · count), over the K classes that occur; one that does not has 1.
    others: where a text may have several labels, the examples without each, `[K]`; "balanced" is
        then others / counts, so that yes and no of a label count alike.
    Raises ConfigError for weights that cannot be.
    """
    if not text:
        return None
    if text == BALANCED:
        occurs = counts > 0 if others is None else (counts > 0) & (others > 0)
        share = counts[occurs].sum() / occurs.sum() if others is None else others[occurs]
        weights = np.ones(len(counts))
        weights[occurs] = share / counts[occurs]
        return tuple(weights.tolist())
    given = _parsed(text)
    if isinstance(given, dict):
        for name in given:
            if name not in names:
                raise _wrong(text, f"{name!r} is no label{nearest(str(name), names)}", names)
        numbers = [given.get(name, 1.0) for name in names]
    else:
        numbers = given
    if len(numbers) != len(names):
        raise _wrong(text, f"{len(numbers)} weights for {len(names)} labels", names)
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise _wrong(text, f"{number!r} is no number", names)
        if not 0 <= number < math.inf:
            raise _wrong(text, f"{number} cannot be a weight", names)
    if not any(numbers):
        raise _wrong(text, "nothing has any weight", names)
    return tuple(map(float, numbers))


def _parsed(text: str) -> dict[str, Any] | list[Any]:
    try:
        return json.loads(text if text.lstrip().startswith("{") else f"[{text}]")
    except ValueError:
        return [text]  # no number, which is said where they are checked


def _wrong(text: str, what: str, names: Sequence[str]) -> ConfigError:
    shown = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
    return ConfigError(
        f"class_weights={text!r}: {what}; expected balanced, or a number from 0 on for each of "
        f'these labels in their order, 1,2.5, or by name, {{"{names[0]}": 2.5}}: {shown}'
    )


def said_of_class_weights(
    labels: Sequence[str] | None, weights: Sequence[float] | None
) -> list[str]:
    """Returns a line on the weights of classes, none without any."""
    if weights is None:
        return []
    pairs = list(zip(labels or (), weights, strict=True))
    shown = ", ".join(f"{name} {weight:.4g}" for name, weight in pairs[:20])
    return [f"class weights: {shown}{', …' if len(pairs) > 20 else ''}"]
