"""The cross-modal example at its smallest size: the dye, the table and a student without colour."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from absl import flags

import modreduce_keras as mr
from tests.support import programs

PROGRAM = Path(__file__).parents[2] / "examples" / "cross_modal.py"

pytestmark = pytest.mark.slow

CLASSIFIES_GREY_WITHOUT_US = """
import sys, keras, numpy
student = keras.saving.load_model(sys.argv[1])
images = numpy.load(sys.argv[2])
assert images.shape[1:] == (28, 28, 1)
print(student.predict(images, verbose=0).argmax(axis=1).tolist())
assert "modreduce_keras" not in sys.modules
"""


def python(*arguments):
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("cross_modal", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    # Examples may name their flags alike, which absl forbids within one process.
    with mock.patch.multiple(flags, DEFINE_integer=mock.DEFAULT, DEFINE_string=mock.DEFAULT):
        spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cross_modal") / "results"
    tiny = ("--epochs=1", "--teacher_epochs=1", "--seeds=1", "--pairs=256", "--labels=128")
    return folder, programs.printed(PROGRAM, *tiny, f"--output={folder}")


def test_the_largest_channel_is_the_sample(example):
    for images, sample in zip(example.load_data(10_000), mr.data.load_sample(), strict=True):
        assert images.colour.shape == (len(sample[0]), 28, 28, 3)
        assert images.colour.dtype == np.float32
        assert images.colour.min() == 0
        np.testing.assert_array_equal(images.colour.max(axis=-1, keepdims=True), sample[0])
        np.testing.assert_array_equal(images.grey, sample[0])
        np.testing.assert_array_equal(images.classes, sample[1])


def test_the_dye_depends_on_the_seed_alone(example):
    grey, classes = np.ones((50, 2, 2, 1), "float32"), np.arange(50) % 10
    first, again, other = (example.dye(grey, classes, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01


def test_a_hue_without_noise_is_a_tenth_of_the_circle_per_class(example, monkeypatch):
    monkeypatch.setattr(example, "HUE_NOISE", 0.0)
    colours = example.dye(np.ones((3, 1, 1, 1), "float32"), np.array([0, 5, 9]), 0)
    np.testing.assert_allclose(
        colours[:, 0, 0], [[1, 0, 0], [0, 1, 1], [1, 0, 0.6]], rtol=0, atol=1e-6
    )


def test_a_hue_names_two_classes_in_three(example):
    _, test = example.load_data(1)
    brightest = test.grey.reshape(len(test.grey), -1).argmax(axis=1)
    pixels = test.colour.reshape(len(test.grey), -1, 3)[np.arange(len(test.grey)), brightest]
    angle = np.angle(pixels @ np.exp(2j * np.pi * np.arange(3) / 3)) / (2 * np.pi)
    named = np.round(10 * angle) % 10
    assert 0.6 < (named == test.classes).mean() < 0.75


def test_prints_a_row_for_each_method(run):
    _, printed = run
    rows = [line.strip("| ").split(" | ") for line in printed.splitlines() if line[:2] == "| "]
    assert rows[0] == ["method", "sees", "test accuracy, %", "parameters"]
    assert [row[:2] for row in rows[1:]] == [
        ["Teacher, colour", "colour"],
        ["Teacher, grey", "grey"],
        ["Student alone", "grey"],
        ["Student of the colour teacher", "grey"],
        ["Student of the grey teacher", "grey"],
    ]
    for row in rows[1:]:
        assert 0 < float(row[2]) <= 100
    sizes = [int(row[3].replace(",", "")) for row in rows[1:]]
    assert sizes[0] > sizes[1] > sizes[2] == sizes[3] == sizes[4]


def test_a_row_is_the_mean_over_seeds_with_the_deviation(example, capsys):
    model = example.network(1, (4,), "student")
    seeds = [example.Result("Student", "grey", model, percent) for percent in (70.0, 72.0, 77.0)]
    example.print_table(seeds)
    assert "| Student | grey | 73.0 ± 3.6 | 102 |" in capsys.readouterr().out


def test_the_saved_student_sees_grey_without_our_library(run, tmp_path):
    folder, printed = run
    images, classes = mr.data.load_sample()[1]
    np.save(tmp_path / "grey.npy", images)
    named = python(
        "-c", CLASSIFIES_GREY_WITHOUT_US, folder / "student.keras", tmp_path / "grey.npy"
    )
    percent = 100 * np.mean(np.array(json.loads(named)) == classes)
    said = re.search(r"grey images of shape \(28, 28, 1\): ([\d.]+) %", printed)
    assert float(said[1]) == pytest.approx(percent, abs=0.051)
    first = re.search(r"Student of the colour teacher: ([\d.]+) %", printed)
    assert said[1] == first[1]
