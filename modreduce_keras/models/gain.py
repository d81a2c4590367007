"""Gain: a trainable factor and offset for each channel, as normalizations end with."""

from typing import Any

import keras
from keras import ops

from modreduce_keras.typing import Shape

_OPTIONS = ("gamma_regularizer", "gamma_constraint", "beta_regularizer", "beta_constraint")


@keras.saving.register_keras_serializable(package="modreduce_keras")
class Gain(keras.layers.Layer):
    """Multiplies each channel by a weight and a constant, and adds another weight.

        y = x (a γ) + β

    Args:
        factor: a.
        scale: Whether there is a γ.
        center: Whether there is a β.
        **kwargs: `gamma_regularizer`, `gamma_constraint` and the same of `beta`; `name` and others,
            as for every Keras layer.

    Call arguments:
        inputs: (batch, ..., channels).

    Returns:
        The same shape.
    """

    def __init__(
        self, factor: float = 1.0, *, scale: bool = True, center: bool = True, **kwargs: Any
    ) -> None:
        options = {name: kwargs.pop(name, None) for name in _OPTIONS}
        super().__init__(**kwargs)
        self.factor, self.scale, self.center = float(factor), scale, center
        for name, given in options.items():
            of = keras.regularizers if name.endswith("regularizer") else keras.constraints
            setattr(self, name, of.get(given))
        self.supports_masking = True

    def build(self, input_shape: Shape) -> None:
        """Creates the weights, from the shape of the inputs."""
        self.gamma = self._weight("gamma", "ones", input_shape) if self.scale else None
        self.beta = self._weight("beta", "zeros", input_shape) if self.center else None

    def _weight(self, name: str, initializer: str, input_shape: Shape) -> Any:
        return self.add_weight(
            shape=(input_shape[-1],),
            initializer=initializer,
            name=name,
            regularizer=getattr(self, f"{name}_regularizer"),
            constraint=getattr(self, f"{name}_constraint"),
        )

    def constants(self) -> tuple[Any, Any]:
        """Returns what is multiplied by and added, tensors or numbers."""
        scale = self.factor if self.gamma is None else ops.convert_to_tensor(self.gamma)
        scale = scale if self.gamma is None else scale * self.factor
        return scale, 0.0 if self.beta is None else ops.convert_to_tensor(self.beta)

    def call(self, inputs: Any) -> Any:
        """Returns the inputs times the scale plus the offset."""
        scale, offset = self.constants()
        return inputs * scale + offset

    def compute_output_shape(self, input_shape: Shape) -> Any:
        """Returns the shape of the inputs."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        own = {"factor": self.factor, "scale": self.scale, "center": self.center}
        for name in _OPTIONS:
            of = keras.regularizers if name.endswith("regularizer") else keras.constraints
            own[name] = of.serialize(getattr(self, name))
        return {**super().get_config(), **own}
