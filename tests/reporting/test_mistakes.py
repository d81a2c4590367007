"""Mistakes in calls of a report: each is told at once, with what was expected and what came."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import modreduce_keras as mr
from modreduce_keras.export import VerificationError
from tests.support.models.exporting import convnet


def softmaxed():
    inputs = keras.Input((8, 8, 1))
    hidden = layers.Flatten()(inputs)
    return keras.Model(inputs, layers.Dense(4, activation="softmax")(hidden), name="soft")


def positions():
    inputs = keras.Input((8, 8, 1))
    return keras.Model(inputs, layers.Conv2D(4, 1)(inputs), name="map")


ARGUMENTS = [
    ({"gallery": -1}, "gallery must be an integer of at least 0. Received: gallery=-1"),
    ({"bins": 0}, "bins must be a positive integer. Received: bins=0"),
    ({"threads": 1.5}, "threads must be a positive integer. Received: threads=1.5"),
    ({"batch_size": 0}, "batch_size must be a positive integer. Received: batch_size=0"),
    ({"repeats": True}, "repeats must be a positive integer. Received: repeats=True"),
    ({"title": " "}, "title must be a string, not empty. Received: title=' '"),
    ({"curve": None}, "curve must be a string, not empty. Received: curve=None"),
    ({"path": 3}, "path must be that of a folder. Received: path=3"),
    ({"data": None}, "data must be a tuple (x, y) of arrays, or a dataset. Received: data=None"),
    ({"students": {}}, "students must be a model, or a dict of at least one with names"),
    ({"students": {"teacher": None}}, "not 'teacher'. Received: students with the names"),
    ({"students": {" ": None}}, "strings, not empty"),
    ({"students": {"a": 3}}, "students['a'] cannot be reported: "),
    ({"students": "plain"}, "students cannot be reported: "),
    ({"class_names": ["a", "b"]}, "class_names must be a list of 4 strings"),
    ({"class_names": "abcd"}, "class_names must be a list of 4 strings"),
    ({"class_names": [0, 1, 2, 3]}, "class_names must be a list of 4 strings"),
    ({"histories": [1]}, "histories must be a dict of logs by network"),
    ({"histories": {"nobody": {}}}, "Received: ['nobody']"),
    ({"histories": {"plain": [0.5]}}, "histories['plain'] must be a dict of lists"),
    ({"histories": {"plain": {"loss": [1.0]}}}, "must have the log 'val_accuracy'; curve= names"),
    (
        {"histories": {"plain": {"val_accuracy": []}}},
        "histories['plain']['val_accuracy'] must be a list of finite numbers",
    ),
    ({"histories": {"plain": {"val_accuracy": [0.5, float("nan")]}}}, "finite numbers"),
    ({"histories": {"plain": {"val_accuracy": 0.5}}}, "one for each epoch. Received: 0.5"),
    ({"trials": [1]}, "trials must be what mr.tuning.find_student returned. Received: trials of"),
    ({"exports": "plain.tflite"}, "exports must be a dict of files by name"),
    ({"exports": {"nobody": {"a": "b"}}}, "exports must name students of the report, ['plain', "),
    ({"exports": {"plain": "plain.tflite"}}, "With several students, exports must say whose"),
    (
        {"exports": {"plain": {"a": 3}}},
        "exports must name paths of files. Received: 'a': 3",
    ),
    ({"exports": {"plain": {"plain": "a"}}}, "Names of files in exports must be strings"),
    ({"exports": {"plain": {"": "a"}}}, "differ from one another"),
    ({"exports": {"plain": {"a": "none.tflite"}}}, "where there is none"),
]


@pytest.mark.parametrize(("arguments", "message"), ARGUMENTS, ids=lambda one: str(one)[:60])
def test_argument(arguments, message, write, tmp_path):
    with pytest.raises((TypeError, ValueError, FileNotFoundError), match=re.escape(message)):
        write(**{"path": tmp_path / "new", **arguments})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (softmaxed, "ends in a softmax or sigmoid"),
        (positions, "must give logits (batch, classes) of at least two classes"),
        (lambda: convnet(num_classes=5), "must have the same classes. Received: numbers of"),
        (lambda: convnet(input_shape=(16, 16, 1)), "must take the same inputs"),
        (lambda: keras.Sequential([layers.Dense(4)], name="unbuilt"), "must be built"),
    ],
)
@pytest.mark.parametrize("place", ["teacher", "students"])
def test_model(place, model, message, write, tmp_path):
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        write(tmp_path / "new", **{place: model()}, exports=None, histories=None)
    assert place in str(raised.value)


def test_a_distiller_is_no_student(write, networks, tmp_path):
    distiller = mr.Distiller(
        student=networks["plain"], teacher=networks["teacher"], knowledge=[mr.Response("kd")]
    )
    with pytest.raises(ValueError, match=r"students cannot be.*export distiller\.student"):
        write(tmp_path, students=distiller, exports=None, histories=None)


def test_data_without_labels(write, data, tmp_path):
    for given in (data[0], tf.data.Dataset.from_tensor_slices(data[0]).batch(8)):
        with pytest.raises(ValueError, match=r"data must have labels.*Received: x alone"):
            write(tmp_path, data=given)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.full(70, 4), "class indices from 0 to 3. Received: y with [4]"),
        (np.full(70, 0.5), "Received: y with [0.5]"),
        (
            np.zeros((70, 3)),
            "or one-hot (32, 4), as the logits are. Received: labels of shape (32, 3)",
        ),
    ],
)
def test_labels(labels, message, write, data, tmp_path):
    with pytest.raises(ValueError, match=re.escape(message)):
        write(tmp_path, data=(data[0], labels))


def test_logits_that_are_not_finite(write, data, tmp_path):
    images = data[0].copy()
    images[50] = np.nan
    with pytest.raises(ValueError, match=r"teacher must give finite logits"):
        write(tmp_path, data=(images, data[1]))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_damaged_and_foreign_files(write, networks, file, tmp_path):
    damaged = tmp_path / "damaged.tflite"
    damaged.write_bytes(file.read_bytes()[:200])
    foreign = mr.export.to_tflite(convnet(num_classes=3), tmp_path / "three.tflite")
    other = mr.export.to_tflite(convnet(input_shape=(6, 6, 1)), tmp_path / "six.tflite")
    for path, message in (
        (damaged, "LiteRT cannot read it"),
        (foreign, r"three.tflite returns float32 of shape \(32, 3\), and its student 'plain'"),
        (other, "its input"),
    ):
        with pytest.raises(VerificationError, match=message):
            write(tmp_path / "new", exports={"plain": {"file": path}})
    assert not (tmp_path / "new").exists()


def test_a_file_that_puts_out_nan(write, networks, tmp_path):
    broken = keras.models.clone_model(networks["plain"])
    broken.set_weights([np.full_like(array, np.nan) for array in broken.get_weights()])
    path = mr.export.to_tflite(broken, tmp_path / "broken.tflite")
    with pytest.raises(VerificationError, match=r"broken.tflite returns NaN or infinity"):
        write(tmp_path / "new", exports={"plain": {"file": path}})


def test_path_is_a_file_or_under_one(write, tmp_path):
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(ValueError, match=r"path must be a folder to write to.*is a file"):
            write(path)
    assert (tmp_path / "file").read_text() == "mine"


def test_what_is_not_a_report_is_not_replaced(write, tmp_path):
    (tmp_path / "report_files").mkdir()
    (tmp_path / "report_files" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"nothing but a report's pictures at 'report_files'"):
        write(tmp_path)
    (tmp_path / "other" / "report.html").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"no folder named 'report.html'"):
        write(tmp_path / "other")
    assert (tmp_path / "report_files" / "thesis.txt").read_text() == "mine"
