"""Verification of SavedModels: figures by hand, and every way in which one is not its student."""

import shutil
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import modreduce_keras as mr
from tests.support.models.by_rows import (
    DATA,
    LABELS,
    SWAPPED,
    every_damage,
    linear,
    other_architectures,
)
from tests.support.models.exporting import CLOSE, convnet, images


@pytest.fixture(scope="module")
def student():
    return linear(np.eye(3))


@pytest.fixture(scope="module")
def folder(student, tmp_path_factory):
    return mr.export.to_saved_model(student, tmp_path_factory.mktemp("own") / "own")


def test_figures_by_hand(student, tmp_path):
    path = mr.export.to_saved_model(linear(SWAPPED), tmp_path / "other")
    figures = mr.export.verify(path, student, (DATA, LABELS), least_agreement=0.5, repeats=3)
    assert (figures.agreement, figures.accuracy, figures.student_accuracy) == (0.5, 0.25, 0.75)
    assert figures.largest_difference == pytest.approx(1.0)
    files = [path / "saved_model.pb", path / "fingerprint.pb", *(path / "variables").iterdir()]
    assert figures.size == sum(len(file.read_bytes()) for file in files)
    assert figures.threads is None
    assert figures.samples == 4
    assert 0 < figures.milliseconds < 100
    with pytest.raises(mr.export.VerificationError, match=r"50\.00 % of 4 samples.*97 %") as told:
        mr.export.verify(path, student, (DATA, LABELS), repeats=1)
    assert told.value.verification.agreement == 0.5


def test_a_network_and_its_saved_model_agree(tmp_path, settled, random):
    student = settled(convnet())
    path = mr.export.to_saved_model(student, tmp_path / "student")
    figures = mr.export.verify(str(path), student, images(random), batch_size=7, repeats=1)
    assert (figures.agreement, figures.samples) == (1.0, 20)
    assert figures.largest_difference < CLOSE


def test_inputs_go_by_their_names(tmp_path, settled, random):
    parts = {name: keras.Input((3,), name=name) for name in ("one", "two")}
    student = settled(keras.Model(parts, layers.Dense(4)(layers.Subtract()(list(parts.values())))))
    path = mr.export.to_saved_model(student, tmp_path / "student")
    data = {name: random.normal(size=(9, 3)) for name in ("two", "one")}
    figures = mr.export.verify(path, student, data, repeats=1)
    assert figures.largest_difference < CLOSE


# What is not the student

WEIGHTS = "variables/variables.data-00000-of-00001"


@pytest.mark.parametrize("name", ["saved_model.pb", "variables/variables.index", WEIGHTS])
@every_damage
def test_a_damaged_folder_is_found(name, damage, student, folder, tmp_path):
    path = tmp_path / "damaged"
    shutil.copytree(folder, path)
    (path / name).write_bytes(damage((folder / name).read_bytes()))
    with pytest.raises(mr.export.VerificationError, match="TensorFlow cannot load it") as told:
        mr.export.verify(path, student, DATA)
    assert told.value.verification is None


def test_a_damaged_weight_is_found(student, folder, tmp_path):
    path, kernel = tmp_path / "damaged", np.eye(3, dtype="float32").tobytes()
    shutil.copytree(folder, path)
    content = (path / WEIGHTS).read_bytes()
    assert kernel in content
    (path / WEIGHTS).write_bytes(content.replace(kernel, np.array(SWAPPED, "float32").tobytes()))
    with pytest.raises(mr.export.VerificationError, match=r"cannot load it.*[Cc]hecksum"):
        mr.export.verify(path, student, DATA)


def test_missing_weights_are_found(student, folder, tmp_path):
    path = tmp_path / "damaged"
    shutil.copytree(folder, path)
    shutil.rmtree(path / "variables")
    with pytest.raises(mr.export.VerificationError, match="TensorFlow cannot load it"):
        mr.export.verify(path, student, DATA)


@other_architectures
def test_the_folder_of_another_architecture_is_found(kernel, shape, match, student, tmp_path):
    path = mr.export.to_saved_model(linear(kernel, shape), tmp_path / "other")
    with pytest.raises(mr.export.VerificationError, match=match):
        mr.export.verify(path, student, DATA)


class Foreign(tf.Module):
    """What another program might have saved."""

    @tf.function
    def one(self, x):
        return {"y": tf.matmul(x, tf.eye(3))}

    @tf.function
    def two(self, x):
        return {"y": x, "z": 2.0 * x}

    @tf.function
    def size_is_checked(self, x):
        tf.debugging.assert_less(tf.shape(x)[0], 2)
        return {"y": x}


def foreign(path, method=None, shape=None, signature="predict"):
    """Saves one of a module's methods, or none, as its only signature."""
    module = Foreign()
    methods = {}
    if method:
        spec = tf.TensorSpec(shape, name="x")
        methods[signature] = getattr(module, method).get_concrete_function(spec)
    tf.saved_model.save(module, path, signatures=methods)
    return path


@pytest.mark.parametrize("shape", [(None, 3), None])
def test_saved_models_of_other_programs(shape, student, tmp_path):
    path = foreign(tmp_path / "foreign", "one", shape)
    figures = mr.export.verify(path, student, DATA, repeats=1)
    assert figures.agreement == 1.0


@pytest.mark.parametrize(
    ("method", "match"),
    [
        (None, "it has no signature"),
        ("two", r"it has the outputs \['y', 'z'\], and one is needed"),
        ("size_is_checked", "TensorFlow fails to run it"),
    ],
)
def test_saved_models_that_cannot_be_compared(method, match, student, tmp_path):
    path = foreign(tmp_path / "foreign", method, (None, 3))
    with pytest.raises(mr.export.VerificationError, match=match):
        mr.export.verify(path, student, DATA)


def test_the_signature_that_is_served_counts(student, tmp_path):
    module = Foreign()
    spec = tf.TensorSpec((None, 3), name="x")
    methods = {"a": module.two, "serving_default": module.one}
    signatures = {name: method.get_concrete_function(spec) for name, method in methods.items()}
    tf.saved_model.save(module, tmp_path / "foreign", signatures=signatures)
    assert mr.export.verify(tmp_path / "foreign", student, DATA, repeats=1).agreement == 1.0


def test_threads_are_not_a_saved_models(student, folder):
    with pytest.raises(
        ValueError, match=r"threads is for TFLite and ONNX files.*Received: threads=2"
    ):
        mr.export.verify(folder, student, DATA, threads=2)


def test_litert_is_not_needed(student, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    assert mr.export.verify(folder, student, DATA, repeats=1).agreement == 1.0
