"""The architectures: those of keras.applications and keras-hub, and networks on time series."""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras

from benchmarks.matrix.hub import CLASSES, IMAGES, TEXTS
from benchmarks.matrix.series import SERIES


class Architecture(NamedTuple):
    """An architecture.

    Attributes:
        source: `"keras.applications"`, `"keras-hub"` or `"keras.layers"`.
        family: Architectures of the same kind share it.
        kind: `"image"`, `"text"` or `"series"`.
        build: Builds it: the activation of its head -> model.
        size: Height and width of its images.
        values: The range in which its images are.
    """

    source: str
    family: str
    kind: str
    build: Callable[[str | None], keras.Model]
    size: int = 64
    values: tuple[float, float] = (-1.0, 1.0)


def _application(name: str, size: int, **arguments: Any) -> Callable[[str | None], keras.Model]:
    def build(activation: str | None) -> keras.Model:
        return getattr(keras.applications, name)(
            weights=None,
            input_shape=(size, size, 3),
            classes=CLASSES,
            classifier_activation=activation,
            **arguments,
        )

    return build


_BYTES = (0.0, 255.0)
_APPLICATIONS: dict[str, tuple[str, int, tuple[float, float]]] = {
    "MobileNet": ("MobileNet", 64, (-1, 1)),
    "MobileNetV2": ("MobileNet", 64, (-1, 1)),
    "MobileNetV3Small": ("MobileNetV3", 64, _BYTES),
    "MobileNetV3Large": ("MobileNetV3", 64, _BYTES),
    "EfficientNetB0": ("EfficientNet", 64, _BYTES),
    "EfficientNetB1": ("EfficientNet", 64, _BYTES),
    "EfficientNetV2B0": ("EfficientNetV2", 64, _BYTES),
    "EfficientNetV2B1": ("EfficientNetV2", 64, _BYTES),
    "NASNetMobile": ("NASNet", 64, (-1, 1)),
    "ResNet50": ("ResNet", 64, (-1, 1)),
    "ResNet101": ("ResNet", 64, (-1, 1)),
    "ResNet50V2": ("ResNetV2", 64, (-1, 1)),
    "ResNet101V2": ("ResNetV2", 64, (-1, 1)),
    "VGG16": ("VGG", 32, (-1, 1)),
    "VGG19": ("VGG", 32, (-1, 1)),
    "ConvNeXtTiny": ("ConvNeXt", 64, _BYTES),
    "ConvNeXtSmall": ("ConvNeXt", 64, _BYTES),
    "DenseNet121": ("DenseNet", 64, (-1, 1)),
    "DenseNet169": ("DenseNet", 64, (-1, 1)),
    "Xception": ("Xception", 75, (-1, 1)),
    "InceptionV3": ("Inception", 75, (-1, 1)),
    "InceptionResNetV2": ("Inception", 75, (-1, 1)),
}
"""Family, size of the images and their values."""


ARCHITECTURES: dict[str, Architecture] = {
    **{
        name: Architecture(
            "keras.applications", family, "image", _application(name, size), size, values
        )
        for name, (family, size, values) in _APPLICATIONS.items()
    },
    **{
        name: Architecture("keras-hub", family, "image", build, size)
        for name, (family, build, size) in IMAGES.items()
    },
    **{
        name: Architecture("keras-hub", family, "text", build)
        for name, (family, build) in TEXTS.items()
    },
    **{
        name: Architecture("keras.layers", family, "series", build)
        for name, (family, build) in SERIES.items()
    },
}
