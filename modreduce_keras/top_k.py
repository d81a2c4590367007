"""TopK: the largest logits of each position, and the other classes taken together as one."""

import math
from typing import Any, NamedTuple

from keras import ops

from modreduce_keras.distribute import by_chunks
from modreduce_keras.typing import Tensor


class TopK(NamedTuple):
    """Logits of a few classes of each position, which stand for those of all.

    Attributes:
        logits: (batch, ..., k), or (batch, ..., k + 1) with the rest's as the last one: the
            log-sum-exp of all other classes.
        indices: The k classes, (batch, ..., k), integers.
    """

    logits: Tensor
    indices: Tensor

    @property
    def has_rest(self) -> bool:
        """Whether the classes that are left out are there, as one."""
        return self.logits.shape[-1] > self.indices.shape[-1]

    def without_rest(self) -> "TopK":
        """Returns the k classes alone."""
        return TopK(self.logits[..., : self.indices.shape[-1]], self.indices)

    def outcomes_of(self, logits: Tensor) -> Tensor:
        """Returns other logits, (batch, ..., classes), of the same outcomes, float32."""
        if self.has_rest:
            return outcomes(logits, self.indices)
        return ops.take_along_axis(ops.cast(logits, "float32"), self.indices, axis=-1)

    def outcome_of(self, labels: Tensor, classes: int) -> Tensor:
        """Returns which outcome each label is, (batch, ...), int32; -1 of one that is not a class.

        Args:
            labels: Class indices, (batch, ...).
            classes: The number of classes.
        """
        labels = ops.cast(labels, "int32")
        found = ops.equal(ops.expand_dims(labels, -1), ops.cast(self.indices, "int32"))
        among = ops.cast(ops.argmax(ops.cast(found, "int32"), axis=-1), "int32")
        outcome = ops.where(ops.any(found, axis=-1), among, self.indices.shape[-1])
        is_class = ops.logical_and(labels >= 0, labels < classes)
        return ops.where(is_class, outcome, -1)


def outcomes(logits: Tensor, indices: Tensor) -> Tensor:
    """Returns the logits of some classes, and the log-sum-exp of all others as the last one.

    The softmax of the result is the probability of each of these classes, and of any other.

    Args:
        logits: (..., classes), floats.
        indices: k different classes, fewer than there are, (..., k), integers.

    Returns:
        (..., k + 1), float32.
    """
    number, classes = indices.shape[-1], logits.shape[-1]
    rows = ops.reshape(logits, (-1, classes)), ops.reshape(indices, (-1, number))
    made = by_chunks(_outcomes, [ops.cast(rows[1], "int32")], [rows[0]], number + 1)
    return ops.reshape(made, (*ops.shape(indices)[:-1], number + 1))


def _outcomes(indices: Tensor, logits: Tensor) -> Tensor:
    """Returns what `outcomes` does, (n, k + 1), from (n, k) and (n, classes)."""
    numbers = ops.broadcast_to(ops.arange(ops.shape(indices)[0])[:, None], ops.shape(indices))
    places = ops.reshape(ops.stack([numbers, indices], axis=-1), (-1, 2))

    def replaced(tensor: Tensor, values: Tensor) -> Tensor:
        return ops.scatter_update(tensor, places, ops.reshape(values, (-1,)))

    def others_and_rest(logits: Tensor) -> tuple[Tensor, Tensor]:
        others = replaced(logits, ops.full(ops.shape(indices), -math.inf))
        return others, ops.logsumexp(others, axis=-1, keepdims=True)

    @ops.custom_gradient
    def compute(logits: Tensor) -> tuple[Tensor, Tensor]:
        def gradient(*args: Any, upstream: Tensor | None = None) -> Tensor:
            (upstream,) = args or (upstream,)
            others, rest = others_and_rest(logits)
            return replaced(upstream[:, -1:] * ops.exp(others - rest), upstream[:, :-1])

        chosen = ops.take_along_axis(logits, indices, axis=-1)
        return ops.concatenate([chosen, others_and_rest(logits)[1]], axis=-1), gradient

    return compute(ops.cast(logits, "float32"))
