"""Verification of TFLite files: figures by hand, and every way in which one is not its student."""

import runpy
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import modreduce_keras as mr
from modreduce_keras.export import interpreter
from modreduce_keras.export.interpreter import TFLiteFile
from tests.support.models.by_rows import DATA, LABELS, SWAPPED, every_damage, linear


@pytest.fixture(scope="module")
def student():
    return linear(np.eye(3))


@pytest.fixture(scope="module")
def file(student, tmp_path_factory):
    return mr.export.to_tflite(student, tmp_path_factory.mktemp("own") / "own.tflite")


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """The file of a student that takes class 0 for 1 and 1 for 0."""
    path = tmp_path_factory.mktemp("other") / "other.tflite"
    return mr.export.to_tflite(linear(SWAPPED), path)


@pytest.mark.parametrize("labels", [LABELS, LABELS[:, np.newaxis], np.eye(3)[LABELS]])
def test_figures_by_hand(labels, student, other):
    figures = mr.export.verify(
        other, student, (DATA, labels), least_agreement=0.5, threads=2, repeats=3
    )
    assert figures.agreement == 2 / 4
    assert figures.accuracy == 1 / 4
    assert figures.student_accuracy == 3 / 4
    assert figures.largest_difference == pytest.approx(1.0)
    assert figures.size == len(other.read_bytes())
    assert figures.threads == 2
    assert figures.samples == 4
    assert 0 < figures.milliseconds < 100


def test_the_interpreter_has_one_thread_unless_told_otherwise(student, file, monkeypatch):
    given = []
    real = interpreter.require_interpreter()

    def interpreter_of(**arguments):
        given.append(arguments["num_threads"])
        return real(**arguments)

    monkeypatch.setattr(interpreter, "require_interpreter", lambda: interpreter_of)
    told = [mr.export.verify(file, student, DATA, repeats=1, **x) for x in ({}, {"threads": 3})]
    assert given == [figures.threads for figures in told] == [1, 3]


def test_the_largest_difference_is_of_all_batches(student, tmp_path):
    path = mr.export.to_tflite(linear(1.25 * np.eye(3)), tmp_path / "a.tflite")
    for order in (slice(None), slice(None, None, -1)):
        figures = mr.export.verify(path, student, DATA[order], batch_size=1, repeats=1)
        assert figures.largest_difference == pytest.approx(0.25 * 4)
        assert figures.agreement == 1.0
        assert figures.accuracy is figures.student_accuracy is None


def datasets():
    arrays = tf.data.Dataset.from_tensor_slices((DATA, LABELS))
    weighted = tf.data.Dataset.from_tensor_slices((DATA, LABELS, np.ones(4)))
    return {
        "tuple of arrays": (DATA, LABELS),
        "tensors": (tf.constant(DATA), tf.constant(LABELS)),
        "uneven batches": arrays.batch(3),
        "weighted": weighted.batch(4),
        "indexed": mr.data.with_index(arrays).batch(2),
        "list of batches": [(DATA[:1], LABELS[:1]), (DATA[1:], LABELS[1:])],
        "generator": ((DATA[i : i + 1], LABELS[i : i + 1]) for i in range(4)),
    }


@pytest.mark.parametrize("form", datasets())
def test_data_come_in_many_forms(form, student, other):
    data = datasets()[form]
    figures = mr.export.verify(other, student, data, least_agreement=0.5, repeats=1)
    assert (figures.agreement, figures.accuracy, figures.samples) == (1 / 2, 1 / 4, 4)


@pytest.mark.parametrize("form", ["array", "tuple of one", "dataset"])
def test_without_labels_there_is_no_accuracy(form, student, file):
    data = {
        "array": DATA,
        "tuple of one": (DATA,),
        "dataset": tf.data.Dataset.from_tensor_slices(DATA).batch(3),
    }[form]
    figures = mr.export.verify(file, student, data, repeats=1)
    assert figures.agreement == 1.0
    assert figures.accuracy is None


def test_positions_count_one_by_one(tmp_path):
    student, swapped = (linear(kernel, (2, 3)) for kernel in (np.eye(3), SWAPPED))
    path = mr.export.to_tflite(swapped, tmp_path / "a.tflite")
    data, labels = DATA.reshape(2, 2, 3), LABELS.reshape(2, 2)
    figures = mr.export.verify(path, student, (data, labels), least_agreement=0.0, repeats=1)
    assert (figures.agreement, figures.accuracy, figures.student_accuracy) == (0.5, 0.25, 0.75)
    assert figures.samples == 2


