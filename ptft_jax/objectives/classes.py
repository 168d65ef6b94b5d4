"""Cross-entropy with weights of classes and smoothed labels, as in PyTorch's `CrossEntropyLoss`.

Shape suffixes: B batch, M places, K classes.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ptft_jax.objectives.pretraining import weighted_cross_entropy


def symmetric_divergence(
    logits: Float[Array, "*rows K"], others: Float[Array, "*rows K"]
) -> Float[Array, "*rows"]:
    """Returns KL(p‖q) + KL(q‖p) of two softmaxes.

    A class that neither can have (its logit is the lowest float32) adds nothing.
    """
    logs, other_logs = jax.nn.log_softmax(logits, axis=-1), jax.nn.log_softmax(others, axis=-1)
    return jnp.sum((jnp.exp(logs) - jnp.exp(other_logs)) * (logs - other_logs), axis=-1)


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
