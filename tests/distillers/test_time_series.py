"""Time series and spectrograms: convolutions and recurrent layers, of other lengths and widths."""

import keras
import numpy as np
import pytest

import modreduce_keras as mr

pytestmark = pytest.mark.usefixtures("eagerly")

STEPS, CHANNELS = 12, 3


def recurrent(units):
    return keras.Sequential(
        [
            keras.Input((STEPS, CHANNELS)),
            keras.layers.GRU(units, return_sequences=True, name="series"),
            keras.layers.GRU(units, name="embedding"),
            keras.layers.Dense(4, name="logits"),
        ]
    )


def convolutional(filters, strides):
    return keras.Sequential(
        [
            keras.Input((STEPS, CHANNELS)),
            keras.layers.Conv1D(filters, 3, strides=strides, padding="same", name="series"),
            keras.layers.GlobalAveragePooling1D(name="embedding"),
            keras.layers.Dense(4, name="logits"),
        ]
    )


def spectral(filters, strides):
    """A network on a spectrogram, (frames, bands), as on an image of one channel."""
    return keras.Sequential(
        [
            keras.Input((STEPS, CHANNELS)),
            keras.layers.Reshape((STEPS, CHANNELS, 1)),
            keras.layers.Conv2D(filters, 3, strides=(strides, 1), padding="same", name="series"),
            keras.layers.GlobalAveragePooling2D(name="embedding"),
            keras.layers.Dense(4, name="logits"),
        ]
    )


PAIRS = {
    "recurrent to convolutional": lambda: (recurrent(6), convolutional(4, strides=2)),
    "convolutional to recurrent": lambda: (convolutional(6, strides=2), recurrent(4)),
    "of spectrograms": lambda: (spectral(6, strides=1), spectral(4, strides=2)),
}
FEATURES = ("at", "cwd", "ickd", "mgd", "pkd", "vid")
RELATIONS = ("pkt", "rkd_distance", "sp")


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_each_term_is_its_loss_between_the_layers(pair, random, cross_entropy):
    teacher, student = pair()
    knowledge = [
        mr.Response("kd"),
        *(mr.Feature(name, at="series") for name in FEATURES),
        *(mr.Relation(name, at="embedding") for name in RELATIONS),
    ]
    distiller = mr.Distiller(student=student, teacher=teacher, knowledge=knowledge)
    distiller.compile(keras.optimizers.SGD(0.0), cross_entropy)
    x, y = random.normal(size=(6, STEPS, CHANNELS)).astype("float32"), np.arange(6) % 4
    outputs = {
        model: keras.Model(model.inputs[0], {one.name: one.output for one in model.layers})(x)
        for model in (teacher, student)
    }
    logs = distiller.evaluate(x, y, verbose=0, return_dict=True)
    assert set(logs) == {"ce", "loss"}
    distiller.compile(keras.optimizers.SGD(0.0), cross_entropy, evaluate_knowledge=True)
    logs = distiller.evaluate(x, y, verbose=0, return_dict=True)
    for one in knowledge:
        at = {"response": "logits", "feature": "series", "relation": "embedding"}[one.loss.kind]
        sides = outputs[student][at], outputs[teacher][at]
        ours, theirs = sides if one.adapter is None else one.adapter(*sides, training=False)
        expected = np.mean(one.loss.call(theirs, ours))
        np.testing.assert_allclose(logs[one.name], expected, rtol=1e-4, err_msg=one.name)


@pytest.mark.slow
@pytest.mark.graph
@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_each_term_falls_in_training(pair, random):
    teacher, student = pair()
    knowledge = [
        mr.Response("kd"),
        mr.Feature("pkd", at="series"),
        mr.Relation("sp", at="embedding"),
    ]
    distiller = mr.Distiller(student=student, teacher=teacher, knowledge=knowledge)
    distiller.compile(keras.optimizers.Adam(0.02), loss=None)
    x = random.normal(size=(32, STEPS, CHANNELS)).astype("float32")
    history = distiller.fit(x, batch_size=32, epochs=50, verbose=0).history
    for one in knowledge:
        assert history[one.name][-1] < history[one.name][0] / 1.5, one.name
