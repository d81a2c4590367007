"""Log probabilities and divergences of logits."""

from typing import Any

from keras import ops

from modreduce_keras.typing import Tensor

LEFT_OUT = -1e30
"""Far below every logit, and still finite when it is multiplied by a probability of zero."""
_MANY = 1001
"""Classes from which on a divergence is computed in the form for many."""


def tempered_log_softmax(logits: Tensor, temperature: Any) -> Tensor:
    """Returns log softmax(logits / temperature) over the last axis."""
    return ops.log_softmax(logits / temperature, axis=-1)


def log_softmax_of_kept(logits: Tensor, kept: Tensor | None) -> Tensor:
    """Returns log softmax over the entries of the last axis that are kept; others are `LEFT_OUT`.

    Args:
        logits: (...), float32.
        kept: Bool, of a shape that broadcasts to it; `None` keeps all.
    """
    if kept is None:
        return ops.log_softmax(logits, axis=-1)
    logs = ops.log_softmax(ops.where(kept, logits, LEFT_OUT), axis=-1)
    return ops.where(kept, logs, LEFT_OUT)


def kl_divergence(log_target: Tensor, log_prediction: Tensor) -> Tensor:
    """Returns KL(target ‖ prediction) over the last axis, from log probabilities.

    A target probability that underflows to zero contributes zero, as in the limit. Both sides have
    to sum to one: the terms are p_s - p_t - p_t d with d the difference of the log probabilities.
    They sum to the same as -p_t d and cancel far less where the two are close, as they are at high
    temperatures.
    """
    difference = log_prediction - log_target
    target = ops.exp(log_target)
    terms = ops.exp(log_prediction) - target - target * difference
    # Over many classes the rounding averages out, and the exact form would double the time.
    if (log_target.shape[-1] or 0) < _MANY:
        is_close = ops.abs(difference) < 1.0
        small = ops.where(is_close, difference, 0.0)
        terms = ops.where(is_close, target * (ops.expm1(small) - small), terms)
    return ops.sum(terms, axis=-1)


def tempered_divergence(target: Tensor, prediction: Tensor, temperature: Any) -> Tensor:
    """Returns T² KL(softmax(target / T) ‖ softmax(prediction / T)) over the last axis.

    Args:
        target: Logits, (..., classes).
        prediction: Logits, (..., classes).
        temperature: T, a number for all or one for each vector of logits, (..., 1).
    """
    many = (prediction.shape[-1] or 0) >= _MANY
    scaled = [ops.convert_to_tensor(logits / temperature) for logits in (target, prediction)]
    divergence = (_divergence_of_many if many else _divergence)(*scaled)
    squared = ops.square(temperature)
    return (ops.squeeze(squared, -1) if len(squared.shape) else squared) * divergence


def _divergence(target: Tensor, prediction: Tensor) -> Tensor:
    """Returns KL(softmax(target) ‖ softmax(prediction)) over the last axis, from logits."""
    return kl_divergence(ops.log_softmax(target, axis=-1), ops.log_softmax(prediction, axis=-1))


@ops.custom_gradient
def _divergence_of_many(target: Tensor, prediction: Tensor) -> tuple[Tensor, Tensor]:
    """Returns what `_divergence` does; the gradient keeps the logits alone, and is short."""

    def gradient(*args: Any, upstream: Tensor | None = None) -> tuple[Tensor, Tensor]:
        upstream = _of_rows(args, upstream)
        p_target, p_prediction = ops.softmax(target, axis=-1), ops.softmax(prediction, axis=-1)
        difference = ops.log_softmax(target, axis=-1) - ops.log_softmax(prediction, axis=-1)
        mean = ops.sum(p_target * difference, axis=-1, keepdims=True)
        of_target = upstream * p_target * (difference - mean)
        return of_target, upstream * (p_prediction - p_target)

    # A softmax and two maxima take less time than the logarithm of a softmax.
    p_target, p_prediction = ops.softmax(target, axis=-1), ops.softmax(prediction, axis=-1)
    # The logarithm of a ratio, which is near 1 where the two are close, hardly rounds then.
    ratio = _largest(p_target) / _largest(p_prediction)
    shift = _largest(prediction) - _largest(target) + ops.log(ratio)
    difference = prediction - target - shift
    return ops.sum(p_prediction - p_target - p_target * difference, axis=-1), gradient


def bernoulli_divergence(target: Tensor, prediction: Tensor, temperature: Any) -> Tensor:
    """Returns T² Σ KL of Bernoulli distributions over the last axis, p = sigmoid(logits / T).

    Args:
        target: Logits, (..., labels).
        prediction: Logits, (..., labels).
        temperature: T, a number.
    """
    if (prediction.shape[-1] or 0) < _MANY:
        pair = (log_bernoulli(logits, temperature) for logits in (target, prediction))
        divergence = ops.sum(kl_divergence(*pair), axis=-1)
    else:
        divergence = _bernoulli_divergence_of_many(target / temperature, prediction / temperature)
    return ops.square(temperature) * divergence


@ops.custom_gradient
def _bernoulli_divergence_of_many(target: Tensor, prediction: Tensor) -> tuple[Tensor, Tensor]:
    """Returns Σ KL over the last axis, from logits; a few operations, which are fast ones."""
    p_target = ops.sigmoid(target)

    def gradient(*args: Any, upstream: Tensor | None = None) -> tuple[Tensor, Tensor]:
        upstream, p_target = _of_rows(args, upstream), ops.sigmoid(target)
        of_target = upstream * p_target * (1.0 - p_target) * (target - prediction)
        return of_target, upstream * (ops.sigmoid(prediction) - p_target)

    softplus = _softplus(prediction) - _softplus(target)
    return ops.sum(softplus - p_target * (prediction - target), axis=-1), gradient


def _softplus(logits: Tensor) -> Tensor:
    """Returns log(1 + exp(logits)), ten times as fast on a processor as its own operation."""
    return ops.relu(logits) - ops.log(ops.sigmoid(ops.abs(logits)))


def _of_rows(args: Any, upstream: Tensor | None) -> Tensor:
    """Returns what a custom gradient is to be multiplied by, (..., 1).

    It is given alone, or by name after the inputs: that depends on the backend.
    """
    return ops.expand_dims(args[-1] if upstream is None else upstream, -1)


def _largest(values: Tensor) -> Tensor:
    """Returns the largest of the last axis, (..., 1)."""
    return ops.max(values, axis=-1, keepdims=True)


def log_mixture(first: Tensor, second: Tensor, share: float) -> Tensor:
    """Returns log(share exp(first) + (1 - share) exp(second)), for a share between 0 and 1."""
    largest = ops.stop_gradient(ops.maximum(first, second))
    parts = share * ops.exp(first - largest) + (1.0 - share) * ops.exp(second - largest)
    return largest + ops.log(parts)


def log_bernoulli(logits: Tensor, temperature: Any) -> Tensor:
    """Returns the logarithms of p = sigmoid(logits / temperature) and 1 - p, (..., 2)."""
    scaled = logits / temperature
    return ops.stack([ops.log_sigmoid(scaled), ops.log_sigmoid(-scaled)], axis=-1)
