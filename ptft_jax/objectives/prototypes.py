"""Classes that are known by a few texts: prototypical networks (Snell et al. 2017).

Shape suffixes: B rows, P texts of a row, D features; E texts of a batch or of an episode, G
episodes, N classes, K texts of a class, Q texts to classify, L = N, or N + 1 with none.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ptft_jax.models import partition
from ptft_jax.models.build import Batch, Encoder
from ptft_jax.models.dropout import RowKeys
from ptft_jax.objectives.embedding import vectors_of
from ptft_jax.objectives.totals import Totals, coupled_loss

POOLINGS = ("mean", "cls", "entities")


@dataclasses.dataclass(frozen=True)
class Prototypes:
    """Cross-entropy over an episode's classes, whose logits are -‖text - prototype‖².

    A prototype is the mean of the vectors of a class's support. A `CoupledObjective`: episodes are
    spread over the rows of a batch.

    Attributes:
        pooling: what a text's vector is: "mean" over its tokens, "cls", or "entities", the outputs
            at the first markers of head and tail, side by side (Baldini Soares et al. 2019,
            "Matching the Blanks", section 3.2).
        n_way: classes of an episode.
        episodes: how many a batch has.
        has_none: whether a text may be of none of the classes. Then the mean of all prototypes is
            one more, of the class `n_way`: nearer to it than to any class is what differs from all.
    """

    pooling: str
    n_way: int
    episodes: int
    has_none: bool = False

    def weights(self, batch: Batch) -> dict[str, Float[Array, ""]]:
        """Returns the number of texts that are to be classified."""
        return {"episodes": jnp.sum(batch["query_weights"])}

    def vectors(self, encoder: Encoder, batch: Batch, keys: RowKeys) -> Float[Array, "B P 1 D"]:
        """Returns the vectors of all texts, float32, of what is no text any."""
        hidden_BTD = encoder.last_hidden_state(batch, keys)
        return vectors_of(encoder, hidden_BTD, batch, self.pooling)[:, :, None]

    def coupled(self, vectors: Float[Array, "*R P 1 D"], batch: Batch) -> Float[Array, "*R P"]:
        """Returns each text's part of the loss, 0 of supports.

        `batch` has what belongs to the vectors, in any number of leading axes, from all devices.
        """
        shape, split = vectors.shape[:-2], vectors
        names = ("weights", "query_weights", "labels", "episodes")
        vectors, *known = partition.everywhere((vectors, *(batch[name] for name in names)))
        weights_E, queries_E, labels_E, episodes_E = (one.reshape(-1) for one in known)
        vectors_ED = vectors.reshape(-1, vectors.shape[-1])
        classes = self.episodes * self.n_way
        of_support_E = (weights_E > 0) & (queries_E == 0)
        own_EG = jax.nn.one_hot(episodes_E * self.n_way + labels_E, classes)
        own_EG = own_EG * of_support_E[:, None]
        sums_GD = jnp.einsum("eg,ed->gd", own_EG, vectors_ED, precision="highest")
        means_GD = sums_GD / jnp.maximum(jnp.sum(own_EG, axis=0), 1.0)[:, None]
        means_GND = means_GD.reshape(self.episodes, self.n_way, -1)
        if self.has_none:
            centre_GD = jnp.mean(means_GND, axis=1, keepdims=True)
            means_GND = jnp.concatenate([means_GND, centre_GD], axis=1)
        logits_EN = -jnp.sum(jnp.square(vectors_ED[:, None] - means_GND[episodes_E]), axis=-1)
        logs_EN = jax.nn.log_softmax(logits_EN)
        own_E = jnp.take_along_axis(logs_EN, labels_E[:, None], axis=1)[:, 0]
        return partition.split_like((-own_E * queries_E).reshape(shape), split)

    def __call__(self, encoder: Encoder, batch: Batch, *, keys: RowKeys) -> Totals:
        """Returns the sums over a batch, or over a micro-batch that `training.coupled` has seen."""
        vectors = self.vectors(encoder, batch, keys)
        return Totals({"episodes": coupled_loss(self, vectors, batch)}, self.weights(batch), {})


def prototype_logits(
    supports: Float[np.ndarray, "G N K D"],
    queries: Float[np.ndarray, "G Q D"],
    has_none: bool = False,
) -> Float[np.ndarray, "G Q L"]:
    """Returns -‖text - prototype‖² on the host, float32; the last one is of none where that may be.

    As in `Prototypes`.
    """
    means = supports.mean(axis=2)
    if has_none:
        means = np.concatenate([means, means.mean(axis=1, keepdims=True)], axis=1)
    # ‖q‖² + ‖p‖² - 2 q·p, with what all have in common taken off beforehand: no differences of
    # large numbers, and no array of queries by classes by features.
    centre = means.mean(axis=1, keepdims=True)
    means, queries = means - centre, queries - centre
    products = queries @ means.transpose(0, 2, 1)
    squares = np.sum(means**2, axis=-1)[:, None] + np.sum(queries**2, axis=-1)[:, :, None]
    return (2 * products - squares).astype(np.float32)
