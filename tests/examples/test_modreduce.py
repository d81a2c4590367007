"""The ModReduce example at its smallest size: every student is told, and the best one is saved."""

import re
from pathlib import Path

import keras
import pytest

import modreduce_keras as mr
from tests.support import programs

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).parents[2] / "examples" / "modreduce.py"
ROWS = [
    ["teacher", "labels"],
    ["alone", "labels"],
    ["response", "labels, KD, group"],
    ["feature", "labels, KD, SemCKD, group"],
    ["relation", "labels, KD, CRD, group"],
    ["ensemble of the three", ""],
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("modreduce") / "results"
    tiny = ("--epochs=1", "--teacher_epochs=1", "--labels=100", f"--output={folder}")
    return folder, programs.printed(PROGRAM, *tiny)


def test_prints_a_row_for_each_network(run):
    _, printed = run
    lines = [line for line in printed.splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert rows[0] == ["network", "taught by", "validation accuracy, %", "test accuracy, %"]
    assert [row[:2] for row in rows[1:]] == ROWS
    assert all(0 < float(cell) <= 100 for row in rows[1:] for cell in row[2:])


def test_saves_the_best_student_in_validation(run):
    folder, printed = run
    best = re.search(r"Best in validation: (\w+), saved as", printed)[1]
    rows = [line.strip("| ").split(" | ") for line in printed.splitlines() if line[:2] == "| "]
    validated = {row[0]: float(row[2]) for row in rows if "group" in row[1]}
    assert set(validated) == {"response", "feature", "relation"}
    assert validated[best] == max(validated.values())
    student = keras.saving.load_model(folder / "student.keras")
    assert student.name == best
    images, classes = mr.data.load_sample()[1]
    accuracy = 100 * (student.predict(images, verbose=0).argmax(axis=1) == classes).mean()
    (shown,) = [float(row[3]) for row in rows if row[0] == best]
    assert shown == pytest.approx(accuracy, abs=0.051)
