"""Labels beside Keras' cross-entropies must be probabilities."""

import keras
import numpy as np
import pytest

import modreduce_keras as mr

X = np.random.default_rng(0).normal(size=(12, 4)).astype("float32")
YES = np.arange(12) % 2
HOT = np.eye(3)[np.arange(12) % 3]


def net(units):
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(units)])


def made(loss, units):
    knowledge = "kd" if units == 3 else "binary_kd"
    distiller = mr.Distiller(student=net(units), teacher=net(units), knowledge=knowledge)
    distiller.compile("sgd", loss, run_eagerly=True)
    return distiller


def binary():
    return keras.losses.BinaryCrossentropy(from_logits=True)


def categorical():
    return keras.losses.CategoricalCrossentropy(from_logits=True)


@pytest.mark.parametrize(
    ("loss", "units", "labels", "received"),
    [
        (binary, 1, 255 * YES, r"\[0, 255\]"),
        (binary, 1, 2 * YES - 1, r"\[-1, 1\]"),
        (binary, 1, YES + 1, r"\[1, 2\]"),
        (lambda: keras.losses.BinaryFocalCrossentropy(from_logits=True), 1, 3 * YES, r"\[0, 3\]"),
        (binary, 2, np.stack([YES, 2 * YES], axis=1), r"\[0, 1, 2\]"),
        (categorical, 3, 255 * HOT, r"\[0\.0, 255\.0\]"),
        (categorical, 3, 2 * HOT - 1, r"\[-1\.0, 1\.0\]"),
    ],
)
def test_other_numbers_are_refused(loss, units, labels, received):
    distiller = made(loss(), units)
    match = (
        rf"y must be from 0 to 1 beside the loss '\w+'.*sample_weight of 0\. Received: {received}"
    )
    with pytest.raises(ValueError, match=match):
        distiller.fit(X, labels, verbose=0)
    with pytest.raises(ValueError, match=match):
        distiller.train_on_batch(X, labels)
    with pytest.raises(ValueError, match=f"validation {match}"):
        distiller.fit(X, abs(labels) > 1, validation_data=(X, labels), verbose=0)


@pytest.mark.parametrize(
    ("loss", "units", "labels"),
    [
        (binary, 1, YES),
        (binary, 1, 0.1 + 0.8 * YES),
        (categorical, 3, 0.7 * HOT + 0.1),
        (categorical, 3, HOT),
    ],
)
def test_probabilities_are_taken(loss, units, labels):
    assert np.isfinite(made(loss(), units).fit(X, labels, verbose=0).history["loss"]).all()


def test_what_weighs_nothing_may_be_anything():
    labels, weights = np.where(YES, 1, -1), YES.astype("float32")
    logs = made(binary(), 1).fit(X, labels, sample_weight=weights, verbose=0).history
    assert np.isfinite(logs["loss"]).all()


def test_a_loss_of_ones_own_takes_what_it_likes():
    def ignoring(y, z):
        kept = keras.ops.cast(y >= 0, "float32")
        return kept * keras.losses.binary_crossentropy(abs(y), z, from_logits=True)[:, None]

    logs = made(ignoring, 1).fit(X, np.where(YES, 1, -1)[:, None], verbose=0).history
    assert np.isfinite(logs["loss"]).all()


def test_each_output_has_its_own_loss():
    inputs = keras.Input((4,))
    units = {"yes": 1, "number": 1}
    outputs = {name: keras.layers.Dense(n, name=name)(inputs) for name, n in units.items()}
    models = [keras.models.clone_model(keras.Model(inputs, outputs)) for _ in range(2)]
    knowledge = [mr.Response("binary_kd", at="yes")]
    distiller = mr.Distiller(student=models[0], teacher=models[1], knowledge=knowledge)
    distiller.compile("sgd", {"yes": binary(), "number": "mse"}, run_eagerly=True)
    numbers = 255.0 * YES
    distiller.fit(X, {"yes": YES, "number": numbers}, verbose=0)
    with pytest.raises(ValueError, match=r"y\['yes'\] must be from 0 to 1"):
        distiller.fit(X, {"yes": numbers, "number": numbers}, verbose=0)


def test_class_indices_are_told_as_such():
    with pytest.raises(ValueError, match="Class indices go with"):
        made(categorical(), 3).fit(X, np.arange(12) % 3, verbose=0)
