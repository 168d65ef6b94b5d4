"""How much a training example is of a mixture of two (mixup), drawn for each anew in each epoch."""

from typing import Any

import numpy as np
from scipy.special import betaincinv

from ptft_jax.data.batches import Batch
from ptft_jax.data.randomness import uniform
from ptft_jax.data.tasks.training.packed import Unpacked


class WithShares:
    """Examples whose batches say how much each is of its mixture, `objectives.mixup`.

    `alpha`: the shares come from Beta(alpha, alpha), by the seed and the example's global index.
    """

    def __init__(self, examples: Unpacked, alpha: float, seed: int) -> None:
        self._examples = examples
        self._alpha, self._seed = alpha, seed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._examples, name)

    def __len__(self) -> int:
        return len(self._examples)

    def batch(self, indices: np.ndarray) -> Batch:
        """The examples at global `indices` (int64 `[B]`), with `shares` float32 `[B, 1]`."""
        chance = uniform(self._seed, "mixup", np.asarray(indices))
        shares = betaincinv(self._alpha, self._alpha, chance).astype(np.float32)
        return self._examples.batch(indices) | {"shares": shares[:, None]}
