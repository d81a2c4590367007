"""Saving: `.keras` and weight files continue training as if nothing had happened."""

import json
import subprocess
import sys

import h5py
import keras
import numpy as np
import pytest

import modreduce_keras as mr

pytestmark = pytest.mark.slow


def fit(distiller, images, labels):
    return distiller.fit(
        images,
        labels,
        batch_size=5,
        epochs=2,
        shuffle=False,
        verbose=0,
        validation_data=(images, labels),
    ).history


def by_group(distiller):
    return {name: keras.optimizers.Adam(0.01) for name in distiller.variable_groups()}


@pytest.fixture(params=["distiller", "modreduce", "modreduce_groups"])
def trained(request, images, labels, cross_entropy):
    """A distiller after two epochs: one student, several, and several optimizers."""
    distiller = request.getfixturevalue(request.param.split("_")[0])
    if request.param.endswith("groups"):
        distiller.compile(by_group(distiller), cross_entropy, metrics=["accuracy"])
    fit(distiller, images, labels)
    return distiller


def test_keras_file_continues_training_identically(trained, images, labels, tmp_path):
    path = tmp_path / "distiller.keras"
    trained.save(path)
    restored = keras.saving.load_model(path)
    assert int(restored.step) == int(trained.step) == 6
    assert fit(restored, images, labels) == fit(trained, images, labels)
    for one, other in zip(trained.variables, restored.variables, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=one.path)
    pairs = zip(trained.optimizer.variables, restored.optimizer.variables, strict=True)
    for one, other in pairs:
        np.testing.assert_array_equal(one, other, err_msg=one.path)


def test_keras_file_holds_the_teacher(distiller, teacher, tmp_path):
    distiller.save(tmp_path / "distiller.keras")
    restored = keras.saving.load_model(tmp_path / "distiller.keras")
    for one, other in zip(teacher.weights, restored.teacher.weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_dir_shows_students_and_files_hold_them_once(modreduce, distiller, tmp_path):
    path = tmp_path / "distiller.weights.h5"
    for model, views in [(modreduce, {"best_student"}), (distiller, {"student"})]:
        assert views | {"teacher"} <= set(dir(model))
        model.save_weights(path)
        with h5py.File(path) as file:
            assert not {*views, "teacher"} & set(file)
            kept = [name for name in file["layers"] if name.startswith("functional")]
        assert len(kept) == len(model.students)


def test_best_student_is_remembered(modreduce, images, labels, tmp_path):
    fit(modreduce, images, labels)
    modreduce.save(tmp_path / "modreduce.keras")
    restored = keras.saving.load_model(tmp_path / "modreduce.keras")
    assert restored.best_student_name == modreduce.best_student_name
    np.testing.assert_array_equal(
        restored.predict(images, verbose=0), modreduce.predict(images, verbose=0)
    )


def test_changed_knobs_are_restored(distiller, tmp_path):
    kd = distiller.knowledge["student"][0]
    kd.weight, kd.loss.temperature, distiller.supervised_weight = 0.125, 2.5, 0.75
    distiller.save(tmp_path / "distiller.keras")
    restored = keras.saving.load_model(tmp_path / "distiller.keras")
    again = restored.knowledge["student"][0]
    values = again.weight, again.loss.temperature, restored.supervised_weight
    assert [float(value) for value in values] == [0.125, 2.5, 0.75]

    distiller.save_weights(tmp_path / "distiller.weights.h5")
    kd.weight, kd.loss.temperature, distiller.supervised_weight = 1.0, 1.0, 1.0
    distiller.load_weights(tmp_path / "distiller.weights.h5")
    values = kd.weight, kd.loss.temperature, distiller.supervised_weight
    assert [float(value) for value in values] == [0.125, 2.5, 0.75]


def test_config_round_trip(trained):
    config = trained.get_config()
    text = json.dumps(config)
    rebuilt = type(trained).from_config(config)
    assert json.dumps(config) == text
    assert json.dumps(rebuilt.get_config()) == text


def test_student_is_plain_keras(modreduce, images, labels, tmp_path):
    fit(modreduce, images, labels)
    path = tmp_path / "student.keras"
    modreduce.best_student.save(path)
    np.save(tmp_path / "images.npy", images)
    program = (
        "import sys, keras, numpy as np; "
        f"student = keras.saving.load_model({str(path)!r}); "
        f"logits = student.predict(np.load({str(tmp_path / 'images.npy')!r}), verbose=0); "
        f"np.save({str(tmp_path / 'logits.npy')!r}, logits); "
        "assert 'modreduce_keras' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    expected = modreduce.best_student.predict(images, verbose=0)
    np.testing.assert_array_equal(np.load(tmp_path / "logits.npy"), expected)


def test_scheduled_weights_survive(net, teacher, tmp_path, cross_entropy, images, labels):
    weight = mr.schedules.Linear(1.0, 0.0, steps=4)
    distiller = mr.Distiller(student=net(), teacher=teacher, knowledge=[mr.Response(weight=weight)])
    distiller.compile("sgd", cross_entropy)
    distiller.fit(images, labels, batch_size=6, verbose=0)
    distiller.save(tmp_path / "distiller.keras")
    restored = keras.saving.load_model(tmp_path / "distiller.keras")
    assert float(restored.knowledge["student"][0].weight) == 0.5
