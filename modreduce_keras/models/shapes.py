"""Shapes of images that the models take, and ranges of their pixels."""

from collections.abc import Sequence
from typing import Any

from modreduce_keras.arguments import is_number


def require_image_shape(
    shape: Any, least: int = 1, *, known: bool = False, name: str = "input_shape"
) -> None:
    """Raises unless it is the shape of an image, without the batch.

    Args:
        shape: What came. Height and width may be `None`.
        least: The smallest height and width.
        known: Whether height and width may not be `None`.
        name: What the argument is called.
    """
    several = tuple(shape) if isinstance(shape, (list, tuple)) else ()
    sizes = zip(several, (least, least, 1), strict=False)
    fits = len(several) == 3 and several[2] is not None
    if not fits or not all(
        (size is None and not known) or (is_number(size) and size == int(size) and size >= low)
        for size, low in sizes
    ):
        low = f" of at least {least} by {least}" if least > 1 else ""
        raise ValueError(
            f"{name} must be (height, width, channels){low}, without the batch"
            f"{', all known' if known else ''}. "
            f"Received: {name}={shape!r}"
        )


def require_image_range(image_range: Any) -> tuple[float, float]:
    """Returns the lowest and the highest value of a pixel, or raises a `ValueError`."""
    several = tuple(image_range) if isinstance(image_range, Sequence) else ()
    if len(several) != 2 or not all(map(is_number, several)) or several[0] >= several[1]:
        raise ValueError(
            "image_range must be the lowest and the highest value of a pixel, such as (0.0, 1.0). "
            f"Received: {image_range=}"
        )
    return float(several[0]), float(several[1])
