"""Losses of classes: divergence, and cross-entropy with weights of classes and smoothed labels.

Shape suffixes: B batch, M places, K classes.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ptft_jax.models import partition


def divergence(
    logits: Float[Array, "*rows K"], others: Float[Array, "*rows K"]
) -> Float[Array, "*rows"]:
    """Returns KL(p‖q) of two softmaxes.

    A class that neither can have (its logit is the lowest float32) adds nothing.
    """
    logs, other_logs = jax.nn.log_softmax(logits, axis=-1), jax.nn.log_softmax(others, axis=-1)
    return jnp.sum(jnp.exp(logs) * (logs - other_logs), axis=-1)


def weighted_cross_entropy(
    logits: Float[Array, "B M V"], labels: Int[Array, "B M"], weights: Float[Array, "B M"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Returns the weighted sums of -log softmax(logits)[label] and of right predictions.

    The label's logit is picked by comparison instead of a gather, so that it needs no
    communication of logits when the class dimension is split over devices. A tie for the highest
    logit counts as right.
    """
    sharding = jax.typeof(logits).sharding.spec if partition.has_mesh() else None
    classes = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 2, out_sharding=sharding)
    picked = jnp.sum(jnp.where(classes == labels[:, :, None], logits, 0.0), axis=-1)
    highest = jnp.max(jax.lax.stop_gradient(logits), axis=-1)
    log_sum = highest + jnp.log(jnp.sum(jnp.exp(logits - highest[:, :, None]), axis=-1))
    correct = (picked >= highest).astype(jnp.float32)
    return jnp.sum((log_sum - picked) * weights), jnp.sum(correct * weights)


@dataclasses.dataclass(frozen=True)
class ClassLoss:
    """`torch.nn.CrossEntropyLoss(weight=class_weights, label_smoothing=…)`, as sums.

    Its mean is the sum of `__call__` over that of `weight`.

    Attributes:
        class_weights: how much an example of each class counts; None: all alike.
        label_smoothing: the share of a label that is spread evenly over all classes.
    """

    class_weights: tuple[float, ...] | None = None
    label_smoothing: float = 0.0

    def weight(
        self, labels_BM: Int[Array, "B M"], weights_BM: Float[Array, "B M"]
    ) -> Float[Array, ""]:
        """Returns the sum of the weights of examples, each times that of its class."""
        if self.class_weights is None:
            return jnp.sum(weights_BM)
        is_label_BMK = labels_BM[:, :, None] == jnp.arange(len(self.class_weights))
        by_class_BM = jnp.sum(is_label_BMK * jnp.array(self.class_weights, jnp.float32), axis=-1)
        return jnp.sum(by_class_BM * weights_BM)

    def __call__(
        self,
        logits_BMK: Float[Array, "B M K"],
        labels_BM: Int[Array, "B M"],
        weights_BM: Float[Array, "B M"],
        is_class_BMK: Array | None = None,
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Returns the sum of the loss and the weighted sum of right predictions.

        Args:
            logits_BMK: logits.
            labels_BM: classes, int32.
            weights_BM: how much each example counts, whatever its class.
            is_class_BMK: 1 for what is a class of an example, where not all have the same; there
                are no `class_weights` then.
        """
        plain, correct = weighted_cross_entropy(logits_BMK, labels_BM, weights_BM)
        if self.class_weights is None and not self.label_smoothing:
            return plain, correct
        classes = logits_BMK.shape[2]
        is_label_BMK = labels_BM[:, :, None] == jnp.arange(classes)
        every_BMK = jnp.ones(classes) if is_class_BMK is None else is_class_BMK
        # There are none in a place of a packed row that no example takes.
        count_BM1 = jnp.maximum(jnp.sum(every_BMK, axis=-1, keepdims=True), 1)
        spread_BMK = every_BMK / count_BM1
        target_BMK = (1 - self.label_smoothing) * is_label_BMK + self.label_smoothing * spread_BMK
        if self.class_weights is not None:
            target_BMK = target_BMK * jnp.array(self.class_weights, jnp.float32)
        loss_BM = -jnp.sum(target_BMK * jax.nn.log_softmax(logits_BMK, axis=-1), axis=-1)
        return jnp.sum(loss_BM * weights_BM), correct
