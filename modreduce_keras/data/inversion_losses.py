"""What inputs are optimized for by `deep_inversion`: pure functions of images and statistics."""

from collections.abc import Sequence

from keras import ops

from modreduce_keras.ops import float32, safe_sqrt
from modreduce_keras.typing import Tensor


def statistics_loss(
    batch: Sequence[tuple[Tensor, Tensor]], moving: Sequence[tuple[Tensor, Tensor]]
) -> Tensor:
    """Returns how far the statistics of a batch are from those that a teacher has counted.

        Σ_l ‖mean_l - moving mean_l‖ + ‖variance_l - moving variance_l‖

    Args:
        batch: Mean and variance, (channels,) each, of what each batch normalization is given.
        moving: What it has counted in training, in the same order.

    Returns:
        A scalar, float32, not negative.
    """
    total = ops.zeros((), "float32")
    for found, counted in zip(batch, moving, strict=True):
        for one, other in zip(found, counted, strict=True):
            total += _norm(float32(one) - float32(other))
    return total


def moments(inputs: Tensor, axis: int = -1) -> tuple[Tensor, Tensor]:
    """Returns mean and variance (of the population) of each channel, (channels,), float32."""
    inputs = float32(inputs)
    rank = len(inputs.shape)
    axes = [one for one in range(rank) if one != axis % rank]
    return ops.mean(inputs, axis=axes), ops.var(inputs, axis=axes)


def total_variation(images: Tensor) -> Tensor:
    """Returns how much neighbouring pixels differ: the norms of all differences of a batch, added.

    Neighbours lie to the right, below, and on both diagonals.

    Args:
        images: (batch, height, width, channels).

    Returns:
        A scalar, float32, not negative.
    """
    images = float32(images)
    here, right = images[:, :, :-1], images[:, :, 1:]
    differences = [
        here - right,
        images[:, :-1] - images[:, 1:],
        here[:, :-1] - right[:, 1:],
        here[:, 1:] - right[:, :-1],
    ]
    return sum(map(_norm, differences), ops.zeros((), "float32"))


def l2_norm(images: Tensor) -> Tensor:
    """Returns the norm of a batch of images, a scalar, float32."""
    return _norm(float32(images))


def _norm(values: Tensor) -> Tensor:
    return safe_sqrt(ops.sum(ops.square(values)))
