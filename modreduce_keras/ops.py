"""Tensor helpers that losses and aggregators share, in `keras.ops` only."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
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
        # Given alone, or by name after the inputs: that depends on the backend.
        upstream = ops.expand_dims(args[-1] if upstream is None else upstream, -1)
        p_target, p_prediction = ops.softmax(target, axis=-1), ops.softmax(prediction, axis=-1)
        difference = ops.log_softmax(target, axis=-1) - ops.log_softmax(prediction, axis=-1)
        mean = ops.sum(p_target * difference, axis=-1, keepdims=True)
        of_target = upstream * p_target * (difference - mean)
        return of_target, upstream * (p_prediction - p_target)

    return _divergence(target, prediction), gradient


def log_mixture(first: Tensor, second: Tensor, share: float) -> Tensor:
    """Returns log(share exp(first) + (1 - share) exp(second)), for a share between 0 and 1."""
    largest = ops.stop_gradient(ops.maximum(first, second))
    parts = share * ops.exp(first - largest) + (1.0 - share) * ops.exp(second - largest)
    return largest + ops.log(parts)


def log_bernoulli(logits: Tensor, temperature: Any) -> Tensor:
    """Returns the logarithms of p = sigmoid(logits / temperature) and 1 - p, (..., 2)."""
    scaled = logits / temperature
    return ops.stack([ops.log_sigmoid(scaled), ops.log_sigmoid(-scaled)], axis=-1)


def per_sample_mean(values: Tensor) -> Tensor:
    """Returns the mean over every axis but the first: (batch, ...) -> (batch,)."""
    axes = tuple(range(1, len(values.shape)))
    return ops.mean(values, axis=axes) if axes else values


def masked_mean(values: Tensor, mask: Tensor | None = None, share: Tensor | None = None) -> Tensor:
    """Returns the mean over every axis but the first, of the positions that a mask keeps.

    Kept positions are scaled by the inverse of their share in the whole batch, as Keras does: the
    mean of the result over the batch is the mean over all kept positions. What stands where the
    mask is zero does not matter, and a batch without any kept position gives zeros.

    Args:
        values: (batch, ...).
        mask: Bool or 0 and 1, of a shape that broadcasts to that of the values; `None` keeps all.
        share: Share of the kept positions, of all replicas; `None` takes that of these values.

    Returns:
        (batch,).
    """
    if mask is None:
        return per_sample_mean(values)
    kept = ops.broadcast_to(ops.cast(mask, "bool"), ops.shape(values))
    share = ops.mean(ops.cast(kept, values.dtype)) if share is None else share
    return per_sample_mean(ops.where(kept, values, 0.0)) * safe_reciprocal(share)


def reduced(
    values: Tensor, mask: Tensor | None = None, how: str = "mean", share: Tensor | None = None
) -> Tensor:
    """Returns the value of each sample, (batch,), from values per position.

    Args:
        values: (batch, ...).
        mask: Bool, of the shape of the values; `None` keeps all.
        how: `"mean"` as by `masked_mean`, or `"sum"` of the positions that are kept.
        share: See `masked_mean`.
    """
    if how == "mean":
        return masked_mean(values, mask, share)
    kept = values if mask is None else ops.where(mask, values, 0.0)
    axes = tuple(range(1, len(values.shape)))
    return ops.sum(kept, axis=axes) if axes else kept


def spread(
    values: Tensor, mask: Tensor | None = None, how: str = "mean", share: Tensor | None = None
) -> Tensor:
    """Returns values per position whose plain mean over the positions is what `reduced` returns.

    The arguments are those of `reduced`; the result is of the shape of the values.
    """
    kept = values if mask is None else ops.where(mask, values, 0.0)
    if how == "sum":
        positions = ops.prod(ops.convert_to_tensor(ops.shape(values)[1:], "int32"))
        return kept * ops.cast(positions, values.dtype) if len(values.shape) > 1 else kept
    if mask is None:
        return kept
    share = ops.mean(ops.cast(mask, values.dtype)) if share is None else share
    return kept * safe_reciprocal(share)


def along_positions(mask: Tensor, tensor: Tensor) -> Tensor:
    """Returns a mask (batch, ...) with axes of size one up to the rank of a tensor."""
    for _ in range(len(tensor.shape) - len(mask.shape)):
        mask = ops.expand_dims(mask, -1)
    return mask


def filled(mask: Tensor, values: Tensor) -> Tensor:
    """Returns a mask of all positions, or of the first of them, in the shape of the values.

    Args:
        mask: (batch, ...), bool, or `None`.
        values: (batch, positions...), whatever they are.
    """
    if mask is None:
        return None
    return ops.broadcast_to(along_positions(mask, values), ops.shape(values))


def zeroed(tensors: Tensor, mask: Tensor) -> Tensor:
    """Returns tensors that are zero wherever a mask of their positions is, with gradient 0 there.

    Args:
        tensors: (batch, positions..., channels), or a structure of such tensors. Those of a lower
            rank have no positions, and stay as they are.
        mask: (batch, ...), bool, of the tensors' positions or the first of them; `None` keeps all.
    """
    if mask is None:
        return tensors

    def zero(tensor: Tensor) -> Tensor:
        if len(tensor.shape) <= len(mask.shape):
            return tensor
        return ops.where(along_positions(mask, tensor), tensor, ops.zeros((), tensor.dtype))

    return keras.tree.map_structure(zero, tensors)


def mean_over_places(feature: Tensor, kept: Tensor | None = None) -> Tensor:
    """Returns the mean over all axes between batch and channels, (batch, channels), float32.

    Args:
        feature: (batch, ..., channels).
        kept: Mask of the positions that count, (batch, ...); `None` for all. A sample without
            any such position gives zeros.
    """
    feature = float32(feature)
    axes = tuple(range(1, len(feature.shape) - 1))
    if not axes:
        return feature
    if kept is None:
        return ops.mean(feature, axis=axes)
    kept = ops.broadcast_to(along_positions(kept, feature), (*ops.shape(feature)[:-1], 1))
    number = ops.sum(ops.cast(kept, "float32"), axis=axes)
    return ops.sum(ops.where(kept, feature, 0.0), axis=axes) * safe_reciprocal(number)


def as_list(one_or_several: Any) -> Tensor:
    """Returns a list or tuple as a list, and anything else as a list of it alone."""
    several = isinstance(one_or_several, (list, tuple))
    return list(one_or_several) if several else [one_or_several]


def flatten(values: Tensor) -> Tensor:
    """Returns (batch, ...) as (batch, features)."""
    if len(values.shape) == 2:
        return values
    sizes = values.shape[1:]
    return ops.reshape(values, (ops.shape(values)[0], -1 if None in sizes else math.prod(sizes)))


def smooth_l1(difference: Tensor) -> Tensor:
    """Returns ½ d² where |d| < 1 and |d| - ½ elsewhere (Girshick 2015)."""
    magnitude = ops.abs(difference)
    return ops.where(magnitude < 1.0, 0.5 * ops.square(difference), magnitude - 0.5)


def safe_sqrt(values: Tensor) -> Tensor:
    """Returns the square root, with value 0 and gradient 0 where `values` is not positive."""
    positive = values > 0
    return ops.where(positive, ops.sqrt(ops.where(positive, values, 1.0)), 0.0)


def safe_reciprocal(values: Tensor) -> Tensor:
    """Returns 1 / values, with value 0 and gradient 0 where `values` is 0."""
    nonzero = ops.not_equal(values, 0)
    return ops.where(nonzero, 1.0 / ops.where(nonzero, values, 1.0), 0.0)


def centred(values: Tensor, axis: int, kept: Tensor = 1.0) -> Tensor:
    """Returns values less their mean along an axis, of those kept; 0 where they are not."""
    kept = kept * ops.ones_like(values)
    count = ops.sum(kept, axis=axis, keepdims=True)
    mean = ops.sum(kept * values, axis=axis, keepdims=True) * safe_reciprocal(count)
    return kept * (values - mean)


def unit(vectors: Tensor, axis: int | tuple[int, ...] = -1) -> Tensor:
    """Returns vectors at unit length along an axis; zero stays zero, with gradient 0."""
    squares = ops.sum(ops.square(vectors), axis=axis, keepdims=True)
    return vectors * safe_reciprocal(safe_sqrt(squares))


def directions(
    vectors: Tensor, scale: Tensor, axis: int | tuple[int, ...] = -1, tolerance: float = 1e-12
) -> tuple[Tensor, Tensor]:
    """Returns vectors at unit length, zero (with gradient 0) where they are but rounding.

    Args:
        vectors: Differences of numbers whose squares sum to `scale`, along the axis.
        scale: Of the vectors' shape, with size 1 along the axis.
        axis: The vectors' axis.
        tolerance: Part of `scale` up to which the vector's squares count as rounding.

    Returns:
        The unit vectors, and 1 or 0 for each: whether it is more than rounding.
    """
    varies = ops.sum(ops.square(vectors), axis=axis, keepdims=True) > tolerance * scale
    unit_vectors = unit(ops.where(varies, vectors, 0.0), axis)
    return unit_vectors, ops.cast(ops.squeeze(varies, axis), "float32")


def standardized(values: Tensor) -> Tensor:
    """Returns (values - mean) / population standard deviation over the last axis.

    A constant row gives zeros, with gradient 0.
    """
    centred = values - ops.mean(values, axis=-1, keepdims=True)
    scale = ops.sum(ops.square(values), axis=-1, keepdims=True)
    return values.shape[-1] ** 0.5 * directions(centred, scale)[0]


def pairwise_squared_distances(embeddings: Tensor) -> Tensor:
    """Returns the squared Euclidean distances of all pairs of rows, by the Gram matrix.

    Rows are centred first (distances do not change), which keeps the cancellation small. What is
    left below a millionth of the two squared norms is rounding and counts as zero, so duplicated
    rows are exactly zero apart.

    Args:
        embeddings: (batch, features), float32.

    Returns:
        (batch, batch), non-negative, with a diagonal of zeros.
    """
    centred = embeddings - ops.stop_gradient(ops.mean(embeddings, axis=0, keepdims=True))
    gram = ops.matmul(centred, ops.transpose(centred))
    norms = ops.sum(ops.square(centred), axis=-1)
    both = norms[:, None] + norms[None, :]
    squared = both - 2.0 * gram
    apart = ops.logical_and(squared > 1e-6 * both, ops.eye(ops.shape(gram)[0], dtype="float32") < 1)
    return ops.where(apart, squared, 0.0)


def _pooling_matrix(size: int, target: int) -> np.ndarray:
    """Returns the (target, size) matrix of adaptive average pooling along one axis."""
    matrix = np.zeros((target, size), "float32")
    for row in range(target):
        start, end = row * size // target, -(-(row + 1) * size // target)
        matrix[row, start:end] = 1.0 / (end - start)
    return matrix


def adaptive_average_pool(maps: Tensor, *sizes: int) -> Tensor:
    """Returns feature maps averaged to (batch, *sizes, channels).

    Window `i` of `n` covers the positions from floor(i · size / n) to ceil((i + 1) · size / n).

    Args:
        maps: (batch, positions..., channels), of known sizes.
        *sizes: A size for each axis of positions, such as height and width.
    """
    if len(sizes) == 2:
        rows = _pooling_matrix(maps.shape[1], sizes[0])
        columns = _pooling_matrix(maps.shape[2], sizes[1])
        return ops.einsum("ph,bhwc,qw->bpqc", rows, maps, columns)
    for axis, size in enumerate(sizes, start=1):
        if maps.shape[axis] != size:
            last = ops.moveaxis(maps, axis, -1)
            matrix = _pooling_matrix(maps.shape[axis], size)
            maps = ops.moveaxis(ops.matmul(last, matrix.T), -1, axis)
    return maps


def mask_at(mask: Tensor, sizes: Sequence[int], keep: str = "any") -> Tensor:
    """Returns a mask of positions at other sizes, (batch, *sizes), bool.

    Args:
        mask: (batch, positions...), bool, of known sizes.
        sizes: A size for each axis of positions, smaller or larger.
        keep: Which windows of `adaptive_average_pool` are kept: those of which `"any"` position
            is, or those of which `"all"` are.
    """
    counted = mask if keep == "any" else ops.logical_not(mask)
    share = adaptive_average_pool(ops.cast(counted, "float32")[..., None], *sizes)[..., 0]
    return share > 0 if keep == "any" else ops.equal(share, 0)


def averaged_to(maps: Tensor, sizes: Sequence[int], kept: Tensor | None = None) -> Tensor:
    """Returns maps at smaller sizes, averaged over the positions that are kept.

    Args:
        maps: (batch, positions..., channels), of known sizes.
        sizes: A size for each axis of positions.
        kept: (batch, positions...), bool, or `None`. A window without any kept position gives 0.
    """
    if tuple(maps.shape[1:-1]) == tuple(sizes):
        return maps
    kept = filled(kept, maps[..., 0])
    if kept is None:
        return adaptive_average_pool(maps, *sizes)
    share = adaptive_average_pool(ops.cast(kept, maps.dtype)[..., None], *sizes)
    return adaptive_average_pool(zeroed(maps, kept), *sizes) * safe_reciprocal(share)


def pooled_to_match(
    first: Tensor, second: Tensor, kept: Sequence[Tensor | None] = (None, None)
) -> tuple[Tensor, Tensor]:
    """Returns two sets of feature maps, each averaged down to the smaller size along each axis.

    This is how maps of any two sizes are compared everywhere: by adaptive average pooling, along
    each axis of the larger of the two, the teacher's or the student's. Nothing is interpolated,
    because a value between two positions of the smaller map says nothing new.

    Args:
        first: (batch, positions..., channels): sequences, maps or volumes.
        second: Of the same rank; its channels may differ.
        kept: Masks of both, (batch, positions...) and bool, or `None`. Averages are then over the
            positions that are kept; a window without any gives 0. `mask_at` tells which do.

    Returns:
        Both, of equal sizes.

    Raises:
        ValueError: If a size is not known. Sequences whose lengths are not known count as equally
            long.
    """
    pairs = list(zip(first.shape[1:-1], second.shape[1:-1], strict=True))
    if all(one == other for one, other in pairs) and None not in first.shape[1:-1]:
        return first, second
    if len(pairs) == 1 and None in pairs[0]:  # tokens of the same text
        return first, second
    if any(None in pair for pair in pairs):
        raise ValueError(
            "Feature maps are compared at a known height and width: give the models' inputs a "
            f"full shape. Received: maps of shape {tuple(first.shape)} and {tuple(second.shape)}"
        )
    sizes = tuple(min(pair) for pair in pairs)

    return averaged_to(first, sizes, kept[0]), averaged_to(second, sizes, kept[1])


def scale_gradient(tensor: Tensor, factor: Tensor) -> Tensor:
    """Returns a tensor whose gradient is multiplied by a factor on its way back.

    Args:
        tensor: (...), a floating-point tensor.
        factor: Of a shape that broadcasts to the tensor's; a constant to the gradient.
    """

    @ops.custom_gradient
    def identity(values: Tensor) -> tuple[Tensor, Tensor]:
        def gradient(*args: Any, upstream: Tensor | None = None) -> Tensor:
            (upstream,) = args or (upstream,)
            return upstream * ops.cast(factor, upstream.dtype)

        return values, gradient

    return identity(tensor)


def float32(tensors: Tensor) -> Tensor:
    """Returns a tensor, or a structure of them, as float32."""
    return keras.tree.map_structure(lambda tensor: ops.cast(tensor, "float32"), tensors)
