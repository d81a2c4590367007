"""Disagreement of several teachers on each sample."""

import math
from collections.abc import Sequence

from keras import ops

from modreduce_keras.ops import log_bernoulli
from modreduce_keras.typing import Tensor


def of_classes(teachers: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    """Returns the Jensen-Shannon divergence of softmax distributions, (batch, ...), in nats.

    Args:
        teachers: Logits of each teacher, (batch, ..., classes), float32.
        shares: The teachers' shares, of sum one.
    """
    return _divergence([ops.log_softmax(one, axis=-1) for one in teachers], shares)


def of_labels(teachers: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    """Returns the same of independent labels, each yes or no: the mean over the labels."""
    return ops.mean(_divergence([log_bernoulli(one, 1.0) for one in teachers], shares), axis=-1)


def of_numbers(teachers: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    """Returns the variance of plain numbers over the teachers: the mean over the numbers."""
    pairs = list(zip(shares, teachers, strict=True))
    mean = sum(share * one for share, one in pairs)
    return ops.mean(sum(share * ops.square(one - mean) for share, one in pairs), axis=-1)


def _divergence(logs: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    """Returns H(Σ share p) - Σ share H(p) = Σ share KL(p ‖ Σ share p), of log p, (..., n)."""
    pairs = list(zip(shares, logs, strict=True))
    weighted = [math.log(share) + one for share, one in pairs]
    mixture = ops.logsumexp(ops.stack(weighted), axis=0)
    each = [share * ops.sum(ops.exp(one) * (one - mixture), axis=-1) for share, one in pairs]
    return ops.maximum(sum(each), 0.0)