def test_one_sample_is_timed_as_often_as_asked(student, file, monkeypatch):
    timed = []

    def milliseconds(self, inputs, repeats):
        timed.append(({name: array.shape for name, array in inputs.items()}, repeats))
        return 0.25

    monkeypatch.setattr(TFLiteFile, "milliseconds", milliseconds)
    assert mr.export.verify(file, student, DATA, repeats=7).milliseconds == 0.25
    assert timed == [({"features": (1, 3)}, 7)]


def test_the_time_is_the_median_after_the_warm_up(file, monkeypatch):
    ran = TFLiteFile(file, threads=1)
    ran.bind({"features": (None, 3)}, {"features": "float32"})
    # Ten runs of a second that do not count, and then of 1, 2 and 9 milliseconds.
    durations = [1.0] * 10 + [0.001, 0.009, 0.002]
    clock = iter([time for duration in durations for time in (0.0, duration)])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    assert ran.milliseconds({"features": DATA[:1]}, 3) == pytest.approx(2.0)


# What is not the student


def test_too_little_agreement_is_an_error_with_the_figures(student, other):
    with pytest.raises(mr.export.VerificationError, match=r"50\.00 % of 4 samples.*97 %") as told:
        mr.export.verify(other, student, (DATA, LABELS), repeats=1)
    assert told.value.verification.agreement == 0.5
    assert told.value.verification.accuracy == 0.25
    assert mr.export.verify(other, student, DATA, least_agreement=0.5, repeats=1)
    with pytest.raises(mr.export.VerificationError):
        mr.export.verify(other, student, DATA, least_agreement=0.501, repeats=1)


def test_a_student_that_was_trained_on_is_not_the_file(tmp_path):
    student = linear(np.eye(3))
    path = mr.export.to_tflite(student, tmp_path / "a.tflite")
    assert mr.export.verify(path, student, DATA, repeats=1).agreement == 1.0
    student.get_layer("logits").kernel.assign(SWAPPED)
    with pytest.raises(mr.export.VerificationError, match="older than the student's weights"):
        mr.export.verify(path, student, DATA, repeats=1)


def test_damaged_weights_are_found(student, file, tmp_path):
    content, kernel = file.read_bytes(), np.eye(3, dtype="float32").tobytes()
    assert content.count(kernel) == 1
    path = tmp_path / "a.tflite"
    path.write_bytes(content.replace(kernel, np.array(SWAPPED, "float32").tobytes()))
    with pytest.raises(mr.export.VerificationError, match="damaged") as told:
        mr.export.verify(path, student, DATA, repeats=1)
    assert told.value.verification.agreement == 0.5


def test_what_is_not_finite_does_not_agree(student, tmp_path):
    path = mr.export.to_tflite(linear(np.eye(3), bias=[np.nan, 0.0, 0.0]), tmp_path / "a.tflite")
    with pytest.raises(mr.export.VerificationError) as told:
        mr.export.verify(path, student, (DATA, LABELS), repeats=1)
    figures = told.value.verification
    assert (figures.agreement, figures.accuracy) == (0.0, 0.0)
    assert np.isnan(figures.largest_difference)


@every_damage
def test_a_damaged_file_is_found(damage, student, file, tmp_path):
    path = tmp_path / "a.tflite"
    path.write_bytes(damage(file.read_bytes()))
    with pytest.raises(mr.export.VerificationError, match="LiteRT cannot read it") as told:
        mr.export.verify(path, student, DATA)
    assert told.value.verification is None


def two_inputs(first, second):
    parts = [keras.Input((3,), name=name) for name in (first, second)]
    return keras.Model(parts, layers.Dense(3)(layers.Add()(parts)))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: linear(np.ones((5, 3)), (5,)), r"'features' is float32 of shape \(-1, 5\)"),
        (lambda: linear(np.eye(3), (2, 3)), r"of shape \(-1, 2, 3\), and the student's.*None, 3"),
        (lambda: linear(np.ones((3, 4))), r"returns float32 of shape \(4, 4\).*\(4, 3\)"),
        (lambda: two_inputs("one", "two"), r"inputs \['one', 'two'\].*student \['features'\]"),
    ],
    ids=["size", "rank", "classes", "inputs"],
)
def test_the_file_of_another_architecture_is_found(make, match, student, tmp_path):
    path = mr.export.to_tflite(make(), tmp_path / "a.tflite")
    with pytest.raises(mr.export.VerificationError, match=match):
        mr.export.verify(path, student, DATA)


def test_files_of_other_programs(student, tmp_path):
    path = tmp_path / "keras.tflite"
    student.export(path, format="litert", verbose=False)
    assert mr.export.verify(path, student, DATA, repeats=1).agreement == 1.0
    inputs = keras.Input((5, 3))
    flex = keras.Model(inputs, layers.Dense(3)(layers.LSTM(4)(inputs)))
    flex.export(path, format="litert", verbose=False)
    with pytest.raises(mr.export.VerificationError, match=r"Flex|Select TensorFlow"):
        mr.export.verify(path, flex, np.ones((2, 5, 3)))


