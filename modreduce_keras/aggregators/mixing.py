"""Mixtures of probabilities, as logits."""

from typing import Any

from keras import ops

from modreduce_keras.ops import log_bernoulli, tempered_log_softmax
from modreduce_keras.typing import Tensor


def mixed_probabilities(
    logits: Tensor, log_weights: Tensor, temperature: Any, independent: Tensor = False
) -> Tensor:
    """Returns the logits of mixtures of the peers' softened probabilities.

    T log Σ_j exp(log w_ij) softmax(z_j / T): softened at T, they are the mixture itself. Of
    independent labels it is T log (p / (1 - p)) with p = Σ_j exp(log w_ij) sigmoid(z_j / T).

    Args:
        logits: (batch, peers, classes).
        log_weights: (batch, mixtures, peers), or (mixtures, peers); each row's weights sum to one.
        temperature: T, a scalar.
        independent: Whether the logits are of independent labels and not of classes.

    Returns:
        (batch, mixtures, classes).
    """
    if len(log_weights.shape) == 2:
        log_weights = ops.expand_dims(log_weights, 0)
    log_weights = ops.expand_dims(log_weights, -1)
    if independent:
        log_yes_no = ops.expand_dims(log_bernoulli(logits, temperature), 1)
        log_yes_no = ops.logsumexp(ops.expand_dims(log_weights, -1) + log_yes_no, axis=2)
        return temperature * (log_yes_no[..., 0] - log_yes_no[..., 1])
    terms = log_weights + ops.expand_dims(tempered_log_softmax(logits, temperature), 1)
    return temperature * ops.logsumexp(terms, axis=2)
