"""The tuning example at its smallest size: its table, its files, and that it goes on."""

import csv
import re
from pathlib import Path

import keras
import pytest

import modreduce_keras as mr
from tests.support import programs

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).parents[2] / "examples" / "tune_temperature.py"


def run(folder, trials):
    tiny = ("--epochs=1", "--images=64", f"--trials={trials}", f"--output={folder}")
    return programs.printed(PROGRAM, *tiny)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tune") / "results"
    return folder, run(folder, 2), run(folder, 3)


def table(printed):
    return [line.strip("| ").split(" | ") for line in printed.splitlines() if line[:2] == "| "]


def test_prints_and_saves_the_table_of_all_trials(found):
    folder, first, second = found
    assert table(first)[0][:3] == ["trial", "status", "val_accuracy"]
    assert len(table(first)) == 3
    assert len(table(second)) == 4
    with (folder / "trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["trial"] for row in rows) == ["0", "1", "2"]
    assert all(0.1 <= float(row["weight/kd"]) <= 10 for row in rows)
    for name in ("accuracy.png", "parallel.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")


def test_the_second_run_goes_on_with_the_trials_of_the_first(found):
    _, first, second = found
    assert {tuple(row) for row in table(first)} <= {tuple(row) for row in table(second)}


def test_saves_the_best_student_as_a_plain_model(found):
    folder, _, printed = found
    student = keras.saving.load_model(folder / "student.keras")
    images, classes = mr.data.load_sample()[1]
    accuracy = 100 * (student.predict(images, verbose=0).argmax(axis=1) == classes).mean()
    shown = re.search(r"best student: ([\d.]+) %.*: ([\d,]+) parameters", printed)
    assert float(shown[1]) == pytest.approx(accuracy, abs=0.051)
    assert shown[2] == f"{student.count_params():,}"