# What is asked for wrongly


def test_without_litert_the_extra_is_named(student, file, monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    with pytest.raises(ImportError, match=r"pip install 'modreduce-keras\[export\]'"):
        mr.export.verify(file, student, DATA)


def test_the_extra_brings_litert(monkeypatch):
    given = {}
    monkeypatch.setattr("setuptools.setup", given.update)
    monkeypatch.setattr("setuptools.find_packages", lambda **_: [])
    runpy.run_path(str(Path(mr.__file__).parents[1] / "setup.py"))
    extras = {name: set(packages) for name, packages in given["extras_require"].items()}
    assert extras["export"] == {"ai-edge-litert<3"}
    assert extras["export"] <= extras["demo"] <= extras["test"]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"least_agreement": 1.5}, "least_agreement must be from 0 to 1. Received"),
        ({"least_agreement": "97 %"}, "least_agreement must be from 0 to 1. Received"),
        ({"threads": 0}, "threads must be a positive integer. Received: threads=0"),
        ({"batch_size": 2.5}, "batch_size must be a positive integer. Received"),
        ({"repeats": True}, "repeats must be a positive integer. Received"),
    ],
)
def test_numbers_out_of_range(arguments, match, student, file):
    with pytest.raises(ValueError, match=match):
        mr.export.verify(file, student, DATA, **arguments)


def test_paths_that_are_no_files(student, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"path must be a file. Received.*there is none"):
        mr.export.verify(tmp_path / "a.tflite", student, DATA)
    with pytest.raises(ValueError, match=r"a TFLite file.*or a SavedModel.*a folder without"):
        mr.export.verify(tmp_path, student, DATA)
    with pytest.raises(TypeError, match=r"path must be a string or a pathlib.Path. Received"):
        mr.export.verify(None, student, DATA)


def test_a_distiller_is_not_its_student(student, file):
    distiller = mr.Distiller(
        student=student, teacher=linear(SWAPPED, name="teacher"), knowledge=[mr.Response("kd")]
    )
    with pytest.raises(ValueError, match=r"distiller\.student"):
        mr.export.verify(file, distiller, DATA)
    assert mr.export.verify(file, distiller.student, DATA, repeats=1).agreement == 1.0


ENDLESS = tf.data.Dataset.from_tensors((DATA, LABELS)).repeat()


@pytest.mark.parametrize(
    ("data", "match", "error"),
    [
        (None, "data must be a dataset of batches.*Received: data of type NoneType", TypeError),
        ("folder", "data must be a dataset of batches.*of type str", TypeError),
        ({"features": "x"}, "data must be a dataset of batches.*of type dict", TypeError),
        (ENDLESS, r"data must end: dataset.take", ValueError),
        (DATA[:0], "data must have samples. Received: none", ValueError),
        ([], "data must have samples. Received: none", ValueError),
        (np.ones((4, 5), "float32"), r"shape \(None, 3\).*Received: \(4, 5\)", ValueError),
        (DATA[0], r"shape \(None, 3\).*Received: \(3,\)", ValueError),
        ({"features": DATA}, r"shape \(None, 3\).*Received: {'features': \(4, 3\)}", ValueError),
        ([(DATA, LABELS, 1, 1)], "A tuple of data must be.*a tuple of 4", ValueError),
        (np.ones((4, 3), "uint8"), "take float inputs. Received: x of dtype uint8", ValueError),
        ((DATA, LABELS[:3]), r"equal numbers of samples. Received: \[3, 4\]", ValueError),
        ((DATA, LABELS + 1), r"class indices from 0 to 2.*Received: y with \[3\]", ValueError),
        ((DATA, LABELS + 255), r"ignore_class= leaves.*x alone.*Received: y with \[25", ValueError),
        ((DATA, np.ones((4, 2))), r"\(4,\) or one-hot \(4, 3\).*\(4, 2\)", ValueError),
    ],
)
def test_data_that_do_not_fit(data, match, error, student, file):
    with pytest.raises(error, match=match):
        mr.export.verify(file, student, data)


def test_one_number_without_labels_may_be_a_logit_or_not(tmp_path):
    student = linear(np.ones((3, 1)))
    path = mr.export.to_tflite(student, tmp_path / "a.tflite")
    with pytest.raises(ValueError, match=r"kind='logit' or kind='regr.*output of shape \(4, 1\)"):
        mr.export.verify(path, student, DATA)
    for kind in ("logit", "regression"):
        assert mr.export.verify(path, student, DATA, kind=kind, repeats=1).agreement == 1.0
