"""Vectors: centred, at unit length, and the distances between them."""

from keras import ops

from modreduce_keras.ops.safe import safe_reciprocal, safe_sqrt
from modreduce_keras.typing import Tensor


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
