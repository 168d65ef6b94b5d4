"""Training texts some of whose tokens a masked language model has written anew.

What is refilled, and by what, depends on the seed, the variant of an epoch and the row of the split
alone. `runs.augmenting` asks the model.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from ptft_jax.data.batches import Batch
from ptft_jax.data.ragged import firsts
from ptft_jax.data.randomness import uniform
from ptft_jax.data.tasks.training.features import Ordered
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
from ptft_jax.errors import ConfigError

# Epochs of a run from here on see the variants of earlier ones again.
MOST_VARIANTS = 8


class Gaps(NamedTuple):
    """Rows to be refilled, all of one batch.

    Attributes:
        batch: with the mask at the chosen places.
        positions: int32 [B, M], ascending; unused places hold 0.
        chances: float32 [B, M] in [0, 1), by which a token is drawn; -1 in an unused place.
        fill: takes the tokens drawn for them, int [B, M].
    """

    batch: Batch
    positions: np.ndarray
    chances: np.ndarray
    fill: Callable[[np.ndarray], None]


class Refilled:
    """Examples, a row each, some of whose tokens are others; what else there is, they know."""

    def __init__(
        self, examples: Ordered, tokenizer: TextTokenizer, rate: float, seed: int, epochs: int
    ) -> None:
        """Makes room for a variant of each epoch.

        Raises ConfigError for a `rate` that is no probability.
        """
        if not 0 <= rate < 1:
            raise ConfigError(
                f"--config.augment.refill={rate}: expected a probability from 0 to below 1."
            )
        self._examples, self._rate, self._seed = examples, rate, seed
        self.variants = min(max(epochs, 1), MOST_VARIANTS)
        self.special = np.zeros(tokenizer.vocab_size, bool)
        self.special[list(tokenizer.special_ids)] = True
        self._mask = tokenizer.mask_token_id
        self._starts = firsts(examples.lengths)
        # -1: as it was.
        self._tokens = np.full((self.variants, int(examples.lengths.sum())), -1, np.int32)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._examples, name)

    def __len__(self) -> int:
        return len(self._examples)

    def batch(self, indices: np.ndarray) -> Batch:
        """The examples at global `indices` (int64 `[B]`) with the tokens of their epochs."""
        batch = self._examples.batch(indices)
        variants = np.asarray(indices, np.int64) // len(self) % self.variants
        places, is_real = self._places(batch, self._examples.rows(indices))
        found = np.where(is_real, self._tokens[variants[:, None], places], -1)
        batch["input_ids"] = np.where(found >= 0, found, batch["input_ids"])
        return batch

    def gaps(self, batch_size: int) -> Iterator[Gaps]:
        """Yields all rows of all variants, `batch_size` at a time; the last ones fill a batch up.

        The number of places of a row is a multiple of 8, so that few shapes are compiled.
        """
        # An epoch need not have all of them.
        examples = self._examples.in_order()
        for variant in range(self.variants):
            for start in range(0, len(examples), batch_size):
                rows = np.minimum(np.arange(start, start + batch_size), len(examples) - 1)
                yield self._gaps(variant, rows, examples.batch(rows))

    def _gaps(self, variant: int, rows: np.ndarray, batch: Batch) -> Gaps:
        ids, width = batch["input_ids"], batch["input_ids"].shape[1]
        of = variant, rows[:, None], np.arange(width)
        chosen = (batch["attention_mask"] > 0) & ~self.special[ids]
        chosen &= uniform(self._seed, "refill", *of) < self._rate
        most = 8 * max(1, math.ceil(int(chosen.sum(axis=1).max()) / 8))
        order = np.argsort(~chosen, axis=1, kind="stable")[:, :most]
        used = np.take_along_axis(chosen, order, axis=1)
        chances = np.take_along_axis(uniform(self._seed, "refill token", *of), order, axis=1)
        places, _ = self._places(batch, rows)

        def fill(tokens: np.ndarray) -> None:
            to = np.take_along_axis(places, order, axis=1)
            self._tokens[variant, to[used]] = tokens[used]

        masked = batch | {"input_ids": np.where(chosen, np.int32(self._mask), ids)}
        positions = np.where(used, order, 0).astype(np.int32)
        return Gaps(masked, positions, np.where(used, chances, -1).astype(np.float32), fill)

    def _places(self, batch: Batch, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the tokens of a batch lie in `_tokens`, and which are real; both [B, T]."""
        is_real = batch["attention_mask"] > 0
        places = self._starts[rows][:, None] + np.arange(is_real.shape[1])
        return np.where(is_real, places, 0), is_real
