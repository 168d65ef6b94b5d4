"""Texts to vectors, and what vectors are trained for.

Shape suffixes: B rows, P examples of a row, C texts of an example, S = P x C, T tokens, D and F
features; E examples of a batch, N texts that an example's own is told from.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ptft_jax.models import partition
from ptft_jax.models.build import Batch, Encoder, take_positions
from ptft_jax.models.dropout import RowKeys
from ptft_jax.objectives.totals import Totals, coupled_loss

POOLINGS = ("mean", "cls", "pooler")
"""mean: over a text's tokens, [CLS] and [SEP] among them. cls: the last layer's output at [CLS].
pooler: tanh of the pooler's map of that, what pretraining's NSP and a classifier look at."""
LOSSES = ("ranking", "cosent", "cosine")
"""The first two are those of `Contrast`, the last is `Likeness`."""
_LOWEST = float(jnp.finfo(jnp.float32).min)


def pooled(
    encoder: Encoder,
    hidden_BTD: Float[Array, "B T D"],
    segments_BT: Int[Array, "B T"],
    starts_BS: Int[Array, "B S"],
    pooling: str,
) -> Float[Array, "B S D"]:
    """Returns the vectors of a row's texts, float32.

    Args:
        encoder: with a pooler where that is the pooling.
        hidden_BTD: the last hidden state.
        segments_BT: the same number at all tokens of a text, 0 at none.
        starts_BS: where each text begins.
        pooling: one of `POOLINGS`.
    """
    if pooling == "pooler":
        return encoder.pooled(hidden_BTD, starts_BS).astype(jnp.float32)
    if pooling == "cls":
        return take_positions(hidden_BTD, starts_BS).astype(jnp.float32)
    own_BS = jnp.take_along_axis(segments_BT, starts_BS, axis=1)
    is_own_BST = (segments_BT[:, None] == own_BS[:, :, None]).astype(jnp.float32)
    sums_BSD = jnp.einsum("bst,btd->bsd", is_own_BST, hidden_BTD.astype(jnp.float32))
    return sums_BSD / jnp.sum(is_own_BST, axis=2)[:, :, None]


def vectors_of(
    encoder: Encoder, hidden_BTD: Float[Array, "B T D"], batch: Batch, pooling: str
) -> Float[Array, "B P F"]:
    """Returns the vectors of a batch's texts, float32.

    `pooling` is one of `POOLINGS`, or "entities": the outputs at both `pooled_positions` [B, P, 2]
    of a text, side by side (Baldini Soares et al. 2019, "Matching the Blanks", section 3.2).
    """
    places = batch["pooled_positions"]
    if pooling == "entities":
        # Side by side, not reshaped: arrays that are split over a mesh would not be.
        states = [take_positions(hidden_BTD, places[:, :, part]) for part in range(2)]
        return jnp.concatenate(states, axis=-1).astype(jnp.float32)
    # Rows that texts do not share have no segments.
    segments_BT = batch.get("segment_ids", batch["attention_mask"])
    return pooled(encoder, hidden_BTD, segments_BT, places, pooling)


def normalized(vectors: Float[Array, "*N D"]) -> Float[Array, "*N D"]:
    """Returns vectors of length 1; one of length 0 stays."""
    # Inside of the root, since at 0 it has no gradient.
    squares = jnp.sum(jnp.square(vectors), axis=-1, keepdims=True)
    return vectors * jax.lax.rsqrt(jnp.maximum(squares, 1e-24))


@dataclasses.dataclass(frozen=True)
class TextVectors:
    """The vectors of single texts; there is no loss.

    Attributes:
        pooling: one of `POOLINGS`, or as of `vectors_of`.
        normalize: whether they have the length 1.
    """

    pooling: str = "mean"
    normalize: bool = True

    def weights(self, batch: Batch) -> dict[str, Float[Array, ""]]:
        """Returns the number of real texts."""
        return {"embedding": jnp.sum(batch["weights"])}

    def outputs(self, encoder: Encoder, batch: Batch) -> dict[str, jax.Array]:
        """Returns `vectors` [B, 1, D] of a batch of `ClassificationExamples`."""
        vectors = vectors_of(encoder, encoder.last_hidden_state(batch), batch, self.pooling)
        return {"vectors": normalized(vectors) if self.normalize else vectors}

    def __call__(self, encoder: Encoder, batch: Batch, *, keys: RowKeys) -> Totals:
        """Returns a loss of 0."""
        return Totals({"embedding": jnp.zeros(())}, self.weights(batch), {})


@dataclasses.dataclass(frozen=True)
class Likeness:
    """How far the cosine of an example's two texts is from how alike they are: its square.

    What vectors are scored by, whatever they are trained for.

    Attributes:
        pooling: one of `POOLINGS`.
    """

    pooling: str = "mean"

    def weights(self, batch: Batch) -> dict[str, Float[Array, ""]]:
        """Returns the number of real examples."""
        return {"embedding": jnp.sum(batch["weights"])}

    def vectors(self, encoder: Encoder, batch: Batch, keys: RowKeys) -> Float[Array, "B P C D"]:
        """Returns the vectors of all texts, float32, of what is no text any."""
        hidden_BTD = encoder.last_hidden_state(batch, keys)
        starts_BPC = batch["pooled_positions"]
        starts_BS = starts_BPC.reshape(len(starts_BPC), -1)
        found_BSD = pooled(encoder, hidden_BTD, batch["segment_ids"], starts_BS, self.pooling)
        return found_BSD.reshape(*starts_BPC.shape, -1)

    def outputs(self, encoder: Encoder, batch: Batch) -> dict[str, jax.Array]:
        """Returns `vectors` [B, P, C, D]."""
        return {"vectors": self.vectors(encoder, batch, None)}

    def __call__(self, encoder: Encoder, batch: Batch, *, keys: RowKeys) -> Totals:
        """Returns the sums over a batch of `EmbeddingExamples`."""
        vectors = normalized(self.vectors(encoder, batch, keys))
        cosines_BP = jnp.sum(vectors[:, :, 0] * vectors[:, :, 1], axis=-1)
        loss = jnp.sum(jnp.square(cosines_BP - batch["labels"]) * batch["weights"])
        return Totals({"embedding": loss}, self.weights(batch), {})


@dataclasses.dataclass(frozen=True)
class Contrast(Likeness):
    """Tells texts that are alike from others of the same batch; a `CoupledObjective`.

    Attributes:
        loss: "ranking", the cross-entropy of an example's own second text among all second and
            third texts of the batch (multiple negatives ranking, Henderson et al. 2017, section
            4.4), of which those equal to one of its two are left out; or "cosent", log(1 + Σ
            exp(cos of a pair - cos of another that is more alike)) over all such pairs (CoSENT, Su
            2022), for examples with scores.
        scale: cosines are multiplied by it.
        dims: the loss is the sum of those of the vectors' first features, so many each
            (Matryoshka, Kusupati et al. 2022); empty: of all of them.
    """

    loss: str = "ranking"
    scale: float = 20.0
    dims: tuple[int, ...] = ()

    def coupled(self, vectors: Float[Array, "*R P C D"], batch: Batch) -> Float[Array, "*R P"]:
        """Returns each example's part of the loss, 0 of those without weight.

        `batch` has what belongs to the vectors, in any number of leading axes, from all devices.
        """
        shape, split = vectors.shape[:-2], vectors
        names = ("weights", "labels", "choice_mask", "text_numbers")
        vectors, *known = partition.everywhere((vectors, *(batch[name] for name in names)))
        vectors_ECD = vectors.reshape(-1, *vectors.shape[-2:])
        weights_E, labels_E = (one.reshape(-1) for one in known[:2])
        mask_EC, numbers_EC = (one.reshape(-1, one.shape[-1]) for one in known[2:])
        losses_E = jnp.zeros_like(weights_E)
        for dim in self.dims or vectors.shape[-1:]:
            unit_ECD = normalized(vectors_ECD[:, :, :dim])
            if self.loss == "cosent":
                losses_E += self._cosent(unit_ECD, labels_E, weights_E)
            else:
                losses_E += self._ranking(unit_ECD, mask_EC, numbers_EC, weights_E)
        return partition.split_like((losses_E * weights_E).reshape(shape), split)

    def _ranking(
        self,
        unit_ECD: Float[Array, "E C D"],
        mask_EC: Int[Array, "E C"],
        numbers_EC: Int[Array, "E C"],
        weights_E: Float[Array, "E"],
    ) -> Float[Array, "E"]:
        # The second texts of all examples, then the third ones.
        others_ND = jnp.concatenate(list(jnp.moveaxis(unit_ECD[:, 1:], 1, 0)))
        numbers_N = numbers_EC[:, 1:].T.reshape(-1)
        there_N = ((mask_EC[:, 1:] > 0) & (weights_E[:, None] > 0)).T.reshape(-1)
        logits_EN = self.scale * unit_ECD[:, 0] @ others_ND.T
        same_EN = numbers_N == numbers_EC[:, 1:2]
        same_EN |= numbers_N == numbers_EC[:, :1]
        own_EN = jnp.eye(len(unit_ECD), len(others_ND), dtype=bool)
        counts_EN = own_EN | (there_N & ~same_EN)
        logits_EN = jnp.where(counts_EN, logits_EN, _LOWEST)
        own_E = jnp.sum(jnp.where(own_EN, logits_EN, 0.0), axis=1)
        return jax.nn.logsumexp(logits_EN, axis=1) - own_E

    def _cosent(
        self,
        unit_ECD: Float[Array, "E C D"],
        labels_E: Float[Array, "E"],
        weights_E: Float[Array, "E"],
    ) -> Float[Array, "E"]:
        cosines_E = self.scale * jnp.sum(unit_ECD[:, 0] * unit_ECD[:, 1], axis=-1)
        wrong_EE = cosines_E[:, None] - cosines_E
        counts_EE = (labels_E[:, None] < labels_E) & (weights_E[:, None] > 0) & (weights_E > 0)
        wrong = jnp.where(counts_EE, wrong_EE, _LOWEST).reshape(-1)
        loss = jax.nn.logsumexp(jnp.concatenate([wrong, jnp.zeros(1)]))
        # The mean over examples is the loss.
        return jnp.full_like(weights_E, loss)

    def __call__(self, encoder: Encoder, batch: Batch, *, keys: RowKeys) -> Totals:
        """Returns the sums over a batch, or over a micro-batch that `training.coupled` has seen."""
        vectors = self.vectors(encoder, batch, keys)
        return Totals({"embedding": coupled_loss(self, vectors, batch)}, self.weights(batch), {})
