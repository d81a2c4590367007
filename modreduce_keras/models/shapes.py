"""Shapes of images that the models take."""

from typing import Any

from modreduce_keras.arguments import is_number


def require_image_shape(shape: Any, least: int = 1, *, known: bool = False) -> None:
    """Raises unless the shape of an image came, without the batch.

    Args:
        shape: What came as `input_shape`. Height and width may be `None`.
        least: The smallest height and width.
        known: Whether height and width may not be `None`.
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
            f"input_shape must be (height, width, channels){low}, without the batch"
            f"{', all known' if known else ''}. "
            f"Received: input_shape={shape!r}"
        )
