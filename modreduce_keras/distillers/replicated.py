"""What Keras' `fit` leaves undone on several replicas and machines."""

from typing import Any

import keras
from keras import ops

from modreduce_keras.distribute import average_over_replicas, is_multi_worker
from modreduce_keras.models.fake_quantization import LearntFakeQuantize


class ReplicatedModel(keras.Model):
    """Base class of what is trained by `fit` under any strategy."""

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Builds what depends on the data, from the batch of this machine where there are several.

        Keras would take the mean of all machines' batches, and cannot.
        """
        if iterator is not None and is_multi_worker(self.distribute_strategy):
            *_, batches = next(iter(iterator))
            data_batch = keras.tree.map_structure(self._local_batch, next(batches))
            iterator = None
        super()._maybe_symbolic_build(iterator, data_batch)

    def _local_batch(self, values):
        return self.distribute_strategy.experimental_local_results(values)[0]

    def _step_logs(self, logs: dict[str, Any]) -> dict[str, Any]:
        """Returns the logs of a step as Keras' reduction over replicas wants them.

        On several machines it takes the mean over the first axis of what should be scalars.
        """
        if not is_multi_worker(self.distribute_strategy):
            return logs
        return {name: ops.expand_dims(value, 0) for name, value in logs.items()}


def average_statistics(model: keras.Model) -> None:
    """Gives all replicas the mean of what normalizations have counted and of learnt ranges.

    Left alone, the copies of one network would drift apart.
    """
    average_over_replicas(
        variable
        for layer in model._flatten_layers()
        if layer.trainable and _counts_alone(layer)
        for variable in layer.non_trainable_variables
    )


def _counts_alone(layer: keras.layers.Layer) -> bool:
    if isinstance(layer, keras.layers.BatchNormalization):
        return not layer.synchronized
    return isinstance(layer, LearntFakeQuantize)
