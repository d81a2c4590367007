"""Function models: a Python function of NumPy arrays, called as a model without weights."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from modreduce_keras.distribute import on_host
from modreduce_keras.held import Held


class FunctionModel(keras.Model):
    """Runs a function of a batch of NumPy arrays as a model: an API, another library's model.

    It runs on the host in each step, which XLA cannot compile, and has no gradient.

    Args:
        function: Is given the inputs of a batch and returns an array (batch, ...).
        shape: Shape of the outputs of one sample.
        name: Name of the model.
        gives_logits: Whether the outputs are known to be logits. Else they are looked at on
            made-up inputs, as those of other models.
    """

    def __init__(
        self,
        function: Callable[[Any], Any],
        shape: Sequence[int],
        *,
        name: str | None = None,
        gives_logits: bool = False,
    ) -> None:
        super().__init__(name=name, dtype="float32", autocast=False)
        self._function = Held(function)
        self.sample_shape, self.gives_logits = tuple(shape), gives_logits
        self.supports_jit = False
        self.built = True

    def call(self, inputs: Any, training: Any = None) -> Any:
        return on_host(self.outputs_of, inputs, self.sample_shape)

    def outputs_of(self, inputs: Any) -> np.ndarray:
        """Returns the outputs for a batch of arrays, (batch, ...), float32.

        Raises:
            ValueError: If the function returns another shape.
        """
        outputs = np.asarray(self._function()(inputs), "float32")
        expected = (len(keras.tree.flatten(inputs)[0]), *self.sample_shape)
        if outputs.shape != expected:
            raise ValueError(
                f"The function of the model {self.name!r} must return an array of shape "
                f"{expected} for a batch. Received: {outputs.shape}"
            )
        return outputs


def is_only_outputs(models: Any) -> bool:
    """Returns whether a model is a function, without layers inside, or holds such alone.

    Args:
        models: A model, or several in a list.
    """
    if isinstance(models, FunctionModel):
        return True
    several = models if isinstance(models, (list, tuple)) else getattr(models, "layers", None) or []
    return bool(several) and all(isinstance(one, FunctionModel) for one in several)


def no_layers_inside(reader: str) -> str:
    """Returns why a teacher that is only outputs has no features.

    Args:
        reader: What would read one, for the message.
    """
    return (
        "A teacher that is only outputs has no layers inside, so there are no features and "
        "relations to compare: use response knowledge, such as knowledge=[mr.Response('kd')], or "
        f"give the model itself as the teacher. Received: {reader}"
    )
