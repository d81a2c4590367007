"""Trained teachers: weights from a saved Keras model with the same layout and any names."""

import functools
import os
from collections import Counter
from pathlib import Path
from typing import Any

import keras
from keras import layers

from modreduce_keras import registry
from modreduce_keras.calls import by_name
from modreduce_keras.copying import copy_state, described, has_state, kind_of
from modreduce_keras.models.clones import Cloner, rebuilt
from modreduce_keras.models.layer_order import all_layers
from modreduce_keras.models.torch_weights import require_functional

_SCALINGS = (layers.Normalization, layers.Rescaling)


@by_name(
    "mr.models.import_keras_weights(model=..., source=...)",
    why="so that the two models are not swapped",
)
def import_keras_weights(*, model: keras.Model, source: keras.Model) -> keras.Model:
    """Gives a Keras network the weights of another one of the same layout, and all other state.

    Names do not matter: the layers that have weights, or other state (see `copy_state`), are taken
    in the order of the graphs' paths, as by `import_torch_weights`, and types and shapes of each
    pair must agree. A model stays as it was unless all fits. Other layers are not compared.

    Args:
        model: Functional or built Sequential model.
        source: Another one, whose state is copied.

    Returns:
        The model.

    Raises:
        TypeError: If a model is not a Keras model.
        ValueError: If a model is not functional or the layouts differ; the message names the first
            pair of layers that does not fit.

    Example:
        >>> import modreduce_keras as mr
        >>> one = mr.models.get("convnet", num_classes=3, widths=(4, 8))
        >>> other = import_keras_weights(model=mr.models.fold(one), source=mr.models.fold(one))
        >>> other.count_params()
        363
    """
    given = all_layers(require_functional("import_keras_weights", source))
    _import(model, [layer for layer in given if has_state(layer)])
    return model


def _import(model: keras.Model, given: list[keras.layers.Layer]) -> None:
    """Gives a model the state of layers in the order of its graph."""
    own = all_layers(require_functional("import_keras_weights", model))
    own = [layer for layer in own if has_state(layer)]
    for layer, other in zip(own, given, strict=False):
        if kind_of(layer) != kind_of(other):
            raise ValueError(
                f"source must have the layout of the model {model.name!r}. Received: "
                f"{other.name!r}, {described(other)}, in the place of {layer.name!r}, "
                f"{described(layer)}"
            )
    if len(own) != len(given):
        left = [layer.name for layer in (own[len(given) :] or given[len(own) :])]
        raise ValueError(
            f"source must have as many layers with weights or other state as the model "
            f"{model.name!r}, {len(own)}. Received: {len(given)}; left over are {left}"
        )
    for layer, other in zip(own, given, strict=True):
        copy_state(other, layer)


def load_teacher(
    path: str | os.PathLike,
    identifier: str,
    *,
    normalized: bool = False,
    **arguments: Any,
) -> keras.Model:
    """Loads a trained teacher from a saved Keras model into one of our networks, with its taps.

    The file may come from anywhere, as long as its layers with weights are those of the network.
    `Rescaling` and `Normalization` layers in front of them, by which it normalizes its images,
    come along; the result is one flat functional model.

    Args:
        path: A `.keras` file of a functional or Sequential model from images to logits.
        identifier: The network, such as `"resnet56"`.
        normalized: Whether images come normalized already: then the `Rescaling` and
            `Normalization` layers are left out. Defaults to `False`.
        **arguments: Arguments of the network, such as its `name`. Its number of classes and its
            input shape are the file's.

    Returns:
        A functional model from images to logits.

    Raises:
        ValueError: If the file is not a Keras model, the identifier is unknown, or the layouts
            differ.

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
    scalings = [layer for layer in all_layers(source) if isinstance(layer, _SCALINGS)]
    _import(
        network,
        [layer for layer in all_layers(source) if has_state(layer) and layer not in scalings],
    )
    return network if normalized or not scalings else _with(scalings, network)


def _named(name: str, config: dict[str, Any]) -> dict[str, Any]:
    return {**config, "name": name}


def _with(scalings: Any, network: Any) -> Any:
    """Returns the network behind copies of the layers, as one flat model."""
    inputs = maps = keras.Input(network.input_shape[1:], name="image")
    names: Counter[str] = Counter()
    for layer in scalings:
        kind = type(layer).__name__.lower()
        name = f"{kind}_{names[kind]}" if names[kind] else kind
        names[kind] += 1
        copy = rebuilt(layer, functools.partial(_named, name))
        maps = copy(maps)
        copy_state(layer, copy)

    def call(layer: keras.layers.Layer, *args: Any, **kwargs: Any) -> Any:
        args = keras.tree.map_structure(lambda value: maps if value is inputs else value, args)
        return layer(*args, **kwargs)

    model = keras.models.clone_model(
        network, input_tensors=inputs, clone_function=Cloner().layer, call_function=call
    )
    for layer in network.layers:
        copy_state(layer, model.get_layer(layer.name))
    return model
