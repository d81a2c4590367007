"""Masked scores: layers for a softmax of which some inputs are left out."""

from typing import Any

import keras
from keras import ops

_FAR = -1e9
"""What fills masked scores: nothing of its softmax is left."""


def filled(numbers: Any, mask: Any, filling: Any) -> Any:
    """Returns numbers with others where a mask, that broadcasts to them, is false or up to 0.5."""
    if keras.backend.standardize_dtype(mask.dtype) != "bool":
        mask = ops.greater(mask, ops.cast(0.5, mask.dtype))
    return ops.where(mask, numbers, ops.cast(filling, numbers.dtype))


def without_masked(scores: Any, mask: Any) -> Any:
    """Returns scores of which a softmax leaves nothing where they are masked."""
    return filled(scores, mask, _FAR)


@keras.saving.register_keras_serializable(package="modreduce_keras")
class MaskedScores(keras.layers.Layer):
    """Fills masked scores with a number of which a softmax leaves nothing.

    Call arguments:
        inputs: Scores, and a mask that broadcasts to them: false or up to 0.5 is masked.

    Returns:
        The shape of the scores.
    """

    def call(self, inputs: Any) -> Any:
        """Returns the scores, filled."""
        return without_masked(*inputs)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns the shape of the scores."""
        return input_shape[0]

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        return super().get_config()  # without this method, Keras refuses a dtype policy


@keras.saving.register_keras_serializable(package="modreduce_keras")
class MaskedToZero(MaskedScores):
    """Sets what is masked to 0; called as `MaskedScores` is."""

    def call(self, inputs: Any) -> Any:
        """Returns the numbers, with zeros."""
        numbers, mask = inputs
        return filled(numbers, mask, 0.0)
