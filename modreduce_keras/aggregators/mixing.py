"""Mixtures of probabilities, as logits."""

from keras import ops

from modreduce_keras.ops import tempered_log_softmax


def mixed_probabilities(logits, log_weights, temperature):
    """Returns the logits of mixtures of the peers' softened probabilities.

    T log Σ_j exp(log w_ij) softmax(z_j / T): softened at T, they are the mixture itself.

    Args:
        logits: (batch, peers, classes).
        log_weights: (batch, mixtures, peers), or (mixtures, peers); each row's weights sum to one.
        temperature: T, a scalar.

    Returns:
        (batch, mixtures, classes).
    """
    log_probabilities = tempered_log_softmax(logits, temperature)
    if len(log_weights.shape) == 2:
        log_weights = ops.expand_dims(log_weights, 0)
    terms = ops.expand_dims(log_weights, -1) + ops.expand_dims(log_probabilities, 1)
    return temperature * ops.logsumexp(terms, axis=2)
