"""The teacher of a distiller: only ever run forward, never counted, saved or changed."""

from typing import Any

import keras
from keras import ops

from modreduce_keras.taps import ModelOutput, TapReader


class FrozenTeacher:
    """Runs a trained model forward, in inference mode, behind stopped gradients.

    It is a plain object on purpose: Keras neither counts the weights of a model that only a plain
    object holds among the distiller's, nor saves them with it.

    Args:
        model: The trained model. It is not changed.
        taps: Names of the taps to read.
    """

    def __init__(self, model: keras.Model, taps: list[str]):
        self.model = model
        self.reader = TapReader(model, taps, role="teacher")

    def __call__(self, inputs: Any) -> ModelOutput:
        """Returns the teacher's output and features, constants to the gradient."""
        output = self.reader(inputs, training=False)
        return ModelOutput(*keras.tree.map_structure(ops.stop_gradient, tuple(output)))
