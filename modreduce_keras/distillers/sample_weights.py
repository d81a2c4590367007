"""Sample weights: one for each example, or for each of its positions, in every term of the loss."""

from collections.abc import Iterable, Mapping
from typing import Any

import keras
from keras import ops

from modreduce_keras.ops import per_sample_mean


def have_positions(sample_weight: Any) -> bool:
    """Returns whether sample weights, or those of an output, are of positions and not of examples.

    Positions are tokens, pixels or time steps.
    """
    each = [] if sample_weight is None else keras.tree.flatten(sample_weight)
    require_known_rank("sample_weight", sample_weight)
    return any(len(_squeezed(weight).shape) > 1 for weight in each)


def require_known_rank(name: str, values: Any) -> None:
    """Raises if arrays of another rank came before, under the same compiled step."""
    each = [] if values is None else keras.tree.flatten(values)
    if any(getattr(getattr(one, "shape", None), "rank", 1) is None for one in each):
        # TensorFlow has made one step for all that came, and what it does follows the rank.
        raise ValueError(
            f"{name} must have as many axes in each call: compile the distiller again before one "
            "per example follows one per position, or (batch, 1) follows (batch,), or the reverse. "
            "Received: first one, then the other"
        )


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
    terms: Mapping[str, Any],
    sample_weight: Any,
    outputs: Mapping[str, str] | None = None,
    supervised: Iterable[str] = (),
    names: Iterable[str] = (),
) -> dict[str, Any]:
    """Returns terms times the sample weights, one value per example, as Keras weighs a loss.

    Values per position are multiplied by their weights, and the mean is taken over all positions:
    a weight of zero leaves its position out of the sum, and not out of the number that divides it.
    What has one value per example, or other positions than the weights, is multiplied by the mean
    weight of the example, as if each of its positions had that value.

    Args:
        terms: Values by name, (batch,) or (batch, positions...).
        sample_weight: (batch,) or (batch, positions...); a dict of those by output, where outputs
            without weights count as they are; or `None`.
        outputs: The output that a term is of, by its name, where there are several. The weight of
            a term of none of them is the mean over those that have weights.
        supervised: Names of the terms that the weights have to fit: the compiled losses.
        names: Names of the outputs that have labels, be they of a term or not.

    Raises:
        ValueError: If the weights do not fit.
    """
    outputs, supervised, fitted = outputs or {}, set(supervised), False
    _check(sample_weight, {*outputs.values(), *names})
    weighted = {}
    for name, values in terms.items():
        weight = sample_weight
        if isinstance(sample_weight, Mapping):
            weight = sample_weight.get(outputs[name]) if name in outputs else _mean(sample_weight)
        if weight is None:
            weighted[name] = per_sample_mean(values)
            continue
        weight = ops.cast(_squeezed(weight), "float32")
        fits = _fits(weight, values)
        if name in supervised and not fits:
            raise ValueError(
                "sample_weight must have one value per example, (batch,), or one for each position "
                f"of the labels, (batch, ...). Received: shape {tuple(weight.shape)} for values of "
                f"the loss of shape {tuple(values.shape)}"
            )
        fitted = fitted or fits
        if fits and len(weight.shape) > 1:
            weighted[name] = per_sample_mean(values * _aligned(weight, values))
        else:
            weighted[name] = per_sample_mean(values) * per_sample_mean(weight)
    if terms and not fitted and have_positions(sample_weight):
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
    return {output: ops.ones((size,)) for output in labels} | dict(sample_weight)


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


def _squeezed(weight: Any) -> Any:
    """Returns a column of weights as one value per example."""
    is_column = len(weight.shape) == 2 and weight.shape[1] == 1
    return ops.squeeze(weight, axis=1) if is_column else weight


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
    each = [ops.cast(_squeezed(weight), "float32") for weight in by_output.values()]
    return sum(per_sample_mean(weight) for weight in each) / len(each)
