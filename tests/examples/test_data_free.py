"""The example without data at its smallest size: its table, pictures and students."""

from pathlib import Path

import keras
import numpy as np
import pytest

from tests.support import programs

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).parents[2] / "examples" / "data_free.py"


def test_prints_a_table_and_saves_pictures_and_students(tmp_path):
    tiny = ["--teacher=4,4", "--student=4", "--images=64", "--teacher_epochs=1", "--epochs=2"]
    tiny += ["--steps=2", "--width=2", "--inverted=4", "--inversion_steps=2"]
    methods = [f"--method={name}" for name in ("zskt", "dafl", "deep_inversion")]
    printed = programs.printed(PROGRAM, *tiny, *methods, f"--output={tmp_path}")
    rows = [line.strip("| ").split(" | ") for line in printed.splitlines() if "|" in line]
    names = ["teacher", "noise", "zskt", "dafl", "deep_inversion"]
    assert [row[0] for row in rows] == ["student learns on", "---|---", *names]
    assert all(0.0 <= float(row[1]) <= 100.0 for row in rows[2:])
    for method in ("zskt", "dafl"):
        pictures = sorted(path.name for path in (tmp_path / method).iterdir())
        assert pictures == ["epoch_0001.png", "epoch_0002.png"]
    with np.load(tmp_path / "deep_inversion.npz") as file:
        assert file["images"].shape == (4, 28, 28, 1)
    student = keras.saving.load_model(tmp_path / "zskt.keras")
    assert student.output_shape == (None, 10)
