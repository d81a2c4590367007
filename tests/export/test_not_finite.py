"""What is not finite makes no int8 file: inputs, activations and weights of a student."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import modreduce_keras as mr


def student(function=None):
    inputs = keras.Input((4,))
    states = layers.Activation(function, name="odd")(inputs)
    return keras.Model(inputs, layers.Dense(3, name="last")(layers.Activation("tanh")(states)))


def data(value=0.0):
    x = np.random.default_rng(0).normal(size=(40, 4)).astype("float32")
    x[7, 2] = value
    return x


def export(model, x, folder, **options):
    try:
        mr.export.to_tflite(
            model, folder / "a.tflite", quantization="int8", representative=x, **options
        )
    finally:
        assert not list(folder.iterdir())


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("is_dataset", [False, True])
def test_inputs(value, is_dataset, tmp_path):
    x = data(value)
    x = tf.data.Dataset.from_tensor_slices(x).batch(16) if is_dataset else x
    message = r"representative must have finite inputs.*1 of \d+ samples are not finite"
    with pytest.raises(ValueError, match=message):
        export(student(), x, tmp_path)
    with pytest.raises(ValueError, match=message):
        mr.quantize_aware(student(), representative=x)


@pytest.mark.parametrize("allow_float", [False, ["odd"]])
def test_activations(allow_float, tmp_path):
    message = r"activations are finite.*infinities in \['odd'\]"
    with pytest.raises(ValueError, match=message):
        export(student(keras.ops.exp), data(500.0), tmp_path, allow_float=allow_float)


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_weights(value, tmp_path):
    model = student()
    kernel, bias = model.get_weights()
    kernel[1, 1] = value
    model.set_weights([kernel, bias])
    with pytest.raises(ValueError, match=r"student must have finite weights.*'last/kernel'"):
        export(model, data(), tmp_path)
