"""Host functions: functions of NumPy arrays that a compiled step calls.

TensorFlow is imported where it is used, as in `replicas`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from modreduce_keras.distribute.replicas import on_tensorflow


def on_host(function: Callable[[Any], np.ndarray], inputs: Any, shape: Sequence[int]) -> Any:
    """Returns what a function of NumPy arrays gives for tensors, a constant to the gradient.

    Args:
        function: Is given the inputs as arrays in their structure, and returns (batch, ...) in
            float32.
        inputs: Tensors in any structure.
        shape: Shape of the result for one sample.

    Raises:
        NotImplementedError: On another backend than TensorFlow.
    """
    if not on_tensorflow():
        raise NotImplementedError(
            "Functions of NumPy arrays run inside a step with the TensorFlow backend only. "
            f"Received: the backend {keras.backend.backend()!r}"
        )
    import tensorflow as tf

    def run(*leaves: np.ndarray) -> np.ndarray:
        if not len(leaves[0]):  # a replica that gets no sample of the last batch
            return np.zeros((0, *shape), "float32")
        return function(keras.tree.pack_sequence_as(inputs, leaves))

    flat = keras.tree.flatten(inputs)
    result = tf.numpy_function(run, flat, tf.float32)
    result.set_shape((flat[0].shape[0], *shape))
    return result
