"""Less work and waiting for graphs that run once or twice, and for data of a few batches."""

import tensorflow as tf
from tensorflow.python.data.ops import dataset_ops
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


def leave_data_untuned() -> None:
    """Has datasets read without tuning how they are read.

    An iterator ends when the thread that tunes it does, which sleeps for longer and longer. With
    an iterator for each short epoch, that is a third of a training.
    """
    untuned = tf.data.Options()
    untuned.autotune.enabled = False
    dataset_ops.DatasetV2._apply_debug_options = lambda data: data.with_options(untuned)
