"""Statistics: whether a teacher's normalizations tell generated images from data that it knows."""

from collections.abc import Mapping

import keras
from keras import ops

from modreduce_keras.distribute import sum_over_replicas
from modreduce_keras.models.structure import paths_of
from modreduce_keras.ops import float32, safe_sqrt
from modreduce_keras.typing import Tensor

Normalizations = Mapping[str, keras.layers.BatchNormalization]


def normalizations(teacher: keras.Model) -> dict[str, keras.layers.BatchNormalization]:
    """Returns the batch normalizations of a teacher by the taps of their outputs.

    Raises:
        ValueError: If it has none.
    """
    kind = keras.layers.BatchNormalization
    found = {path: layer for path, layer in paths_of(teacher) if isinstance(layer, kind)}
    if not found:
        raise ValueError(
            f"The teacher {teacher.name!r} has no BatchNormalization whose statistics the "
            "generated images could have: leave statistics= out, or give 0"
        )
    return found


def statistics_loss(features: Mapping[str, Tensor], norms: Normalizations) -> Tensor:
    """Returns how far a batch's statistics are from those of the data that a teacher has seen.

        Σ_l Σ_c ((mean_lc - β_lc)² + (deviation_lc - |γ_lc|)²) / Σ_c γ_lc²

    In inference, a normalization shifts its inputs by the moving mean and scales them by the moving
    deviation, γ and β. So on the teacher's own data the mean of its outputs is about β, and their
    deviation |γ|. With several replicas, the batch is that of all of them.

    Args:
        features: The outputs of the normalizations for the generated images, by tap.
        norms: The normalizations, by tap.

    Returns:
        A scalar, float32, not negative.
    """
    total = ops.zeros((), "float32")
    for tap, norm in norms.items():
        mean, deviation = _moments(float32(features[tap]), norm.axis)
        expected = ops.zeros_like(mean) if norm.beta is None else float32(norm.beta)
        scale = ops.ones_like(mean) if norm.gamma is None else ops.abs(float32(norm.gamma))
        distance = ops.square(mean - expected) + ops.square(deviation - scale)
        total += ops.sum(distance) / ops.maximum(ops.sum(ops.square(scale)), 1e-12)
    return total


def _moments(outputs: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Returns mean and deviation of each channel over the batch of all replicas, (channels,)."""
    rank = len(outputs.shape)
    axes = [one for one in range(rank) if one != axis % rank]
    counted = ops.cast(ops.size(outputs) // outputs.shape[axis], "float32")
    count = ops.maximum(sum_over_replicas(counted), 1.0)
    mean = sum_over_replicas(ops.sum(outputs, axis=axes, keepdims=True)) / count
    squares = sum_over_replicas(ops.sum(ops.square(outputs - mean), axis=axes))
    return ops.reshape(mean, (-1,)), safe_sqrt(squares / count)
