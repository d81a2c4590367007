"""Held weights: layers for what computes with weights, but multiplies no inputs by them."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from modreduce_keras.typing import Shape


@keras.saving.register_keras_serializable(package="modreduce_keras")
class HeldWeight(keras.layers.Layer):
    """Returns a weight, as a token, a table of embeddings or a bias that depends on positions.

    Args:
        shape: Of the weight.
        regularizer, constraint: Of the weight. Default to `None`.
        **kwargs: `name` and others, as for every Keras layer.

    Call arguments:
        inputs: Anything, so that the layer stands in a functional model.

    Returns:
        `shape`, without a batch.
    """

    def __init__(
        self, shape: Sequence[int], regularizer: Any = None, constraint: Any = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.shape = tuple(shape)
        self.regularizer = keras.regularizers.get(regularizer)
        self.constraint = keras.constraints.get(constraint)

    def build(self, input_shape: Any = None) -> None:
        """Creates the weight."""
        given = {"regularizer": self.regularizer, "constraint": self.constraint}
        self.weight = self.add_weight(shape=self.shape, name="weight", **given)

    def call(self, inputs: Any) -> Any:
        """Returns the weight."""
        return ops.cast(ops.convert_to_tensor(self.weight), self.compute_dtype)

    def compute_output_spec(self, inputs: Any) -> keras.KerasTensor:
        """Returns the shape of the weight."""
        return keras.KerasTensor(self.shape, self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        own = {
            "shape": self.shape,
            "regularizer": keras.regularizers.serialize(self.regularizer),
            "constraint": keras.constraints.serialize(self.constraint),
        }
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package="modreduce_keras")
class Repeated(keras.layers.Layer):
    """Repeats something for each sample of a batch.

    Args:
        shape: Of a sample of the result.
        **kwargs: `name` and others, as for every Keras layer.

    Call arguments:
        inputs: Two tensors: (1, ...) or less, which `shape` broadcasts; and one that has the batch.

    Returns:
        (batch, *shape).
    """

    def __init__(self, shape: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.shape = tuple(shape)

    def call(self, inputs: Any) -> Any:
        """Returns the first input for each sample."""
        given, batch = inputs
        return ops.broadcast_to(given, (ops.shape(batch)[0], *self.shape))

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns the shape of the result."""
        return (input_shape[1][0], *self.shape)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        return {**super().get_config(), "shape": self.shape}


@keras.saving.register_keras_serializable(package="modreduce_keras")
class OnlyInTraining(keras.layers.Wrapper):
    """Runs a layer that gives its inputs in inference, such as one that drops paths.

    Args:
        layer: The layer.
        **kwargs: `name` and others, as for every Keras layer.

    Call arguments:
        inputs: What the layer takes.
        training: As for the layer.

    Returns:
        The shape of the inputs.
    """

    def __init__(self, layer: keras.layers.Layer, **kwargs: Any) -> None:
        own = {"name": layer.name, "dtype": layer.dtype_policy, "trainable": layer.trainable}
        super().__init__(layer, **{**own, **kwargs})
        self.supports_masking = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Returns what the layer gives."""
        return self.layer(inputs, training=training) if training else inputs

    def compute_output_shape(self, input_shape: Shape) -> Any:
        """Returns the shape of the inputs."""
        return input_shape
