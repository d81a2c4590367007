"""What DKD and NKD share: the labelled class and the others as distributions of their own."""

from typing import Any

from keras import ops

from modreduce_keras.typing import Tensor

# Far below every logit, and still finite when multiplied by a probability of zero.
_NOTHING = -1e9


def decoupled(logits: Tensor, labels: Tensor, temperature: Any) -> tuple[Any, Any]:
    """Returns log probabilities: of the labelled class and the rest, and of the rest's classes.

    Args:
        logits: (batch, ..., classes).
        labels: Class indices, (batch, ...).
        temperature: Positive number.

    Returns:
        Of (labelled, rest), (batch, ..., 2), and of the others among themselves,
        (batch, ..., classes), where the labelled class has next to none.
    """
    target = ops.one_hot(labels, logits.shape[-1], dtype="bool")
    scaled = logits / temperature
    # Relative to the best of the others everything small stays exact beside a huge logit.
    best = ops.max(ops.where(target, _NOTHING, scaled), axis=-1, keepdims=True)
    scaled = scaled - ops.stop_gradient(best)
    others = ops.where(target, _NOTHING, scaled)
    margin = ops.sum(ops.where(target, scaled, 0.0), axis=-1) - ops.logsumexp(others, axis=-1)
    binary = ops.stack([ops.log_sigmoid(margin), ops.log_sigmoid(-margin)], axis=-1)
    return binary, ops.where(target, _NOTHING, ops.log_softmax(others, axis=-1))
