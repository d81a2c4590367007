"""Shapes of images that the models take, ranges of their pixels, and their dtype."""

from collections.abc import Sequence
from typing import Any

import keras

from modreduce_keras.arguments import is_number
from modreduce_keras.models.graph import input_specs


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


def require_floats(model: keras.Model, role: str) -> None:
    """Raises if a model has no gradient for its inputs, because it converts them to integers.

    Args:
        model: A built model.
        role: What the argument is called.
    """
    for spec in keras.tree.flatten(input_specs(model)):
        dtype = keras.backend.standardize_dtype(getattr(spec, "dtype", "float32"))
        if "int" in dtype or dtype == "bool":
            raise ValueError(
                f"Images are made by gradients through the {role}, so it must take floats. This is "
                f"the same model, with the same weights, for floats: keras.models.clone_model("
                f"{role}, keras.Input({tuple(spec.shape[1:])}), clone_function=lambda layer: "
                f"layer). Received: {model.name!r} with inputs of dtype {dtype}"
            )
