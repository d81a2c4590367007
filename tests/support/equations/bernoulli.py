"""Independent labels in float64 NumPy: probabilities, their divergence and their mixtures."""

import numpy as np


def log_sigmoid(logits):
    """Returns log sigmoid of logits."""
    return -np.logaddexp(0.0, -np.asarray(logits, "float64"))


def sigmoid(logits):
    """Returns the sigmoid of logits."""
    return np.exp(log_sigmoid(logits))


def binary_kd(teacher, student, temperature):
    """Returns T² Σ_l KL(Bernoulli), the mean over the positions of a sample, (batch,)."""
    t, s = (np.asarray(z, "float64") / temperature for z in (teacher, student))
    yes = sigmoid(t) * (log_sigmoid(t) - log_sigmoid(s))
    no = sigmoid(-t) * (log_sigmoid(-t) - log_sigmoid(-s))
    divergence = (yes + no).sum(axis=-1)
    return temperature**2 * divergence.reshape(len(divergence), -1).mean(axis=1)


def mixture(logits, shares, temperature):
    """Returns the logits that at a temperature are Σ_i share_i sigmoid(z_i / T)."""
    p = sum(
        share * sigmoid(np.asarray(z, "float64") / temperature)
        for share, z in zip(shares, logits, strict=True)
    )
    return temperature * (np.log(p) - np.log1p(-p))
