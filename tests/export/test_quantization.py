"""Quantizations: what is in the files, and what int8 needs."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr


@pytest.fixture(scope="module")
def student():
    return mr.models.get("convnet", num_classes=10, widths=(16, 32, 64))


@pytest.fixture(scope="module")
def sample():
    return np.random.default_rng(0).random((40, 28, 28, 1)).astype("float32"), np.arange(40) % 10


@pytest.fixture(scope="module")
def files(student, sample, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    ranges = {"int8": sample[0]}
    return {
        name: mr.export.to_tflite(
            student, folder / f"{name}.tflite", quantization=name, representative=ranges.get(name)
        )
        for name in (None, "float16", "dynamic", "int8")
    }


def tensors(path):
    """Returns the details of the tensors of a file, and which of them are constants."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    return interpreter.get_tensor_details()


def dtypes(path):
    return {np.dtype(one["dtype"]).name for one in tensors(path)}


@pytest.mark.slow
def test_full_precision_is_float32(files):
    assert dtypes(files[None]) <= {"float32", "int32"}


def test_float16_keeps_weights_in_half(files):
    kinds = [np.dtype(one["dtype"]).name for one in tensors(files["float16"])]
    assert {"float16", "float32"} <= set(kinds) <= {"float16", "float32", "int32"}


def test_dynamic_keeps_weights_in_integers(files):
    large = [one for one in tensors(files["dynamic"]) if len(one["shape"]) == 4]
    weights = [one for one in large if np.prod(one["shape"]) > 1024 and one["shape"][0] > 1]
    assert {np.dtype(one["dtype"]).name for one in weights} == {"int8"}


def test_int8_computes_in_integers_between_float_ends(files):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(files["int8"]))
    ends = [interpreter.get_input_details()[0], interpreter.get_output_details()[0]]
    assert {one["dtype"] for one in ends} == {np.float32}
    inside = {one["index"] for one in ends}
    kinds = {np.dtype(t["dtype"]).name for t in tensors(files["int8"]) if t["index"] not in inside}
    assert kinds <= {"int8", "int32"}
    per_channel = [len(one["quantization_parameters"]["scales"]) for one in tensors(files["int8"])]
    assert {16, 32, 64} <= set(per_channel)


def refused(student, path, match, error=ValueError, **arguments):
    with pytest.raises(error, match=match):
        mr.export.to_tflite(student, path / "a.tflite", **arguments)
    assert not list(path.iterdir())


def test_int8_needs_samples(student, sample, tmp_path):
    int8 = {"quantization": "int8"}
    refused(student, tmp_path, "give representative=.*Received: representative=None", **int8)
    few = {**int8, "representative": sample[0][:31]}
    refused(student, tmp_path, "at least 32 samples.*Received: 31", **few)
    wrong = {**int8, "representative": sample[0][:40, :20]}
    refused(student, tmp_path, r"representative must have.*Received: \(40, 20, 28, 1\)", **wrong)
    nothing = {**int8, "representative": 100}
    refused(
        student, tmp_path, "representative must be a dataset.*of type int", TypeError, **nothing
    )


@pytest.mark.parametrize("quantization", [None, "float16", "dynamic"])
def test_samples_that_nothing_reads_are_refused(quantization, student, sample, tmp_path):
    given = {"quantization": quantization, "representative": sample[0][:40]}
    refused(student, tmp_path, "for quantization='int8' alone. Received", **given)


def test_operations_without_integers_are_refused(tmp_path, random):
    inputs = keras.Input((4,))
    hidden = keras.ops.sin(keras.layers.Dense(5)(inputs))
    student = keras.Model(inputs, keras.layers.Dense(3)(hidden))
    data = {"quantization": "int8", "representative": random.normal(size=(40, 4))}
    (sine,) = (one for one in student.operations if one.name.startswith("sin"))
    name = re.escape(f"['{sine.name}']")
    match = rf"{{'{sine.name}': \['SIN'\]}}.*allow_float={name}.*'dynamic' or 'float16'. Received"
    refused(student, tmp_path, match, **data)


@pytest.mark.parametrize("quantization", ["int8", None])
def test_what_the_converter_says_is_handed_on(quantization, student, sample, tmp_path, monkeypatch):
    class Converter:
        """Stands for TensorFlow's, and fails."""

        class target_spec:  # noqa: N801
            pass

        def convert(self):
            raise RuntimeError("no such layer")

    monkeypatch.setattr(tf.lite.TFLiteConverter, "from_saved_model", lambda _: Converter())
    given = {"representative": sample[0]} if quantization else {}
    remedy = "or take quantization='dynamic' or 'float16'" if quantization else "that it names"
    match = rf"refuses the student 'convnet'.*{remedy}\. It said: no such layer"
    refused(student, tmp_path, match, quantization=quantization, **given)
