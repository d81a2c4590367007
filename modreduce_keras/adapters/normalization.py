"""The batch normalization of the methods' published codes."""

from typing import Any

import keras


def normalization_layer(dtype: Any, name: str | None = None) -> keras.layers.BatchNormalization:
    """Returns a batch normalization with the momentum and epsilon that published codes have."""
    return keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5, dtype=dtype, name=name)
