"""Sample weights: one for each example, or for each of its positions, in every term of the loss."""

from collections.abc import Iterable, Mapping
from typing import Any

import keras
from keras import ops

from modreduce_keras.distillers.step.batch import have_positions, without_last_axis_of_one
from modreduce_keras.distillers.step.terms import Term
from modreduce_keras.ops import per_sample_mean


def require_alike(labels: Any, sample_weight: Any) -> None:
    """Raises if arrays of weights per position are not those of the positions of the labels."""
    by_output = isinstance(labels, Mapping) and isinstance(sample_weight, Mapping)
    pairs = (
        [(labels[name], weight) for name, weight in sample_weight.items() if name in labels]
        if by_output
        else [(labels, sample_weight)]
    )
    for own, weight in pairs:
        shape, sizes = getattr(own, "shape", ()), getattr(weight, "shape", ())
        if len(shape) < 2 or len(sizes) < 2 or len(sizes) > len(shape):
            continue
        if any(a not in (1, b) for a, b in zip(sizes[1:], shape[1:], strict=False)):
            raise ValueError(
                "sample_weight must have one value per example, (batch,), or one for each position "
                f"of the labels, (batch, ...). Received: shape {tuple(sizes)} for labels of shape "
                f"{tuple(shape)}"
            )


def by_sample_weight(
    values: Mapping[Term, Any], sample_weight: Any, outputs: Iterable[str] = ()
) -> dict[Term, Any]:
    """Returns terms times the sample weights, one value per example, as Keras weighs a loss.

    Values per position are multiplied by their weights, and the mean is taken over all positions:
    a weight of zero leaves its position out of the sum, and not out of the number that divides it.
    What has one value per example, or other positions than the weights, is multiplied by the mean
    weight of the example, as if each of its positions had that value.

    Args:
        values: (batch,) or (batch, positions...) of each term. The weights have to fit the terms
            on labels.
        sample_weight: (batch,) or (batch, positions...); a dict of those by output, where outputs
            without weights count as they are; or `None`. The weight of a term that is of no output
            is the mean over those that have weights.
        outputs: Names of the outputs that weights may be given for, beside those of the terms.

    Raises:
        ValueError: If the weights do not fit.
    """
    _check(sample_weight, {*outputs, *(term.output for term in values if term.output)})
    weighted, fitted = {}, False
    for term, own in values.items():
        weight = sample_weight
        if isinstance(sample_weight, Mapping):
            named = term.output is not None
            weight = sample_weight.get(term.output) if named else _mean(sample_weight)
        if weight is None:
            weighted[term] = per_sample_mean(own)
            continue
        weight = ops.cast(without_last_axis_of_one(weight), "float32")
        fits = _fits(weight, own)
        if term.on_labels and not fits:
            raise ValueError(
                "sample_weight must have one value per example, (batch,), or one for each position "
                f"of the labels, (batch, ...). Received: shape {tuple(weight.shape)} for values of "
                f"the loss of shape {tuple(own.shape)}"
            )
        fitted = fitted or fits
        if fits and len(weight.shape) > 1:
            weighted[term] = per_sample_mean(own * _aligned(weight, own))
        else:
            weighted[term] = per_sample_mean(own) * per_sample_mean(weight)
    if values and not fitted and have_positions(sample_weight):
        shapes = keras.tree.map_structure(lambda weight: tuple(weight.shape), sample_weight)
        raise ValueError(
            "sample_weight must have one value per example, (batch,), or one for each position of "
            f"a term. Received: shape {shapes}, which is that of no term"
        )
    return weighted


def of_every_output(sample_weight: Any, labels: Any) -> Any:
    """Returns sample weights by output with ones for the outputs that have none, for metrics."""
    if not (isinstance(sample_weight, Mapping) and isinstance(labels, Mapping)):
        return sample_weight
    size = ops.shape(keras.tree.flatten(sample_weight)[0])[0]
    return {output: ops.ones((size,), "float32") for output in labels} | dict(sample_weight)


def _check(sample_weight: Any, outputs: set[str]) -> None:
    """Raises if sample weights are given by other names than those of the outputs."""
    if not keras.tree.is_nested(sample_weight):
        return
    by_output = isinstance(sample_weight, Mapping) and set(sample_weight) <= outputs
    if by_output and not any(map(keras.tree.is_nested, sample_weight.values())):
        return
    expected = "an array"
    if outputs:
        expected += f", or a dict of arrays by output, of {sorted(outputs)}"
    received = list(sample_weight) if isinstance(sample_weight, Mapping) else sample_weight
    raise ValueError(f"sample_weight must be {expected}. Received: {received}")


def _fits(weight: Any, values: Any) -> bool:
    """Returns whether weights are one per example, or broadcast to the positions of values."""
    sizes, positions = weight.shape[1:], values.shape[1:]
    if len(sizes) == len(positions) + 1 and sizes[-1] == 1:
        sizes = sizes[:-1]
    return not sizes or (
        len(sizes) <= len(positions)
        and all(a in (1, None) or b in (a, None) for a, b in zip(sizes, positions, strict=False))
    )


def _aligned(weight: Any, values: Any) -> Any:
    """Returns weights of the rank of the values that they fit."""
    if len(weight.shape) > len(values.shape):
        return ops.squeeze(weight, axis=-1)
    for _ in range(len(values.shape) - len(weight.shape)):
        weight = ops.expand_dims(weight, -1)
    return weight


def _mean(by_output: Mapping[str, Any]) -> Any:
    """Returns the mean weight of each example over the outputs that have weights."""
    each = [ops.cast(without_last_axis_of_one(weight), "float32") for weight in by_output.values()]
    return sum(per_sample_mean(weight) for weight in each) / len(each)
