"""Names of inputs in files: each its own, and the student's where a file can hold it."""

import importlib.util

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr
from modreduce_keras.export.runnable import RunnableFile
from modreduce_keras.export.verification import _runnable


def student(names):
    """Each input counts differently, so that two that are swapped are seen."""
    inputs = [keras.Input((3,), name=name) for name in names]
    parts = [keras.layers.Dense(4)(float(i + 1) * x) for i, x in enumerate(inputs)]
    return keras.Model(inputs, keras.layers.Add()(parts))


EXPORTS = {"tflite": mr.export.to_tflite, "saved_model": mr.export.to_saved_model}
if importlib.util.find_spec("tf2onnx"):
    EXPORTS["onnx"] = mr.export.to_onnx

NAMES = {
    ("a_b", "c"): ["a_b", "c"],
    ("a-b", "a_b"): ["a_b_1", "a_b"],
    ("a_b", "a-b", "a_b_1"): ["a_b", "a_b_2", "a_b_1"],
    ("a.b", "a-b", "a b"): ["a_b", "a_b_1", "a_b_2"],
    ("1x", "input_1x"): ["input_1x_1", "input_1x"],
    ("größe", "gr__e"): ["gr__e_1", "gr__e"],
    ("logits", "logits_1"): ["logits_2", "logits_1"],
}


@pytest.mark.parametrize("kind", EXPORTS)
@pytest.mark.parametrize("names", NAMES, ids=" ".join)
def test_every_input_has_a_name_of_its_own(names, kind, tmp_path, random):
    model = student(names)
    data = tuple(random.normal(size=(5, 3)).astype("float32") for _ in names)
    path = EXPORTS[kind](model, tmp_path / f"student.{kind}")
    file: RunnableFile = _runnable(path, None)
    assert set(file.inputs) == set(NAMES[names])
    if kind == "saved_model":
        by_name = dict(zip(NAMES[names], data, strict=True))
        served = tf.saved_model.load(path)
        np.testing.assert_allclose(served.serve(by_name)["logits"], model(list(data)), atol=1e-5)
    found = mr.export.verify(path, model, tf.data.Dataset.from_tensors((data,)))
    assert found.largest_difference < 1e-5
