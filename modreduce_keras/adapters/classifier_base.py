"""The base of the adapters that look at features through a model's own classifier."""

from typing import Any

import keras
from keras import ops

from modreduce_keras.adapters.base import Adapter
from modreduce_keras.held import Held
from modreduce_keras.keras_internals import operation_of
from modreduce_keras.ops import float32
from modreduce_keras.typing import Tensor


def classifier_of(model: keras.Model) -> keras.layers.Dense:
    """Returns the Dense layer that ends a functional or Sequential model.

    Nested models are entered, and layers after it that change nothing (a linear activation that
    casts to float32) are passed over.

    Args:
        model: A functional or built Sequential model with one output.

    Returns:
        The layer itself, not a copy.

    Raises:
        ValueError: If the model is of another kind or ends in something else.

    Example:
        >>> import keras
        >>> inputs = keras.Input((4,))
        >>> model = keras.Model(inputs, keras.layers.Dense(3, name="logits")(inputs))
        >>> classifier_of(model).name
        'logits'
    """
    outputs = getattr(model, "outputs", None) if isinstance(model, keras.Model) else None
    if not outputs:
        raise ValueError(
            "To reuse its classifier, a model must be functional or a built Sequential model. "
            f"Received: {model!r}"
        )
    layer = operation_of(outputs[0])
    while _changes_nothing(layer):
        layer = operation_of(layer.input)
    if isinstance(layer, keras.Model):
        return classifier_of(layer)
    if isinstance(layer, keras.layers.Dense):
        return layer
    raise ValueError(
        "To reuse its classifier, a model must end in a Dense layer. "
        f"Received: {model.name!r}, which ends in {type(layer).__name__} {layer.name!r}"
    )


def _changes_nothing(layer: keras.layers.Layer) -> bool:
    is_linear = getattr(layer, "activation", None) is keras.activations.linear
    is_activation = isinstance(layer, keras.layers.Activation)
    return isinstance(layer, keras.layers.Identity) or (is_activation and is_linear)


def frozen_logits(classifier: keras.layers.Dense, feature: Tensor) -> Tensor:
    """Returns a classifier's logits for a feature, float32.

    Gradients pass through the classifier and not into it.

    Args:
        classifier: The Dense layer that ends a model.
        feature: (batch, features).
    """
    logits = ops.matmul(feature, ops.stop_gradient(float32(classifier.kernel)))
    if classifier.use_bias:
        logits = logits + ops.stop_gradient(float32(classifier.bias))
    return logits


class ClassifierAdapter(Adapter):
    """Base class of adapters that reuse the models' classifiers, which they do not own."""

    _classifiers: Held | None = None
    """`None` too while a saved adapter is built again, before its distiller has the models."""

    def adopt(self, student: Tensor, teacher: Tensor) -> None:
        self._classifiers = Held(self._taken_from(student, teacher))

    def _taken_from(self, student: Tensor, teacher: Tensor) -> tuple[keras.layers.Dense, ...]:
        """Returns the classifiers that the adapter reuses."""
        raise NotImplementedError

    def classifiers(self) -> tuple[keras.layers.Dense, ...]:
        """Returns what `adopt` took, or says that it was not called."""
        if self._classifiers is None:
            raise ValueError(
                f"{type(self).__name__} reuses a model's classifier: call adopt(student, teacher) "
                "with both models first, as a distiller does. Received: no models"
            )
        return self._classifiers()

    def require_width(self, role: str, shape: Any, classifier: Any) -> None:
        """Raises unless a classifier takes a feature's channels."""
        width = classifier.kernel.shape[0]
        if shape[-1] != width:
            raise ValueError(
                f"{type(self).__name__} needs what the {role}'s classifier {classifier.name!r} "
                f"sees, of {width} channels: the tap before it. Received: {role} of shape "
                f"{tuple(shape)}"
            )
