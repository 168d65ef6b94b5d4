"""Which texts an episode has: a pure function of (seed, number of the episode)."""

from dataclasses import dataclass

import numpy as np

from ptft_jax.data.randomness import random_below, shuffled_index
from ptft_jax.data.tasks.episodes.splits import EpisodeSplit
from ptft_jax.errors import ConfigError


@dataclass(frozen=True)
class EpisodeShape:
    """How many texts an episode has.

    Attributes:
        n_way: classes.
        k_shot: texts of each that a class is known by, its support.
        queries: texts of each to be classified.
        na_rate: how many times as many are of none of these classes (FewRel 2.0, Gao et al. 2019):
            `queries` times it, rounded down.
    """

    n_way: int = 5
    k_shot: int = 5
    queries: int = 5
    na_rate: float = 0.0

    def __post_init__(self):
        for name, least in (("n_way", 2), ("k_shot", 1), ("queries", 1)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise ConfigError(
                    f"--config.episode.{name}={value!r}: expected a whole number of at least "
                    f"{least}."
                )
        if not 0 <= self.na_rate < np.inf or (self.na_rate and not self.of_none):
            raise ConfigError(
                f"--config.episode.na_rate={self.na_rate}: expected 0, or enough for one text of "
                f"another class: at least 1 / episode.queries = {1 / self.queries:g}."
            )

    @property
    def of_none(self) -> int:
        """How many texts of other classes are to be classified."""
        return int(self.na_rate * self.queries + 1e-9)  # 0.29 of 100 are 29

    @property
    def supports(self) -> int:
        """How many texts the classes are known by."""
        return self.n_way * self.k_shot

    @property
    def size(self) -> int:
        """How many texts there are."""
        return self.supports + self.n_way * self.queries + self.of_none

    @property
    def labels(self) -> np.ndarray:
        """The class of each of an episode's texts, from 0, `n_way` for none; int32 [size].

        The support of each class comes first, then what is to be classified, then what is of none.
        """
        classes = np.arange(self.n_way, dtype=np.int32)
        none = np.full(self.of_none, self.n_way, np.int32)
        return np.concatenate([classes.repeat(self.k_shot), classes.repeat(self.queries), none])


class Episodes:
    """The episodes of a split, without end."""

    def __init__(self, split: EpisodeSplit, shape: EpisodeShape, seed: int) -> None:
        """Raises ConfigError where a class, or the split, has too little for an episode."""
        assert split.labels is not None
        self.shape, self._seed = shape, seed
        self._rows = np.argsort(split.labels, kind="stable")
        counts = np.bincount(split.labels, minlength=len(split.names))
        self._counts, self._firsts = counts, np.cumsum(counts) - counts
        least = shape.k_shot + shape.queries
        if counts.min() < least:
            name = split.names[int(counts.argmin())]
            raise ConfigError(
                f"{split.source}: the class {name!r} has {counts.min()} texts, and an episode "
                f"takes {least} of a class (episode.k_shot={shape.k_shot} + episode.queries="
                f"{shape.queries}); expected fewer, or more texts."
            )
        needed = shape.n_way + bool(shape.of_none)
        if len(counts) < needed:
            none = " and another one for episode.na_rate" if shape.of_none else ""
            raise ConfigError(
                f"{split.source} has {len(counts)} classes, and an episode takes "
                f"{shape.n_way} (episode.n_way){none}; expected fewer, or more classes."
            )

    def draw(self, numbers: np.ndarray) -> np.ndarray:
        """The rows of the split that the episodes of these numbers have, int64 [E, size]."""
        shape, seed = self.shape, self._seed
        episodes = np.asarray(numbers, np.int64)[:, None]
        count, each = len(self._counts), shape.k_shot + shape.queries
        classes = shuffled_index(
            np.arange(shape.n_way), count, seed, episodes, "classes of an episode"
        )
        found = np.empty((len(episodes), shape.n_way, each), np.int64)
        for one in np.unique(classes):
            of_episode, _ = here = np.nonzero(classes == one)
            found[here] = self._firsts[one] + shuffled_index(
                np.arange(each),
                int(self._counts[one]),
                seed,
                episodes[of_episode] * count + one,
                "texts of an episode",
            )
        parts = [found[:, :, : shape.k_shot], found[:, :, shape.k_shot :]]
        places = np.arange(shape.of_none)
        if shape.of_none:
            beyond = random_below(
                count - shape.n_way, seed, "other classes of an episode", episodes, places
            )
            others = shuffled_index(
                shape.n_way + beyond, count, seed, episodes, "classes of an episode"
            )
            text = random_below(
                self._counts[others], seed, "other texts of an episode", episodes, places
            )
            parts.append(self._firsts[others] + text)
        return self._rows[np.concatenate([part.reshape(len(episodes), -1) for part in parts], 1)]
