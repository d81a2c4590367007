"""TopK: the largest logits of each position, and the other classes taken together as one."""

from typing import Any, NamedTuple

from keras import ops

from modreduce_keras.distribute import take_from_rows
from modreduce_keras.ops.probabilities import LEFT_OUT
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
        rows, columns = _by_rows(ops.cast(logits, "float32"), self.indices)
        taken = take_from_rows(rows, columns)
        return ops.reshape(taken, ops.shape(self.indices))

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
    rows, columns = _by_rows(logits, indices)
    numbers = ops.broadcast_to(ops.arange(ops.shape(columns)[0])[:, None], ops.shape(columns))
    places = ops.reshape(ops.stack([numbers, columns], axis=-1), (-1, 2))

    def replaced(tensor: Tensor, values: Tensor) -> Tensor:
        return ops.scatter_update(tensor, places, ops.reshape(values, (-1,)))

    @ops.custom_gradient
    def compute(rows: Tensor) -> tuple[Tensor, Tensor]:
        def gradient(*args: Any, upstream: Tensor | None = None) -> Tensor:
            (upstream,) = args or (upstream,)
            return replaced(upstream[:, -1:] * shares, upstream[:, :-1])

        # Of all others. A softmax takes less time than a log-sum-exp, and the gradient needs it.
        shares = ops.softmax(
            replaced(rows, ops.full(ops.shape(columns), LEFT_OUT, "float32")), axis=-1
        )
        # The log-sum-exp is a logit less the logarithm of its share.
        share, first = ops.top_k(shares, k=1)
        logit = ops.take_along_axis(rows, first, axis=-1)
        # Where all others have a logit of -inf, the shares are those of the chosen ones.
        is_chosen = ops.any(ops.equal(first, columns), axis=-1, keepdims=True)
        rest = ops.where(is_chosen, LEFT_OUT, logit - ops.log(share))
        return ops.concatenate([take_from_rows(rows, columns), rest], axis=-1), gradient

    made = compute(ops.cast(rows, "float32"))
    return ops.reshape(made, (*ops.shape(indices)[:-1], columns.shape[-1] + 1))


def _by_rows(logits: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    """Returns logits, (n, classes), and their indices, (n, k), int32."""
    logits, indices = (ops.reshape(each, (-1, each.shape[-1])) for each in (logits, indices))
    return logits, ops.cast(indices, "int32")
