"""Cheaper tracing, for graphs that run once or twice."""

import tensorflow as tf
from tensorflow.python.util import tf_stack


def share_one_stack() -> None:
    """Has all operations remember one Python stack.

    Each operation of a graph remembers the Python stack that made it, for messages of TensorFlow.
    To walk the stack takes a tenth of the time to trace a step.
    """
    stack = tf_stack.extract_stack()
    list(stack)  # once, here: where TensorFlow lists it while it places a graph, it can crash
    tf_stack.extract_stack = lambda stacklevel=1: stack


def leave_graphs_as_they_are() -> None:
    """Has TensorFlow run graphs as they were traced, where it would optimise them first."""
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
