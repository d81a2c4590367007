"""Masks of positions, and means over those that they keep."""

import keras
from keras import ops

from modreduce_keras.ops.safe import safe_reciprocal
from modreduce_keras.ops.tensors import float32
from modreduce_keras.typing import Tensor


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
