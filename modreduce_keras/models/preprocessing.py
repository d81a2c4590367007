"""Preprocessing: which range of pixels a model expects, by its own layers or by its family."""

import math
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from modreduce_keras.keras_internals import flatten_layers
from modreduce_keras.models.structure import structure_of

_BYTES = (0.0, 255.0)
_KEEPS_RANGE = (
    *("ZeroPadding", "Random", "Resizing", "CenterCrop", "Identity"),
    *("FakeQuantize", "LearntFakeQuantize"),
)
_CAFFE = "the means of ImageNet taken off, channels as BGR"
_TORCH = "scaled to 0..1, then normalized by the mean and deviation of ImageNet"
_FAMILIES = (
    # Layers that `keras.applications` gives these names, whatever the model is called.
    ("ResNetV2", {"conv1_conv", "post_bn"}, (-1.0, 1.0), ""),
    ("ResNet", {"conv1_conv", "conv1_bn", "conv2_block1_out"}, (-123.68, 151.061), _CAFFE),
    ("VGG", {"block1_conv1", "block1_conv2", "block1_pool"}, (-123.68, 151.061), _CAFFE),
    ("MobileNet", {"conv_dw_1", "conv_pw_1"}, (-1.0, 1.0), ""),
    ("MobileNetV2", {"Conv1", "expanded_conv_depthwise"}, (-1.0, 1.0), ""),
    ("MobileNetV3", {"expanded_conv_depthwise", "expanded_conv_project"}, (-1.0, 1.0), ""),
    ("Xception", {"block1_conv1", "block2_sepconv1"}, (-1.0, 1.0), ""),
    ("Inception", {"mixed0", "mixed10"}, (-1.0, 1.0), ""),
    ("InceptionResNetV2", {"mixed_5b", "mixed_6a"}, (-1.0, 1.0), ""),
    ("NASNet", {"stem_conv1", "stem_bn1"}, (-1.0, 1.0), ""),
    ("DenseNet", {"conv1_conv", "conv2_block1_concat"}, (-2.118, 2.64), _TORCH),
)


class Preprocessing(NamedTuple):
    """The inputs that a model expects.

    Attributes:
        range: The lowest and the highest value of the input pixels.
        inside: Whether layers of the model scale them.
        source: Where this is known from: the layers, or the family of networks.
        more: Other preprocessing that the inputs need, `""` if none.
    """

    range: tuple[float, float]
    inside: bool
    source: str
    more: str = ""

    def __str__(self) -> str:
        low, high = self.range
        return f"{low:g}..{high:g}{', ' * bool(self.more)}{self.more} ({self.source})"


def preprocessing(model: keras.Model) -> Preprocessing | None:
    """Returns which inputs an image model expects, if this can be found out.

    It is known if the model begins with a layer `Rescaling` or `Normalization`. It is also known
    for networks of `keras.applications`, which are recognized by their layers, also inside another
    model, and for keras-hub tasks, whose preprocessor scales.

    Args:
        model: A built Keras model.

    Returns:
        The expected inputs, or `None` if unknown, as for the networks of `mr.models`.

    Example:
        >>> import keras, modreduce_keras as mr
        >>> scale = keras.layers.Rescaling(1 / 127.5, offset=-1.0, name="scale")
        >>> model = keras.Sequential([keras.Input((8, 8, 3)), scale, keras.layers.Conv2D(4, 3)])
        >>> print(mr.models.preprocessing(model))
        0..255 (the layer 'scale')
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"model must be a keras.Model. Received: {model!r}")
    first = _first(model)
    if first is None:
        return _by_preprocessor(model)
    if isinstance(first, (keras.layers.Rescaling, keras.layers.Normalization)):
        scaled = _scaled(first)
        return scaled and Preprocessing(scaled, True, f"the layer {first.name!r}")
    return _by_preprocessor(model) or (_by_family(model) if first.weights else None)


def _first(model: keras.Model) -> Any:
    """Returns the layer that images come to, besides those that pad, resize or augment them."""
    try:
        nodes = structure_of(model).nodes
    except Exception:  # a user's model may raise anything
        return None
    for node in nodes:
        if not node.kind.startswith(_KEEPS_RANGE):
            is_image = node.sources and len(node.shape or ()) == 4
            is_layer = isinstance(node.operation, keras.layers.Layer)
            return node.operation if is_layer and is_image else None
    return None


def _scaled(layer: Any) -> tuple[float, float] | None:
    """Returns the range that a layer makes numbers around 0 of; `None` if none is usual."""
    if isinstance(layer, keras.layers.Rescaling):
        scale = np.abs(np.asarray(layer.scale, "float64")).max()
    else:
        variance = np.asarray(ops.convert_to_numpy(layer.variance), "float64")
        scale = 1.0 / max(math.sqrt(variance.mean()), 1e-7)
    for range_ in (_BYTES, (0.0, 1.0)):
        if 0.9 <= scale * range_[1] <= 8.0:
            return range_
    return None


def _by_preprocessor(model: keras.Model) -> Preprocessing | None:
    converter = getattr(getattr(model, "preprocessor", None), "image_converter", None)
    scale, offset = (getattr(converter, name, None) for name in ("scale", "offset"))
    if converter is None:
        return None
    low = np.asarray(0.0 if offset is None else offset, "float64")
    high = low + 255.0 * np.asarray(1.0 if scale is None else scale, "float64")
    limits = float(np.min(low)), float(np.max(high))
    return Preprocessing(limits, False, "the model's preprocessor")


def _by_family(model: keras.Model) -> Preprocessing | None:
    names = {layer.name for layer in flatten_layers(model)}
    for family, signature, limits, more in _FAMILIES:
        if signature <= names:
            source = f"{family} of keras.applications"
            return Preprocessing(limits, False, source, more)
    return None


def mismatch(model: keras.Model, values: np.ndarray) -> str:
    """Returns how pixels differ from what a model expects, `""` where that is not likely.

    Networks that expect the means of ImageNet taken off are not said to be given too small numbers:
    from random weights they learn on those as well.

    Args:
        model: A built Keras model.
        values: Some of its inputs, (batch, height, width, channels).
    """
    if values.ndim != 4 or not values.size or not np.isfinite(values).all():
        return ""
    low, high = float(values.min()), float(values.max())
    is_bytes = low >= 0.0 and high > 64.0
    is_small = low >= -1.0 and high <= 1.0 and high > low
    if not (is_bytes or is_small):
        return ""
    expected = preprocessing(model)
    if expected is None:
        return ""
    wants_small = max(map(abs, expected.range)) <= 8.0
    wants_bytes = expected.inside and expected.range == _BYTES
    if (is_bytes and wants_small) or (is_small and wants_bytes):
        return f"expects pixels of {expected}, and was given {low:.4g} to {high:.4g}"
    return ""
