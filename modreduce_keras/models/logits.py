"""Logits: a model without the softmax or sigmoid that it ends in."""

from typing import Any

import keras

from modreduce_keras.keras_internals import operation_of
from modreduce_keras.models.clones import copy_model

_ENDINGS = (keras.activations.softmax, keras.activations.sigmoid)


def as_logits(model: keras.Model) -> keras.Model:
    """Copies a model that ends in a softmax or a sigmoid, without that ending.

    Distillation compares logits, and most of `keras.applications` end in probabilities. A student
    may be copied too, before it is trained. The model itself stays as it is.

    Args:
        model: A functional or a built Sequential model with one output. What ends it is an
            `activation="softmax"` or `"sigmoid"`, a layer `Activation` or `Softmax`, or
            `keras.ops.softmax`; it may lie in a nested model, unless it is a `Softmax` there.

    Returns:
        A model of the same weights that returns logits. One that returns them already is copied.

    Raises:
        ValueError: If the model is of another kind, or its ending cannot be taken away.

    Example:
        >>> import keras, numpy as np, modreduce_keras as mr
        >>> layers = [keras.Input((3,)), keras.layers.Dense(2, activation="softmax")]
        >>> teacher = keras.Sequential(layers)
        >>> logits = mr.models.as_logits(teacher)(np.ones((1, 3)))
        >>> bool(np.allclose(keras.ops.softmax(logits), teacher(np.ones((1, 3)))))
        True
    """
    outputs = getattr(model, "outputs", None) if isinstance(model, keras.Model) else None
    if not outputs or len(outputs) != 1:
        raise ValueError(
            "as_logits takes a functional or a built Sequential model with one output. "
            f"Received: {model!r}"
        )
    copy = copy_model(model)
    last, is_outer = operation_of(copy.outputs[0]), True
    while isinstance(last, keras.Model) and getattr(last, "outputs", None):
        last, is_outer = operation_of(last.outputs[0]), False
    if getattr(last, "activation", None) in _ENDINGS:
        last.activation = keras.activations.linear
        return copy
    if not _is_softmax(last):
        return copy
    if not is_outer:
        raise ValueError(
            f"The {type(last).__name__} that ends {model.name!r} lies in a nested model. Build the "
            "model without it: keras.Model(inputs, logits)."
        )
    inputs: Any = copy.inputs[0] if isinstance(copy, keras.Sequential) else copy.input
    return keras.Model(inputs, last.input, name=model.name)


def _is_softmax(operation: keras.Operation) -> bool:
    made = keras.ops.softmax(keras.KerasTensor((None, 2)))
    sigmoid = keras.ops.sigmoid(keras.KerasTensor((None, 2)))
    kinds = {type(operation_of(made)), type(operation_of(sigmoid)), keras.layers.Softmax}
    return type(operation) in kinds
