"""Training on episodes: to tell classes apart that are known by a few texts each."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from ptft_jax.data.tasks.episodes.drawing import Episodes, EpisodeShape
from ptft_jax.data.tasks.episodes.examples import EpisodeExamples
from ptft_jax.data.tasks.episodes.splits import EpisodeSettings, EpisodeSplit
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
from ptft_jax.errors import ConfigError
from ptft_jax.models.config import EncoderConfig
from ptft_jax.objectives.embedding import TextVectors
from ptft_jax.objectives.prototypes import POOLINGS, Prototypes, prototype_logits
from ptft_jax.objectives.scores.metrics import check_outputs, log_loss
from ptft_jax.runs.config import Config
from ptft_jax.runs.kinds.embedding import refuse_what_needs_outputs
from ptft_jax.runs.kinds.finetuning import FineTuning
from ptft_jax.runs.phases import PhaseConfig
from ptft_jax.runs.report.kinds import episodes as report
from ptft_jax.runs.report.measures import half_interval
from ptft_jax.runs.report.parts import Analysis

# Episodes that are scored on are the same for all runs, whatever their seed.
_SEED = 0
# Numbers of features that are gathered at once: 64 MiB.
_BLOCK = 1 << 24


class Episodic(FineTuning):
    """Classes that are known by a few texts each; see `FineTuning`."""

    pairs = False

    def __init__(self, config: Config):
        super().__init__(config)
        chosen = config.episode
        self._shape = EpisodeShape(chosen.n_way, chosen.k_shot, chosen.queries, chosen.na_rate)
        if chosen.eval_episodes < 2:
            raise ConfigError(
                f"--config.episode.eval_episodes={chosen.eval_episodes}: expected at least 2."
            )
        self._scored_by = self._eval_shapes()
        self._pooling = chosen.pooling
        self._has_entities = self.task.splits["train"].marked is not None
        known = POOLINGS if self._has_entities else POOLINGS[:-1]
        if self._pooling not in known:
            raise ConfigError(
                f"--config.episode.pooling={self._pooling!r}: expected {' or '.join(known)}"
                + ("." if self._has_entities else " for texts without entities.")
            )
        size = self._shape.size
        if config.batch_size % size:
            most = max(size, config.batch_size // size * size)
            raise ConfigError(
                f"--config.batch_size={config.batch_size}: it counts texts, and an episode has "
                f"{size} (n_way x (k_shot + queries), and those of none); expected a multiple, "
                f"like {most}."
            )
        for name, value in (
            ("augment", any(config.augment.values())),
            ("max_train_examples", config.max_train_examples),
        ):
            if value:
                raise ConfigError(f"--config.{name}: this is not for episodes; leave it out.")

    def _eval_shapes(self) -> list[EpisodeShape]:
        own, found = self._shape, []
        for pair in self.config.episode.eval:
            try:
                n_way, k_shot = pair
                found.append(dataclasses.replace(own, n_way=n_way, k_shot=k_shot))
            except (TypeError, ValueError, ConfigError) as error:
                raise ConfigError(
                    f"--config.episode.eval={self.config.episode.eval}: expected pairs of n_way "
                    "and k_shot, like ((5, 1), (10, 5))."
                ) from error
        if len(set(found)) < len(found):
            raise ConfigError(
                f"--config.episode.eval={self.config.episode.eval}: one stands twice."
            )
        return found or [own]

    def settings(self, config: Config) -> EpisodeSettings:
        return EpisodeSettings(**config.table)

    def plain_objective(self) -> Any:
        return TextVectors(self._pooling, normalize=False)

    def objective(self, model: EncoderConfig) -> Prototypes:
        refuse_what_needs_outputs(self.config)
        count, shape = self.config.batch_size // self._shape.size, self._shape
        return Prototypes(self._pooling, shape.n_way, count, shape.of_none > 0)

    def make_examples(
        self, split: EpisodeSplit, tokenizer: TextTokenizer, **more: Any
    ) -> EpisodeExamples:
        drawn = Episodes(split, self._shape, more["seed"]) if more.get("shuffle") else None
        return EpisodeExamples(
            split,
            tokenizer,
            self.config.max_seq_length,
            at_entities=self._pooling == "entities",
            episodes=drawn,
            length_buckets=self.config.length_buckets,
        )

    def scored(
        self, phase: PhaseConfig, tokenizer: TextTokenizer, split: str | None = None
    ) -> dict[str, Any]:
        found = super().scored(phase, tokenizer, split)
        for name in found:
            for shape in self._scored_by:
                Episodes(self.task.splits[name], shape, _SEED)
        return found

    def decode(
        self, split: EpisodeSplit, examples: EpisodeExamples, outputs: Mapping[str, np.ndarray]
    ) -> np.ndarray:
        """Returns the vectors of the texts, [N, D]."""
        check_outputs(outputs["vectors"])
        return outputs["vectors"][:, 0]

    def score(self, split: EpisodeSplit, predictions: np.ndarray) -> dict[str, float]:
        """Returns the mean accuracy over episodes, and half of its 95 % interval.

        Of further kinds of episodes (`episode.eval`) they are "accuracy/10-way-1-shot" and so on;
        the loss is that of the first.
        """
        scores: dict[str, float] = {}
        for number, shape in enumerate(self._scored_by):
            right, losses = [], []
            for logits, _, labels in self.asked(split, predictions, shape):
                right.append((logits.argmax(axis=-1) == labels).mean(axis=1))
                flat = logits.reshape(-1, logits.shape[-1])
                losses.append(log_loss(flat, np.tile(labels, len(logits))) * len(logits))
            each = np.concatenate(right)
            name = f"/{shape.n_way}-way-{shape.k_shot}-shot" if number else ""
            scores[f"accuracy{name}"] = float(each.mean())
            scores[f"accuracy_interval{name}"] = float(half_interval(each))
            if not number:
                scores["loss"] = float(sum(losses) / len(each))
        return scores

    def asked(self, split: EpisodeSplit, vectors: np.ndarray, shape: EpisodeShape) -> report.Asked:
        """Yields logits [G, Q, N], rows [G, Q] and labels [Q] of some episodes after others."""
        episodes = Episodes(split, shape, _SEED)
        count, block = self.config.episode.eval_episodes, _BLOCK // vectors[0].size // shape.size
        labels = shape.labels[shape.supports :]
        for start in range(0, count, max(1, block)):
            rows = episodes.draw(np.arange(start, min(start + max(1, block), count)))
            supports = vectors[rows[:, : shape.supports]]
            supports = supports.reshape(len(rows), shape.n_way, shape.k_shot, -1)
            queries = rows[:, shape.supports :]
            yield prototype_logits(supports, vectors[queries], shape.of_none > 0), queries, labels

    def analysis(
        self, split: EpisodeSplit, examples: EpisodeExamples, predictions: np.ndarray
    ) -> Analysis:
        shape = self._scored_by[0]
        return report.analysis(split, examples, self.asked(split, predictions, shape), shape)

    def remarks(self, examples: list[EpisodeExamples]) -> list[str]:
        unread = self._has_entities and self._pooling != "entities"
        line = "the sentences have entities: episode.pooling=entities looks at their markers"
        return [*super().remarks(examples), *([line] if unread else [])]

    def facts(self, examples: list[EpisodeExamples]) -> dict[str, str]:
        train, shape = self.task.splits["train"], self._shape
        count = self.config.batch_size // shape.size
        none = f", {shape.of_none} of none" if shape.of_none else ""
        return {
            **super().facts(examples),
            "task": f"{self.task.name}: {len(train):,} training texts of {len(train.names)} "
            "classes",
            "episodes": f"{count} in a batch, {shape.n_way}-way {shape.k_shot}-shot with "
            f"{shape.queries} texts of each to classify{none}; vectors: {self._pooling}",
        }
