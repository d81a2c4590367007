"""The example of a parallel search at its smallest size: a worker killed, and gone on with."""

import csv
import os
import re
import signal
import time
from pathlib import Path

import keras
import pytest

import modreduce_keras as mr
from tests.support import programs

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).parents[2] / "examples" / "tune_parallel.py"


def test_a_search_ends_with_a_killed_worker_and_goes_on_to_its_student(tmp_path):
    tiny = ("--epochs=1", "--images=64", "--trials=2", f"--output={tmp_path}")
    running = programs.Program(PROGRAM, *tiny)
    try:
        worker = None
        while worker is None and running.is_running():
            time.sleep(0.1)
            worker = child(running.pid, b"KERASTUNER_TUNER_ID=worker_1")
        os.kill(worker, signal.SIGKILL)
        early = running.ended(300)
    finally:
        running.kill()
    assert early.returncode == 1
    assert "Ended early: worker_1. Run the command again, and the search goes on." in early.stderr
    assert not (tmp_path / "trials.csv").exists()

    done = programs.run(PROGRAM, *tiny, timeout=300)
    assert done.returncode == 0, done.stderr
    table = [line for line in done.stdout.splitlines() if line[:2] == "| "]
    assert len(table) == 3
    assert table[0].startswith("| trial | status | val_accuracy |")
    with (tmp_path / "trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["trial"] for row in rows) == ["0", "1"]
    assert {row["status"] for row in rows} == {"COMPLETED"}
    student = keras.saving.load_model(tmp_path / "student.keras")
    images, classes = mr.data.load_sample()[1]
    accuracy = 100 * (student.predict(images, verbose=0).argmax(axis=1) == classes).mean()
    shown = re.search(r"best student: ([\d.]+) %", done.stdout)
    assert float(shown[1]) == pytest.approx(accuracy, abs=0.051)


def child(parent, variable):
    """Returns a process that another has started with a variable of the environment."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            started_by = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            if started_by == parent and variable in (process / "environ").read_bytes():
                return int(process.name)
        except (OSError, ValueError):
            continue
    return None
