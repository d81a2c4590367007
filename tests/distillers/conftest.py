"""Small models and data that the distiller tests share."""

import keras
import numpy as np
import pytest

import modreduce_keras as mr


@pytest.fixture
def net():
    """Builds a small convolutional network for 8×8 images and 3 classes."""

    def build(widths=(4, 6), num_classes=3, **arguments):
        return mr.models.get(
            "convnet",
            num_classes=num_classes,
            widths=widths,
            input_shape=(8, 8, 1),
            **arguments,
        )

    return build


@pytest.fixture
def teacher(net):
    return net((6, 8), name="teacher")


@pytest.fixture
def images():
    return np.random.default_rng(0).normal(size=(12, 8, 8, 1)).astype("float32")


@pytest.fixture
def labels():
    return np.arange(12) % 3


@pytest.fixture
def held_out():
    """Eleven other images to validate on, with labels and weights."""
    random = np.random.default_rng(1)
    images = random.normal(size=(11, 8, 8, 1)).astype("float32")
    weights = random.uniform(0.0, 2.0, size=11).astype("float32")
    return images, np.arange(11) % 3, weights


@pytest.fixture
def cross_entropy():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.fixture
def three_kinds():
    """Makes knowledge of all three kinds, new objects at each call."""

    def make():
        return [
            mr.Response("kd", weight=0.9),
            mr.Feature("hint", at="stage2", weight=2.0),
            mr.Relation("rkd_distance", at="embedding"),
            mr.Relation("rkd_angle", at="embedding"),
        ]

    return make


@pytest.fixture
def distiller(net, teacher, three_kinds, cross_entropy):
    """A compiled distiller with knowledge of all three kinds."""
    distiller = mr.Distiller(student=net(), teacher=teacher, knowledge=three_kinds())
    distiller.compile(keras.optimizers.SGD(0.1), cross_entropy, metrics=["accuracy"])
    return distiller


@pytest.fixture
def modreduce(net, teacher, cross_entropy):
    """A compiled ModReduce whose three students learn KD, hint and RKD."""
    modreduce = mr.ModReduce(
        teacher=teacher,
        students={name: net(name=name) for name in ("response", "feature", "relation")},
        knowledge={
            "response": [mr.Response("kd")],
            "feature": [mr.Response("kd"), mr.Feature("hint", at="stage2")],
            "relation": [mr.Response("kd"), mr.Relation("rkd_distance", at="embedding")],
        },
        online_weight=0.3,
        multipliers={"response": 10.0, "feature": 100.0},
    )
    modreduce.compile(keras.optimizers.SGD(0.05), cross_entropy, metrics=["accuracy"])
    return modreduce


@keras.saving.register_keras_serializable(package="tests")
class CallCounter(keras.layers.Layer):
    """Passes its input on and counts its runs, in training and in all."""

    def build(self, input_shape):
        self.runs = self.add_weight(name="runs", trainable=False, initializer="zeros")
        self.training_runs = self.add_weight(
            name="training_runs", trainable=False, initializer="zeros"
        )

    def call(self, inputs, training=False):
        self.runs.assign_add(1.0)
        if training:
            self.training_runs.assign_add(1.0)
        return inputs


@pytest.fixture
def counted_net():
    """Builds a network that counts its forward passes: `(model, counter)`."""

    def build(width=5, num_classes=3):
        counter = CallCounter(name="counter")
        inputs = keras.Input((8, 8, 1))
        hidden = keras.layers.Conv2D(width, 3, strides=2, padding="same", name="stage2")(inputs)
        embedding = keras.layers.GlobalAveragePooling2D(name="embedding")(counter(hidden))
        model = keras.Model(inputs, keras.layers.Dense(num_classes, name="logits")(embedding))
        return model, counter

    return build


@pytest.fixture
def cross_entropy_loss(cross_entropy):
    """The same loss, for tests that define a `cross_entropy` by hand."""
    return cross_entropy
