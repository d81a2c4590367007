"""TFLite files of larger and rarer students, and quiet while they are made."""

import keras
import numpy as np
import pytest
from keras import layers

import modreduce_keras as mr
from tests.support.models.exporting import CLASSES, CLOSE, assert_exports, convnet, images

pytestmark = pytest.mark.slow


def test_a_residual_network_exports(tmp_path, settled, random):
    student = settled(mr.models.get("resnet8", num_classes=CLASSES, input_shape=(16, 16, 3)))
    data = random.normal(size=(8, 16, 16, 3)).astype("float32")
    mr.export.to_tflite(student, tmp_path / "student.tflite")
    figures = mr.export.verify(tmp_path / "student.tflite", student, data, repeats=2)
    # Weights as large as these make logits of some hundreds.
    scale = np.abs(np.asarray(student(data, training=False))).max()
    assert figures.largest_difference < CLOSE * max(1.0, scale)
    assert figures.agreement == 1.0


@pytest.mark.parametrize(
    ("identifier", "arguments"),
    [
        ("shufflenet_v1", {"widths": (36, 72, 108), "blocks": (2, 1, 1)}),
        ("shufflenet_v2", {"widths": (8, 16, 24, 32), "blocks": (1, 2, 1)}),
    ],
)
def test_groups_splits_and_shuffles_export(identifier, arguments, tmp_path, random):
    given = {"num_classes": CLASSES, "input_shape": (16, 16, 3), **arguments}
    student = mr.models.get(identifier, **given)
    data = random.normal(size=(40, 16, 16, 3)).astype("float32")
    logits = np.asarray(student(data, training=False))
    for name, given, close in (
        ("float", {}, 1e-5),
        ("int8", {"quantization": "int8", "representative": data}, 0.15),
    ):
        path = mr.export.to_tflite(student, tmp_path / f"{name}.tflite", **given)
        figures = mr.export.verify(path, student, data, repeats=1, least_agreement=0.0)
        assert figures.largest_difference < close * np.abs(logits).max()


def test_a_network_whose_samples_leave_early_exports(tmp_path, random):
    network = mr.models.exits(convnet(), ["stage1"])
    data = images(random)
    confidence = np.asarray(keras.ops.softmax(network(data)["stage1"])).max(axis=-1)
    student = mr.EarlyExit(network, threshold=float(np.median(confidence)))
    left_at = np.asarray(student.decide(data)[1])
    assert set(left_at.tolist()) == {0, 1}
    assert_exports(tmp_path, student, data)
    int8 = {"quantization": "int8", "representative": images(random, 40)}
    with pytest.raises(ValueError, match=r"\{'IF': \['IF'\]\}.*allow_float=True"):
        mr.export.to_tflite(student, tmp_path / "int8.tflite", **int8)


def test_inputs_of_any_length_and_of_integers(tmp_path, settled, random):
    words = keras.Input((None,), dtype="int32")
    states = layers.Conv1D(6, 3)(layers.Embedding(7, 5)(words))
    head = layers.Dense(CLASSES)(layers.GlobalAveragePooling1D()(states))
    assert_exports(tmp_path, settled(keras.Model(words, head)), random.integers(0, 7, (9, 11)))


def test_an_unrolled_recurrent_layer_exports(tmp_path, settled, random):
    inputs = keras.Input((5, 3))
    student = keras.Model(inputs, layers.Dense(CLASSES)(layers.LSTM(4, unroll=True)(inputs)))
    assert_exports(tmp_path, settled(student), random.normal(size=(9, 5, 3)))


def test_the_error_stream_stays_quiet(tmp_path, capfd, random):
    data = images(random, 40)
    path, int8 = tmp_path / "student.tflite", {"quantization": "int8", "representative": data}
    student = convnet()
    mr.export.to_tflite(student, path, **int8)
    mr.export.verify(path, student, data, repeats=1, least_agreement=0.0)
    assert capfd.readouterr() == ("", "")
