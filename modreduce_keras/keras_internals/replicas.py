"""Replicas of TensorFlow's strategies. Only `distillers` imports it."""

from collections.abc import Callable
from typing import Any


def once_for_all_replicas(function: Callable[..., None], *arguments: Any) -> None:
    """Calls a function with the present strategy and arguments, once for all replicas.

    Each replica calls this with what is its own; outside of replicas it is a plain call. Relies on
    `tf.__internal__.distribute.interim.maybe_merge_call`, as Keras' optimizers for TensorFlow do.
    """
    import tensorflow as tf

    merge_call = tf.__internal__.distribute.interim.maybe_merge_call
    merge_call(function, tf.distribute.get_strategy(), *arguments)
