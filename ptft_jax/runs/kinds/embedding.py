"""Training of vectors of texts: on pairs that mean the same, or on scores of likeness."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ptft_jax.data.tasks.embedding import EmbeddingExamples, EmbeddingSettings, EmbeddingSplit
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
from ptft_jax.errors import ConfigError
from ptft_jax.models.config import EncoderConfig
from ptft_jax.objectives.embedding import LOSSES, Contrast, Likeness
from ptft_jax.objectives.scores.metrics import check_outputs, compute_metrics
from ptft_jax.runs.config import Config
from ptft_jax.runs.kinds.finetuning import FineTuning
from ptft_jax.runs.report.kinds import vectors as report
from ptft_jax.runs.report.parts import Analysis

_POOLINGS = ("mean", "cls")


class Embedding(FineTuning):
    """Vectors of texts; see `FineTuning`."""

    pairs = False
    has_segments = True

    def __init__(self, config: Config):
        super().__init__(config)
        chosen = config.embedding
        has_scores = self.task.splits["train"].scores is not None
        self._loss = chosen.loss or ("cosent" if has_scores else "ranking")
        for name, known in (("loss", LOSSES), ("pooling", _POOLINGS)):
            value = self._loss if name == "loss" else chosen[name]
            if value not in known:
                raise ConfigError(
                    f"--config.embedding.{name}={value!r}: expected {', '.join(known)}."
                )
        source = self.task.splits["train"].source
        if self._loss != "ranking" and not has_scores:
            raise ConfigError(
                f"--config.embedding.loss={self._loss}: {source} has no scores of likeness; "
                f"expected ranking, or a column {config.table.score_column!r}."
            )
        if self._loss == "ranking" and has_scores:
            raise ConfigError(
                "--config.embedding.loss=ranking: it takes all pairs for equal in meaning, and "
                f"those of {source} have scores; expected cosent or cosine, or a file without them."
            )
        if self._loss == "ranking" and config.batch_size < 2:
            raise ConfigError(
                "--config.batch_size=1: a pair is told from the others of its batch; expected at "
                "least 2."
            )
        if not 0 < chosen.scale < np.inf:
            raise ConfigError(f"--config.embedding.scale={chosen.scale}: expected more than 0.")

    def settings(self, config: Config) -> EmbeddingSettings:
        return EmbeddingSettings(**config.table)

    def plain_objective(self) -> Any:
        return Likeness(self.config.embedding.pooling)

    def objective(self, model: EncoderConfig) -> Likeness:
        refuse_what_needs_outputs(self.config)
        chosen = self.config.embedding
        dims = tuple(chosen.dims)
        whole = all(type(dim) is int and 1 <= dim <= model.hidden_size for dim in dims)
        if not whole or len(set(dims)) < len(dims):
            raise ConfigError(
                f"--config.embedding.dims={dims}: expected different numbers from 1 to "
                f"{model.hidden_size}, the features of this model, or ()."
            )
        if self._loss == "cosine" and dims:
            raise ConfigError(
                f"--config.embedding.dims={dims}: this is for the losses ranking and cosent; leave "
                "it out."
            )
        if self._loss == "cosine":
            return Likeness(chosen.pooling)
        return Contrast(chosen.pooling, self._loss, chosen.scale, dims)

    def make_examples(
        self, split: EmbeddingSplit, tokenizer: TextTokenizer, **more: Any
    ) -> EmbeddingExamples:
        length, buckets = self.config.max_seq_length, self.config.length_buckets
        return EmbeddingExamples(split, tokenizer, length, length_buckets=buckets, **more)

    def decode(
        self, split: EmbeddingSplit, examples: EmbeddingExamples, outputs: Mapping[str, np.ndarray]
    ) -> np.ndarray:
        """Returns the vectors of each example's texts, [N, C, D]."""
        check_outputs(outputs["vectors"])
        return outputs["vectors"][:, 0]

    def score(self, split: EmbeddingSplit, predictions: np.ndarray) -> dict[str, float]:
        """Returns the correlations of cosines with scores, or how well texts find each other.

        The latter are the share of first texts of which the nearest text of the split is their own,
        and the mean of 1 / the rank of their own. Where the loss is of several numbers of features
        there is also the first metric of each, "spearman/64".
        """
        names = ("accuracy", "mrr") if split.scores is None else ("spearman", "pearson")
        found = _scores(split, predictions, names)
        for dim in self.config.embedding.dims:
            shorter = _scores(split, predictions[:, :, :dim], names[:1])
            found[f"{names[0]}/{dim}"] = shorter[names[0]]
        return found

    def analysis(
        self, split: EmbeddingSplit, examples: EmbeddingExamples, predictions: np.ndarray
    ) -> Analysis:
        if split.scores is not None:
            return report.of_scores(split, examples, cosines(predictions))
        ranks, nearest = ranks_of(split, predictions)
        return report.of_ranks(split, examples, ranks, nearest)

    def remarks(self, examples: list[EmbeddingExamples]) -> list[str]:
        more = sum(len(texts) > 2 for texts in self.task.splits["train"].texts)
        unused = f"{more:,} third texts are not used: {self._loss} looks at pairs"
        return [*super().remarks(examples), *([unused] if more and self._loss != "ranking" else [])]

    def facts(self, examples: list[EmbeddingExamples]) -> dict[str, str]:
        chosen = self.config.embedding
        dims = f", of the first {', '.join(map(str, chosen.dims))} features" if chosen.dims else ""
        words = f"{self._loss}, {chosen.pooling} of tokens, cosines times {chosen.scale:g}{dims}"
        return {**super().facts(examples), "loss": words}


