"""New heads: a trained model with a classifier for other classes in the place of its own."""

from typing import Any

import keras
from keras import layers

from modreduce_keras.arguments import is_number, require_integer
from modreduce_keras.keras_internals import calls_of, history_of
from modreduce_keras.models.graph import input_specs
from modreduce_keras.models.kernel_wrapper import plain_layer

# What may follow the layer that classifies, and changes no class.
_AFTER = (layers.Flatten, layers.Identity, layers.Reshape, layers.Softmax)
_OPERATIONS_AFTER = ("Sigmoid", "Softmax")  # of keras.ops
_ENDINGS = (
    keras.activations.linear,
    keras.activations.sigmoid,
    keras.activations.softmax,
)
_POOLING = {
    3: layers.GlobalAveragePooling1D,
    4: layers.GlobalAveragePooling2D,
    5: layers.GlobalAveragePooling3D,
}


def with_classifier(
    model: keras.Model,
    num_classes: int,
    *,
    at: str | None = None,
    dropout: float = 0.0,
    name: str | None = None,
) -> keras.Model:
    """Puts a new classifier on a model, in the place of its own if it has one.

    A classifier at the end of the model is removed, together with the dropout before it: a `Dense`
    layer that is linear or has a softmax or sigmoid, or a convolution whose output is flattened, as
    in MobileNet. The remaining output is averaged over its positions if it has any (`"embedding"`),
    and followed by a new `Dense` layer in float32 (`"logits"`).

    The result shares its layers and their weights with the model, so training changes both. To
    freeze them, set `model.trainable = False` before the call, or `layer.trainable = False`. If
    `model` is also the teacher, copy the student:
    `mr.models.copy_model(with_classifier(model, 10))`. To train the pretrained layers more slowly
    than the new one, use two optimizers:

        distiller.compile({"logits": Adam(1e-3), "student": Adam(1e-5)}, loss)

    Args:
        model: A functional or a built Sequential model with one output, such as one of
            `keras.applications` with `include_top=False` or with its head.
        num_classes: Number of the new classes.
        at: Layer of the model whose output the classifier reads. Defaults to `None`: as above.
        dropout: Share of the embedding that is set to zero in training, from 0 to below 1. Defaults
            to 0: there is no such layer.
        name: Name of the result. Defaults to the model's.

    Returns:
        A functional model from the model's inputs to logits, (batch, num_classes).

    Raises:
        ValueError: If the model is of another kind, its features have an unknown number of channels
            or are not vectors, sequences, maps or volumes, `at` names no layer of it, or a number
            is out of range.

    Example:
        >>> import keras, modreduce_keras as mr
        >>> trained = keras.applications.MobileNet(
        ...     alpha=0.25, weights=None, input_shape=(32, 32, 3), classes=7
        ... )
        >>> student = mr.models.with_classifier(trained, 3, dropout=0.2)
        >>> [layer.name for layer in student.layers[-3:]], student.output_shape
        (['embedding', 'dropout', 'logits'], (None, 3))
    """
    require_integer("num_classes", num_classes)
    if not (is_number(dropout) and 0 <= dropout < 1):
        raise ValueError(f"dropout must be a number from 0 to below 1. Received: {dropout=}")
    outputs = getattr(model, "outputs", None) if isinstance(model, keras.Model) else None
    if not outputs or len(outputs) != 1:
        raise ValueError(
            "with_classifier takes a functional or a built Sequential model with one output. "
            f"Received: {model!r}"
        )
    features = _features(model) if at is None else _output_of(model, at)
    shape = tuple(features.shape)
    if len(shape) not in (2, *_POOLING) or shape[-1] is None:
        raise ValueError(
            "A classifier reads vectors (batch, channels), or sequences, maps or volumes (batch, "
            f"positions..., channels), of a known number of channels. Received: {shape} of "
            f"{model.name!r}, at={at!r}"
        )
    inputs = input_specs(model)
    taken = {layer.name for layer in keras.Model(inputs, features).layers}

    def named(own: str) -> str:
        return f"new_{own}" if own in taken else own

    if len(shape) > 2:
        features = _POOLING[len(shape)](name=named("embedding"))(features)
    if dropout:
        features = layers.Dropout(dropout, name=named("dropout"))(features)
    logits = layers.Dense(num_classes, dtype="float32", name=named("logits"))(features)
    return keras.Model(inputs, logits, name=name or model.name)


def _output_of(model: keras.Model, at: str) -> Any:
    names = [layer.name for layer in model.layers]
    if at not in names:
        raise ValueError(f"at must name a layer of {model.name!r}, one of {names}. Received: {at=}")
    output = model.get_layer(at).output
    if keras.tree.is_nested(output):
        raise ValueError(f"at must name a layer with one output. Received: {at=}")
    return output


def _features(model: keras.Model) -> Any:
    """Returns what the classifier of a model reads, or its output where it has none."""
    output = tensor = model.outputs[0]
    if len(output.shape) != 2:
        return output
    operation, source = _computed(tensor)
    while _comes_after(operation):
        tensor = source
        operation, source = _computed(tensor)
    is_graph = isinstance(operation, keras.Model) and getattr(operation, "outputs", None)
    if is_graph and _features(operation) is not operation.outputs[0]:
        raise ValueError(
            f"The classifier of {model.name!r} lies in the nested model {operation.name!r}: put "
            "the new one on that, or give at=, the layer whose output it is to read. "
            f"Received: {model.name!r}"
        )
    kinds = layers.Dense if tensor is output else (layers.Dense, layers.Conv2D)
    classifier = plain_layer(operation)
    if not (isinstance(classifier, kinds) and classifier.activation in _ENDINGS):
        return output
    operation, before = _computed(source)
    return before if isinstance(operation, layers.Dropout) else source


def _computed(tensor: Any) -> tuple[keras.Operation, Any]:
    """Returns what computes a symbolic tensor, and the first tensor that it is given."""
    history = history_of(tensor)
    inputs = calls_of(history.operation)[history.call].inputs
    return history.operation, inputs[0] if inputs else tensor


def _comes_after(operation: Any) -> bool:
    if isinstance(operation, layers.Activation):
        return operation.activation in _ENDINGS
    if isinstance(operation, layers.Layer):
        return isinstance(operation, _AFTER)
    return type(operation).__name__ in _OPERATIONS_AFTER
