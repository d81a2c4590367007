"""Statistics of layers on several replicas, which would drift apart."""

from collections.abc import Iterable

import keras

from modreduce_keras.distribute import average_over_replicas
from modreduce_keras.models.fake_quantization import LearntFakeQuantize


def average_statistics(layers: Iterable[keras.layers.Layer]) -> None:
    """Gives all replicas the mean of what normalizations have counted and of learnt ranges."""
    average_over_replicas(
        variable
        for layer in layers
        if layer.trainable and _counts_alone(layer)
        for variable in layer.non_trainable_variables
    )


def _counts_alone(layer: keras.layers.Layer) -> bool:
    if isinstance(layer, keras.layers.BatchNormalization):
        return not layer.synchronized
    return isinstance(layer, LearntFakeQuantize)
