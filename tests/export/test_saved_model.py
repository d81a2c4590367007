"""SavedModels: they run without the library's code and say what the student says."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import modreduce_keras as mr


@pytest.fixture
def student():
    return mr.models.get("convnet", num_classes=4, widths=(4, 6), input_shape=(8, 8, 1))


@pytest.fixture
def images(random):
    return random.normal(size=(5, 8, 8, 1)).astype("float32")


def test_it_serves_any_number_of_samples_by_name(student, images, tmp_path):
    path = mr.export.to_saved_model(student, str(tmp_path / "served"))
    assert [one.name for one in tmp_path.iterdir()] == ["served"]
    served = tf.saved_model.load(path)
    for some in (images, images[:1]):
        expected = student(some, training=False)
        for endpoint in (served.serve, lambda x: served.signatures["serving_default"](**x)):
            logits = endpoint({"image": tf.constant(some)})["logits"]
            np.testing.assert_allclose(logits, expected, atol=1e-6)
    layer = keras.layers.TFSMLayer(path)
    np.testing.assert_allclose(layer({"image": images})["logits"], student(images), atol=1e-6)


def test_normalization_is_folded_and_the_precision_full(images, tmp_path):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        student = mr.models.get("convnet", num_classes=4, widths=(4, 6), input_shape=(8, 8, 1))
    finally:
        keras.config.set_dtype_policy("float32")
    twin = mr.models.get("convnet", num_classes=4, widths=(4, 6), input_shape=(8, 8, 1))
    twin.set_weights(student.get_weights())
    served = tf.saved_model.load(mr.export.to_saved_model(student, tmp_path / "served"))
    logits = served.serve({"image": images})["logits"]
    np.testing.assert_allclose(logits, twin(images, training=False), atol=1e-5)
    # Two kernels and their offsets, and the classifier's kernel and bias.
    assert len(served.variables) == 6


def test_several_inputs(tmp_path, random):
    parts = {name: keras.Input((3,), name=name) for name in ("left", "right")}
    student = keras.Model(parts, layers.Dense(4)(layers.Subtract()(list(parts.values()))))
    data = {name: random.normal(size=(5, 3)).astype("float32") for name in parts}
    served = tf.saved_model.load(mr.export.to_saved_model(student, tmp_path / "served"))
    np.testing.assert_allclose(served.serve(data)["logits"], student(data), atol=1e-6)


def test_a_saved_model_is_replaced_and_nothing_else(student, images, tmp_path):
    path = tmp_path / "served"
    mr.export.to_saved_model(student, path)
    for variable in student.trainable_variables:
        variable.assign(variable + 0.1)
    mr.export.to_saved_model(student, path)
    served = tf.saved_model.load(path)
    logits = served.serve({"image": images})["logits"]
    np.testing.assert_allclose(logits, student(images, training=False), atol=1e-5)
    assert [one.name for one in tmp_path.iterdir()] == ["served"]
    for name in ("file", "folder"):
        other = tmp_path / name
        other.mkdir() if name == "folder" else other.write_text("mine")
        with pytest.raises(FileExistsError, match="must be new, or a SavedModel to replace"):
            mr.export.to_saved_model(student, other)
        assert other.exists()


@pytest.mark.parametrize("at", ["new", "served"])
def test_a_failure_leaves_what_was_there(at, student, images, tmp_path, monkeypatch):
    path = tmp_path / "served"
    mr.export.to_saved_model(student, path)
    move = Path.replace

    def fail(self, target):
        if self.name == at:
            raise OSError("disk full")
        return move(self, target)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="disk full"):
        patch.setattr(Path, "replace", fail)
        mr.export.to_saved_model(student, path)
    assert [one.name for one in tmp_path.iterdir()] == ["served"]
    served = tf.saved_model.load(path)
    expected = student(images, training=False)
    np.testing.assert_allclose(served.serve({"image": images})["logits"], expected, atol=1e-6)


def test_only_plain_students(student, tmp_path):
    branches = mr.models.branch(student, at="stage1", branches=2)
    with pytest.raises(ValueError, match=r"branches\.students\['branch_0'\]"):
        mr.export.to_saved_model(branches, tmp_path / "served")
    with pytest.raises(FileNotFoundError, match="folder that exists"):
        mr.export.to_saved_model(student, tmp_path / "missing" / "served")
    assert not list(tmp_path.iterdir())
