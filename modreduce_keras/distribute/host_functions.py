"""Host functions: functions of NumPy arrays that a compiled step calls.

TensorFlow is imported where it is used, as in `replicas`.
"""

import contextlib
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from modreduce_keras.distribute.replicas import on_tensorflow

_ALONE = threading.RLock()


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

    @beside_one_thread()
    def run(*leaves: np.ndarray) -> np.ndarray:
        if not len(leaves[0]):  # a replica that gets no sample of the last batch
            return np.zeros((0, *shape), "float32")
        return function(keras.tree.pack_sequence_as(inputs, leaves))

    flat = keras.tree.flatten(inputs)
    result = tf.numpy_function(run, flat, tf.float32)
    result.set_shape((flat[0].shape[0], *shape))
    return result


def _cores() -> int:
    # As many threads as TensorFlow makes where nothing else is set.
    own = getattr(os, "sched_getaffinity", None)
    return len(own(0)) if own else os.cpu_count() or 1


@contextlib.contextmanager
def beside_one_thread() -> Iterator[None]:
    """Lets a function that a graph calls run compiled functions, such as `model.predict`.

    Where TensorFlow has one thread for the operations of graphs, the function is on it, and the
    operations of another graph would wait for that forever. They then run one by one.
    """
    import tensorflow as tf

    threads = tf.config.threading.get_inter_op_parallelism_threads()
    if (threads or _cores()) > 1:
        yield
        return
    with _ALONE, warnings.catch_warnings():
        # That pipelines of data are still graphs, which have threads of their own.
        warnings.filterwarnings("ignore", "Even though the `tf.config", UserWarning)
        with functions_run_eagerly():
            yield


@contextlib.contextmanager
def functions_run_eagerly() -> Iterator[None]:
    """Runs compiled functions as plain Python, or traces them as parts of what is traced."""
    import tensorflow as tf

    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)
