"""Operations that files lack, and what is written in their place: it computes the same."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import modreduce_keras as mr
from modreduce_keras import keras_internals
from modreduce_keras.export.equivalents import equivalents
from tests.support.models.exporting import CLASSES, assert_exports
from tests.support.models.functions import OfFunction


def mixing(mix):
    inputs = keras.Input((6, 5))
    mixed = layers.Flatten()(OfFunction(mix)(inputs))
    return keras.Model(inputs, layers.Dense(CLASSES)(mixed))


def twisted(inputs):
    return inputs, ops.sin(inputs)


MIXES = {
    "roll": lambda x: ops.roll(x, (-2, 7), axis=(1, 2)),
    "real part": lambda x: ops.fft2((x, ops.zeros_like(x)))[0],
    "fft2": lambda x: ops.multiply(*ops.fft2(twisted(x))),
    "fft": lambda x: ops.multiply(*ops.fft(twisted(x))),
    "ifft2": lambda x: ops.multiply(*ops.ifft2(twisted(x))),
}


@pytest.mark.parametrize("mix", MIXES.values(), ids=MIXES.keys())
def test_tflite_files_compute_what_the_layer_does(mix, tmp_path, settled, random):
    assert_exports(tmp_path, settled(mixing(mix)), random.normal(size=(9, 6, 5)) / 5)


def test_onnx_files_do_too(tmp_path, settled, random):
    pytest.importorskip("onnxruntime")
    student = settled(mixing(MIXES["real part"]))
    path = mr.export.to_onnx(student, tmp_path / "student.onnx")
    data = random.normal(size=(9, 6, 5)).astype("float32")
    assert mr.export.verify(path, student, data, repeats=1).largest_difference < 1e-4


@pytest.mark.parametrize(
    ("shift", "axis"), [(2, 1), (-9, 0), ((1, -2), (0, 2)), ((1, 2), (1, 1)), (0, 1)]
)
def test_slices_are_numpys_roll(shift, axis, random):
    array = random.normal(size=(3, 4, 5)).astype("float32")
    with equivalents():
        rolled = ops.roll(array, shift, axis=axis)
    assert np.array_equal(rolled, np.roll(array, shift, axis=axis))


def test_products_are_numpys_transforms(random):
    real, imaginary = random.normal(size=(2, 3, 7, 6)).astype("float32")
    expected = np.fft.fft2(real + 1j * imaginary)
    with equivalents():
        received = map(np.asarray, ops.fft2((real, imaginary)))
    assert np.allclose([*received], [expected.real, expected.imag], atol=1e-4)


def test_open_sizes_stay_as_they_are(random):
    array = random.normal(size=(3, 4)).astype("float32")

    @tf.function(input_signature=[tf.TensorSpec((None, None), "float32")])
    def both(x):
        return ops.roll(x, 1, axis=1), ops.fft((x, ops.zeros_like(x)))[0]

    with equivalents():
        rolled, real = both(array)
    assert np.array_equal(rolled, np.roll(array, 1, axis=1))
    assert np.allclose(real, np.fft.fft(array).real, atol=1e-5)


def test_outside_nothing_has_changed():
    before = tf.roll, keras.ops.fft2
    with pytest.raises(KeyError), equivalents():
        raise KeyError
    assert before == (tf.roll, keras.ops.fft2)


def both_ways(unit):
    return layers.Bidirectional(unit(3, return_sequences=True))


@pytest.mark.parametrize(
    "make", [lambda: layers.GRU(4), lambda: both_ways(layers.LSTM)], ids=["GRU", "both ways"]
)
def test_recurrent_layers_are_unrolled(make, tmp_path, settled, random):
    inputs = keras.Input((5, 3))
    recurrent = make()
    student = keras.Model(inputs, layers.Dense(CLASSES)(layers.Flatten()(recurrent(inputs))))
    assert_exports(tmp_path, settled(student), random.normal(size=(9, 5, 3)))
    loops = [one for one in keras_internals.flatten_layers(student) if isinstance(one, layers.RNN)]
    assert loops and not any(one.unroll or "call" in vars(one) for one in loops)


@pytest.mark.slow
def test_recurrent_layers_of_many_steps_are_not(tmp_path):
    inputs = keras.Input((257, 3))
    student = keras.Model(inputs, layers.Dense(CLASSES)(layers.GRU(4, name="recurrent")(inputs)))
    with pytest.raises(ValueError, match=r"lacks: {'recurrent': .*at most 256 steps"):
        mr.export.to_tflite(student, tmp_path / "student.tflite")
