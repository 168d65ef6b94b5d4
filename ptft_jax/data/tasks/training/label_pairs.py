"""Pairs of texts of one class, and of two, out of a few labelled texts (Tunstall et al. 2022)."""

import numpy as np

from ptft_jax.data.randomness import random_below
from ptft_jax.data.tasks.embedding import EmbeddingSplit
from ptft_jax.data.tasks.table import Split
from ptft_jax.errors import ConfigError


def pairs_by_label(split: Split, each: int, seed: int) -> EmbeddingSplit:
    """Returns, for each text, `each` pairs with others of its class, and as many with others.

    The first have the score 1, the latter 0. A text that is alone in its class is a pair with
    itself. Raises ConfigError for texts of one class.
    """
    assert split.labels is not None
    labels = split.labels
    if not np.ptp(labels):
        raise ConfigError(
            f"{split.source}: all {len(labels)} texts are of one class; expected at least two, of "
            "which pairs are made"
        )
    rows, places = np.arange(len(labels)), np.arange(each)
    texts, scores = [], []
    for row in rows:
        same = labels == labels[row]
        near = np.flatnonzero(same & (rows != row)) if same.sum() > 1 else np.array([row])
        for score, others in ((1, near), (0, np.flatnonzero(~same))):
            drawn = random_below(len(others), seed, "pairs by label", row, score, places)
            texts += [[split.texts_a[row], split.texts_a[other]] for other in others[drawn]]
            scores += [score] * each
    return EmbeddingSplit(texts, np.array(scores, np.float32), split.source)
