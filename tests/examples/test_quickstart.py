"""The quick start at its smallest size: everything it promises to print and to save is there."""

import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "examples" / "quickstart.py"
METHODS = ("Teacher", "Student alone", "Student with KD", "ModReduce, best student")

pytestmark = pytest.mark.slow

LOADS_WITHOUT_US = """
import sys, keras, numpy
student = keras.saving.load_model(sys.argv[1])
assert "modreduce_keras" not in sys.modules
assert student(numpy.zeros((2, 28, 28, 1), "float32")).shape == (2, 10)
"""


def python(*arguments):
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quickstart") / "results"
    tiny = ("--epochs=1", "--teacher_epochs=1", "--seeds=1", "--labels=200")
    return folder, python(PROGRAM, *tiny, f"--output={folder}")


def test_prints_a_row_for_each_method(run):
    _, printed = run
    rows = [line.strip("| ").split(" | ") for line in printed.splitlines() if line[:2] == "| "]
    assert rows[0] == ["method", "test accuracy, %", "parameters", "training, s"]
    for method in METHODS:
        (row,) = [row for row in rows if row[0].startswith(method)]
        assert 0 < float(row[1]) <= 100
        assert int(row[2].replace(",", "")) > 0
        assert float(row[3]) > 0


def test_shows_a_bar_for_each_training(run):
    _, printed = run
    assert "accuracy: " in printed
    assert "━" in printed


@pytest.mark.parametrize("name", ["learning_curves.png", "aggregator_weights.png"])
def test_draws_pictures(run, name):
    folder, _ = run
    png = (folder / name).read_bytes()
    width, height = struct.unpack(">II", png[16:24])
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert width >= 800
    assert height >= 400
    assert len(png) > 10_000


def test_saved_student_is_plain_keras(run):
    folder, _ = run
    python("-c", LOADS_WITHOUT_US, folder / "student.keras")


@pytest.mark.parametrize(("name", "agrees"), [("student", 99), ("student_int8", 50)])
def test_files_agree_with_keras(run, name, agrees):
    folder, printed = run
    (line,) = [line for line in printed.splitlines() if line.startswith(f"{name}.tflite: ")]
    assert float(re.search(r"agreement with Keras ([\d.]+) % of 2,000 images", line)[1]) >= agrees
    size = (folder / f"{name}.tflite").stat().st_size
    assert float(re.search(r": ([\d.]+) KiB", line)[1]) == pytest.approx(size / 1024, abs=0.051)


def test_int8_is_three_and_a_half_times_smaller(run):
    folder, _ = run
    full, small = (folder / "student.tflite").stat(), (folder / "student_int8.tflite").stat()
    assert full.st_size >= 3.5 * small.st_size


def test_report_holds_what_was_printed(run):
    folder, printed = run
    assert f"Report: {folder}/report.html, {folder}/report.md" in printed
    page = (folder / "report.html").read_text("utf-8")
    text = (folder / "report.md").read_text("utf-8")
    for method in METHODS[1:]:
        (row,) = [line for line in text.splitlines() if line.startswith(f"| {method} |")]
        (printed_row,) = [line for line in printed.splitlines() if line.startswith(f"| {method} |")]
        right, unit = row.split(" | ")[1].split()
        assert (float(right), unit) == (
            pytest.approx(float(printed_row.split(" | ")[1]), abs=0.11),
            "%",
        )
        assert method in page
    for name in ("student.tflite", "student_int8.tflite"):
        (row,) = [line for line in text.splitlines() if line.startswith(f"| {name} (of ")]
        file = re.search(rf"{name}: ([\d.]+ KiB), test accuracy ([\d.]+) %", printed)
        assert file[1] in row
        assert float(row.split(" | ")[1][:-2]) == pytest.approx(float(file[2]), abs=0.11)
    assert "validation accuracy after each epoch" in text
    assert len(list((folder / "report_files").glob("*.png"))) > 12
