"""Tests of which features are known to have no negative numbers."""

import keras
import numpy as np
import pytest

import modreduce_keras as mr
from modreduce_keras.taps import TapReader

L = keras.layers


def tapped(model):
    """Returns the taps of a model, without those that run several times."""
    return [row.path for row in mr.models.taps(model) if row.path and ":" not in row.path]


def known(model, tap):
    return TapReader(model, [tap]).is_nonnegative(tap, model)


def chain(*layers):
    model = keras.Sequential([keras.Input((8, 8, 3)), *layers])
    return known(model, model.layers[-1].name)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([L.ReLU()], True),
        ([L.ReLU(negative_slope=0.1)], False),
        ([L.Activation("relu6")], True),
        ([L.Activation("silu")], False),
        ([L.Conv2D(4, 3, activation="relu")], True),
        ([L.Conv2D(4, 3)], False),
        ([L.ReLU(), L.Conv2D(4, 3)], False),
        ([L.ReLU(), L.BatchNormalization()], False),
        ([L.ReLU(), L.ZeroPadding2D(), L.MaxPooling2D(), L.Dropout(0.5)], True),
        ([L.Softmax(), L.GlobalAveragePooling2D()], True),
        ([L.MaxPooling2D()], False),
        ([L.ReLU(), L.UpSampling2D(interpolation="bilinear")], True),
        ([L.ReLU(), L.UpSampling2D(interpolation="bicubic")], False),
        ([keras.Sequential([L.ReLU()]), L.Flatten()], True),
    ],
    ids=str,
)
def test_the_operations_say_it(layers, expected):
    assert chain(*layers) is expected


def test_a_sum_is_what_all_of_its_terms_are():
    x = keras.Input((4,))
    positive, other = L.Dense(3, "relu", name="positive")(x), L.Dense(3, name="other")(x)
    sums = {
        "both": keras.ops.relu(other) + positive,
        "one": L.Add()([positive, other]),
        "shifted": positive + (-1.0),
        "gated": L.Multiply()([positive, L.Activation("sigmoid")(other)]),
    }
    named = [L.Identity(name=name)(one) for name, one in sums.items()]
    model = keras.Model(x, named)
    assert {name: known(model, name) for name in sums} == {
        "both": True,
        "one": False,
        "shifted": False,
        "gated": True,
    }


class OfOneRelu(keras.Model):
    """A subclassed model, whose layers nobody has connected beforehand."""

    def __init__(self):
        super().__init__()
        self.hidden, self.rectified, self.head = L.Dense(4), L.ReLU(), L.Dense(3)

    def call(self, inputs):
        return self.head(self.rectified(self.hidden(inputs)))


def test_subclassed_models_are_looked_at_too():
    model = OfOneRelu()
    assert not known(model, model.rectified.name)  # not built: nothing is known
    model(np.ones((1, 5)))
    assert known(model, model.rectified.name)
    assert known(model, "embedding")
    assert not known(model, model.hidden.name)


@pytest.mark.parametrize(
    "made",
    [
        lambda: mr.models.get("resnet8", num_classes=3),
        pytest.param(
            lambda: keras.applications.MobileNet(
                alpha=0.25, input_shape=(32, 32, 3), weights=None, classes=3
            ),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            lambda: keras.applications.EfficientNetB0(
                input_shape=(32, 32, 3), weights=None, classes=3
            ),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            lambda: keras.applications.DenseNet121(
                input_shape=(32, 32, 3), weights=None, classes=3
            ),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["resnet8", "MobileNet", "EfficientNetB0", "DenseNet121"],
)
def test_what_is_known_holds(made, random):
    model = made()
    for weight in model.weights:
        if weight.name != "moving_variance":
            weight.assign(weight + random.normal(size=weight.shape, scale=0.05))
    taps = tapped(model)
    inputs = random.normal(size=(4, *model.input_shape[1:])).astype("float32")
    reader = TapReader(model, taps)
    found = reader(inputs).features
    said = {tap: reader.is_nonnegative(tap, model) for tap in taps}
    assert any(said.values())
    assert not all(said.values())
    for tap, is_known in said.items():
        least = float(np.min(found[tap]))
        assert least >= 0.0 or not is_known, tap