def refuse_what_needs_outputs(config: Config) -> None:
    """Raises ConfigError for what compares the outputs of a head: vectors have none."""
    regularizer = config.regularizer.name
    for name, value in (
        ("teacher", config.teacher),
        ("cache_features", config.cache_features),
        ("regularizer.name", regularizer),
    ):
        if value:
            raise ConfigError(
                f"--config.{name}={value}: this is not for vectors of texts; leave it out."
            )


def cosines(vectors: np.ndarray) -> np.ndarray:
    """Returns the cosines of the first two texts of each example, float32 [N]."""
    unit = _unit(vectors)
    return np.sum(unit[:, 0] * unit[:, 1], axis=-1)


def ranks_of(split: EmbeddingSplit, vectors: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Returns the rank of each first text's own second one among all others, and the nearest.

    The others are all different second and third texts of the split but for those equal to the
    first, and those that are right for it in another example; ranks are int64 [N], from 1. Of texts
    that are equally near the own one comes last.
    """
    numbers: dict[str, int] = {}
    rows, own = [], np.empty(len(split), np.int64)
    right: dict[str, set[int]] = {}
    for row, texts in enumerate(split.texts):
        for place, text in enumerate(texts[1:], start=1):
            if text not in numbers:
                numbers[text] = len(numbers)
                rows.append((row, place))
        own[row] = numbers[texts[1]]
        right.setdefault(texts[0], set()).add(int(own[row]))
    unit, names = _unit(vectors), list(numbers)
    others = np.stack([unit[row, place] for row, place in rows])
    ranks, nearest = np.empty(len(split), np.int64), []
    for start in range(0, len(split), _BLOCK):
        here = slice(start, start + _BLOCK)
        near = unit[here, 0] @ others.T
        for place, texts in enumerate(split.texts[here]):
            itself = {numbers[texts[0]]} if texts[0] in numbers else set()
            near[place, list((right[texts[0]] | itself) - {int(own[start + place])})] = -np.inf
        mine = np.take_along_axis(near, own[here, None], axis=1)
        ranks[here] = np.sum(near >= mine, axis=1)
        nearest += [names[number] for number in near.argmax(axis=1)]
    return ranks, nearest


# Texts whose cosines with all others are held at once.
_BLOCK = 1024


def _scores(split: EmbeddingSplit, vectors: np.ndarray, names: tuple[str, ...]) -> dict[str, float]:
    if split.scores is not None:
        return compute_metrics(names, cosines(vectors)[:, None], split.scores)
    ranks, _ = ranks_of(split, vectors)
    found = {"accuracy": float(np.mean(ranks == 1)), "mrr": float(np.mean(1 / ranks))}
    return {name: found[name] for name in names}


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
