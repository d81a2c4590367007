"""The deployment example at its smallest size: five files, each of them its model."""

from pathlib import Path

import keras
import pytest

import modreduce_keras as mr
from tests.support import programs

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).parents[2] / "examples" / "deploy_tflite.py"


def run(folder, *arguments):
    printed = programs.printed(PROGRAM, f"--output={folder}", *arguments)
    lines = [line.strip("| ").split(" | ") for line in printed.splitlines() if line[:2] == "| "]
    return printed, lines


def test_exports_what_it_trains_in_four_precisions(tmp_path):
    tiny = (
        "--epochs=8",
        "--rounded_epochs=1",
        "--teacher_epochs=1",
        "--images=1000",
        "--widths=8,16,32",
    )
    printed, (head, *rows) = run(tmp_path / "files", *tiny)
    assert head[:2] == ["file", "size, KiB"]
    names = ["float32", "float16 weights", "int8 weights", "int8", "int8, distilled on"]
    assert [row[0] for row in rows] == names
    assert "of 2,000 test images" in printed
    files = ("float32", "float16", "dynamic", "int8", "int8_distilled")
    for row, name in zip(rows, files, strict=True):
        size = (tmp_path / "files" / f"student_{name}.tflite").stat().st_size
        assert float(row[1]) == pytest.approx(size / 1024, abs=0.051)
        assert float(row[2]) > 0
        assert 0 < float(row[3]) <= 100
        assert 97 <= float(row[4]) <= 100
    assert float(rows[0][4]) == 100


def test_exports_a_saved_student(tmp_path):
    student = mr.models.get("convnet", num_classes=10, widths=(8, 16, 32), name="mine")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    student.compile(keras.optimizers.Adam(1e-2), loss)
    (images, classes), (test_images, test_classes) = mr.data.load_sample()
    student.fit(images[:4000], classes[:4000], epochs=2, verbose=0)
    student.save(tmp_path / "mine.keras")
    printed, (_, *rows) = run(
        tmp_path / "files", f"--student={tmp_path / 'mine.keras'}", "--rounded_epochs=1"
    )
    assert f"Student 'mine': {student.count_params():,} parameters" in printed
    accuracy = (student.predict(test_images, verbose=0).argmax(axis=1) == test_classes).mean()
    assert float(rows[0][3]) == pytest.approx(100 * accuracy, abs=0.051)
