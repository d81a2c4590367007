"""Trained teachers: weights from a saved Keras model of the same layout, whatever its names are."""

import os
from pathlib import Path
from typing import Any

import keras
from keras import layers

from modreduce_keras import registry
from modreduce_keras.models.layer_order import all_layers, weighted_layers
from modreduce_keras.models.torch_weights import require_functional


def import_keras_weights(model: keras.Model, source: keras.Model) -> keras.Model:
    """Gives a Keras network the weights of another one of the same layout.

    Names do not matter: the layers that have weights are taken in the order of the graphs' paths,
    as by `import_torch_weights`, and types and shapes of each pair must agree. A model stays as it
    was unless all fits. Layers without weights are not compared.

    Args:
        model: Functional or built Sequential model.
        source: Another one, whose weights are copied.

    Returns:
        The model.

    Raises:
        TypeError: If something else than Keras models came.
        ValueError: If a model is not functional or the layouts differ; the message names the first
            pair of layers that does not fit.

    Example:
        >>> import modreduce_keras as mr
        >>> one = mr.models.get("convnet", num_classes=3, widths=(4, 8))
        >>> other = import_keras_weights(mr.models.fold(one), mr.models.fold(one))
        >>> other.count_params()
        363
    """
    own = weighted_layers(require_functional("import_keras_weights", model))
    given = weighted_layers(require_functional("import_keras_weights", source))
    for layer, other in zip(own, given, strict=False):
        if _kind(layer) != _kind(other):
            raise ValueError(
                f"source must have the layout of the model {model.name!r}. Received: "
                f"{other.name!r}, {_described(other)}, in the place of {layer.name!r}, "
                f"{_described(layer)}"
            )
    if len(own) != len(given):
        left = [layer.name for layer in (own[len(given) :] or given[len(own) :])]
        raise ValueError(
            f"source must have as many layers with weights as the model {model.name!r}, "
            f"{len(own)}. Received: {len(given)}; left over are {left}"
        )
    for layer, other in zip(own, given, strict=True):
        layer.set_weights(other.get_weights())
    return model


def load_teacher(
    path: str | os.PathLike,
    identifier: str,
    *,
    normalized: bool = False,
    **arguments: Any,
) -> keras.Model:
    """Loads a trained teacher from a saved Keras model into one of our networks, with its taps.

    The file may come from anywhere, as long as its layers with weights are those of the network.
    `Rescaling` layers in front of them, by which it normalizes its images, come along; the result
    is one flat functional model.

    Args:
        path: A `.keras` file of a functional or Sequential model from images to logits.
        identifier: The network, such as `"resnet56"`.
        normalized: Whether images come normalized already: then the `Rescaling` layers are left
            out. Defaults to `False`.
        **arguments: Arguments of the network, such as its `name`. Its number of classes and its
            input shape are the file's.

    Returns:
        A functional model from images to logits.

    Raises:
        ValueError: If the file is no Keras model, the identifier is unknown, or the layouts differ.

    Example:
        >>> import tempfile, keras, modreduce_keras as mr
        >>> file = tempfile.mkdtemp() + "/teacher.keras"
        >>> trained = mr.models.get("convnet", num_classes=3, widths=(4, 8))
        >>> images = keras.Input((28, 28, 1))
        >>> keras.Model(images, trained(keras.layers.Rescaling(1 / 255)(images))).save(file)
        >>> teacher = mr.models.load_teacher(file, "convnet", widths=(4, 8))
        >>> [layer.name for layer in teacher.layers][:3]
        ['image', 'rescaling', 'stage1_conv']
    """
    source = keras.saving.load_model(Path(path), compile=False)
    source = require_functional("load_teacher", source)
    given = {
        "num_classes": source.output_shape[-1],
        "input_shape": tuple(source.input_shape[1:]),
        **arguments,
    }
    network = registry.get("model", identifier, keras.Model, **given)
    import_keras_weights(network, source)
    scalings = [layer for layer in all_layers(source) if isinstance(layer, layers.Rescaling)]
    return network if normalized or not scalings else _with(scalings, network)


def _with(scalings, network):
    """Returns the network behind copies of the layers, as one flat model."""
    inputs = maps = keras.Input(network.input_shape[1:], name="image")
    for index, layer in enumerate(scalings):
        name = f"rescaling_{index}" if index else "rescaling"
        maps = layers.Rescaling(layer.scale, layer.offset, name=name)(maps)

    def call(layer, *args, **kwargs):
        args = keras.tree.map_structure(lambda value: maps if value is inputs else value, args)
        return layer(*args, **kwargs)

    model = keras.models.clone_model(network, input_tensors=inputs, call_function=call)
    for layer in network.layers:
        if layer.weights:
            model.get_layer(layer.name).set_weights(layer.get_weights())
    return model


def _kind(layer):
    return type(layer), [tuple(variable.shape) for variable in layer.weights]


def _described(layer):
    return f"{type(layer).__name__} of shapes {[tuple(v.shape) for v in layer.weights]}"
