"""Vectors of sentences: learned from scores (STS-B), or from inference (MNLI) and scored on STS-B.

The second is what Reimers and Gurevych 2019 and Gao et al. 2021 (SimCSE) train on.
"""

from pathlib import Path

import numpy as np

from ptft_jax.data.tasks.embedding import EmbeddingSplit, EmbeddingTask
from ptft_jax.data.tasks.suites.glue import GLUE
from ptft_jax.data.tasks.table import Split
from ptft_jax.errors import DataError


def _scored(split: Split) -> EmbeddingSplit:
    texts = [[*pair] for pair in zip(split.texts_a, split.texts_b or (), strict=True)]
    return EmbeddingSplit(texts, split.labels, split.source)


def _sts(data_dir: str | Path | None) -> dict[str, EmbeddingSplit]:
    splits = GLUE["stsb"].load("stsb", data_dir).splits
    return {name: _scored(split) for name, split in splits.items() if split.labelled}


def _nli(data_dir: str | Path | None) -> dict[str, EmbeddingSplit]:
    train = GLUE["mnli"].load("mnli", data_dir).splits["train"]
    return {"train": _entailed(train)} | {
        name: split for name, split in _sts(data_dir).items() if name != "train"
    }


def _entailed(split: Split) -> EmbeddingSplit:
    """Each premise with what follows from it, and with a contradiction of it where there is one."""
    assert split.labels is not None
    assert split.texts_b is not None
    entailment, contradiction = (
        GLUE["mnli"].label_names.index(name) for name in ("entailment", "contradiction")
    )
    against = {
        split.texts_a[row]: split.texts_b[row]
        for row in np.flatnonzero(split.labels == contradiction)
    }
    texts = []
    for row in np.flatnonzero(split.labels == entailment):
        premise = split.texts_a[row]
        more = [against[premise]] if premise in against else []
        texts.append([premise, split.texts_b[row], *more])
    if not texts:
        raise DataError(f"{split.source} has no pair of which one text follows from the other")
    return EmbeddingSplit(texts, None, split.source)


EMBEDDING = {
    "sts": EmbeddingTask("embedding", _sts, "en"),
    "nli": EmbeddingTask("embedding", _nli, "en"),
    # One's own pairs.
    "embed": EmbeddingTask(),
}
