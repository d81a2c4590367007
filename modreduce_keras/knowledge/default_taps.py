"""Default taps: the layers whose features are compared where the user names none."""

from typing import Any

import keras

from modreduce_keras.keras_internals import operation_of
from modreduce_keras.models.layer_order import all_layers
from modreduce_keras.taps import paths_of

MAPS, EMBEDDING = "last feature maps", "embedding"
_PASSED = (
    keras.layers.Activation,
    keras.layers.Dropout,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
    keras.layers.Identity,
)


def default_tap(model: Any, feature: str | None) -> str | None:
    """Returns the tap of a feature that most models have, or `None` where it cannot be told.

    Args:
        model: A functional or a built Sequential model; of others nothing is known.
        feature: `"embedding"`: what the Dense layer that ends the model reads, without dropout;
            `"last feature maps"`: the last maps (batch, height, width, channels) of known size.
    """
    if not isinstance(model, keras.Model) or not getattr(model, "outputs", None):
        return None
    find = {MAPS: _last_maps, EMBEDDING: _embedding}.get(str(feature), lambda model: None)
    layer = find(model)
    paths = [path for path, one in paths_of(model) if one is layer]
    return paths[0] if paths else None


def _last_maps(model: keras.Model) -> keras.layers.Layer | None:
    last = None
    for layer in all_layers(model):
        output = getattr(layer, "output", None)
        shape = tuple(getattr(output, "shape", ()))
        if len(shape) == 4 and None not in shape[1:] and max(shape[1:3]) > 1:
            last = layer
    return last


def _embedding(model: keras.Model) -> keras.layers.Layer | None:
    if len(model.outputs) != 1:
        return None
    layer = operation_of(model.outputs[0])
    while isinstance(layer, (keras.layers.Activation, keras.layers.Identity)):
        layer = operation_of(layer.input)
    if isinstance(layer, keras.Model):
        return _embedding(layer) if getattr(layer, "outputs", None) else None
    if not isinstance(layer, keras.layers.Dense):
        return None
    layer = operation_of(layer.input)
    while isinstance(layer, _PASSED[1:]):
        layer = operation_of(layer.input)
    is_tap = isinstance(layer, keras.layers.Layer) and not isinstance(
        layer, keras.layers.InputLayer
    )
    return layer if is_tap else None
