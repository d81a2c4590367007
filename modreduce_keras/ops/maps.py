"""Feature maps, and their masks, at other sizes."""

from collections.abc import Sequence

import numpy as np
from keras import ops

from modreduce_keras.ops.positions import filled, zeroed
from modreduce_keras.ops.safe import safe_reciprocal
from modreduce_keras.typing import Tensor


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
    given = maps.shape[1:-1]
    if tuple(given) == sizes:
        return maps
    if len(sizes) < 4 and not any(size % target for size, target in zip(given, sizes, strict=True)):
        window = tuple(size // target for size, target in zip(given, sizes, strict=True))
        return ops.average_pool(maps, window, window, data_format="channels_last")
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
