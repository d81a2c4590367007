"""Tests of what is told of the pixels that models expect, and of the warning in `fit`."""

import functools
import warnings

import keras
import numpy as np
import pytest

import modreduce_keras as mr

L = keras.layers
BYTES = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype("float32")
LABELS = np.arange(4) % 3
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@functools.cache  # built once: no test changes them
def application(name):
    function = getattr(keras.applications, name)
    given = {"weights": None, "classes": 3, "classifier_activation": None}
    return function(input_shape=(32, 32, 3), **given)


def scaled(*first, shape=(32, 32, 3)):
    layers = [keras.Input(shape), *first, L.Conv2D(4, 3, strides=4), L.Flatten(), L.Dense(3)]
    return keras.Sequential(layers)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("MobileNetV2", (-1.0, 1.0, False)),
        ("MobileNetV3Small", (0.0, 255.0, True)),
        ("EfficientNetB0", (0.0, 255.0, True)),
        ("VGG16", (-123.68, 151.061, False)),
        ("DenseNet121", (-2.118, 2.64, False)),
        ("ResNet50V2", (-1.0, 1.0, False)),
    ],
)
def test_networks_of_keras(name, expected):
    found = mr.models.preprocessing(application(name))
    assert (*found.range, found.inside) == expected


@pytest.mark.parametrize(
    ("module", "name"),
    [("xception", "MobileNet"), ("densenet", "DenseNet121"), ("vgg16", "VGG16")],
)
def test_limits_of_families_are_what_keras_preprocesses_to(module, name):
    pixels = np.stack([np.zeros((1, 1, 3)), np.full((1, 1, 3), 255.0)])
    made = getattr(keras.applications, module).preprocess_input(pixels)
    low, high = mr.models.preprocessing(application(name)).range
    assert (low, high) == pytest.approx((made.min(), made.max()), abs=1e-3)


def test_layers_before_a_network_count_and_not_the_network():
    inner = application("MobileNetV2")
    flipped = scaled(L.RandomFlip(), L.Rescaling(1 / 255))
    assert mr.models.preprocessing(flipped).range == (0.0, 255.0)
    inputs = keras.Input((32, 32, 3))
    assert mr.models.preprocessing(keras.Model(inputs, inner(inputs))).range == (-1.0, 1.0)
    assert mr.models.preprocessing(keras.Model(inputs, inner(inputs / 127.5 - 1.0))) is None
    outer = keras.Model(inputs, inner(L.Rescaling(1 / 127.5, -1.0)(inputs)))
    assert str(mr.models.preprocessing(outer)).startswith("0..255 (the layer 'rescaling")


def test_the_rounding_of_the_inputs_does_not_hide_a_scale():
    """Behind the scale stands a network that is known, with an expectation of its own."""
    inputs = keras.Input((32, 32, 3))
    names = "stem_conv1", "stem_bn1"
    maps = L.Conv2D(4, 3, name=names[0])(L.Rescaling(1 / 127.5, -1.0)(inputs))
    model = keras.Model(inputs, L.BatchNormalization(name=names[1])(maps))
    quantized = mr.quantize_aware(model, representative=BYTES)
    assert mr.models.preprocessing(quantized).range == (0.0, 255.0)


@pytest.mark.parametrize("name", ["resnet20", "resnet50", "vgg8", "mobilenet_v2", "wrn_16_1"])
def test_of_our_networks_nothing_is_told(name):
    assert mr.models.preprocessing(mr.models.get(name, num_classes=3)) is None


def fit(student, teacher, x, **options):
    distiller = mr.Distiller(student=student, teacher=teacher, knowledge="kd", **options)
    distiller.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    for _ in range(2):
        distiller.fit(x, LABELS, verbose=0)


@pytest.mark.slow
@pytest.mark.usefixtures("eagerly")
def test_fit_warns_once_of_pixels_in_another_range():
    teacher, student = application("MobileNetV2"), scaled(L.Rescaling(1 / 255))
    expected = r"The teacher 'mobilenetv2.*' expects pixels of -1\.\.1 \(MobileNetV2 .*0 to 255"
    with pytest.warns(UserWarning, match=expected) as told:
        fit(student, teacher, BYTES)
    (own,) = [one for one in told if "expects pixels" in str(one.message)]
    assert own.filename == __file__
    with pytest.warns(UserWarning, match=r"The student .* expects pixels of 0\.\.255"):
        fit(scaled(L.Rescaling(1 / 255)), scaled(), BYTES / 255)


@pytest.mark.slow
@pytest.mark.usefixtures("eagerly")
def test_fit_warns_of_nothing_that_may_be_right(random):
    net = mr.models.get("convnet", num_classes=3, widths=(4, 8), input_shape=(32, 32, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fit(scaled(L.Rescaling(1 / 255)), scaled(), BYTES)
        fit(scaled(), net, BYTES / 255)
        fit(scaled(), net, random.normal(size=BYTES.shape).astype("float32"))
        fit(
            scaled(L.Rescaling(1 / 255)),
            application("MobileNetV2"),
            BYTES,
            teacher_input=L.Rescaling(1 / 127.5, -1.0),
        )
