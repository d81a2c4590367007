"""The pruning example at its smallest size: each student, and its file, is what its row says.

What makes students smaller has tests of its own; here are some of the ways.
"""

from pathlib import Path

import keras
import numpy as np
import pytest

from tests.support import programs

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).parents[2] / "examples" / "prune.py"
TINY = (
    *("--epochs=8", "--more_epochs=2", "--teacher_epochs=1", "--images=1000", "--widths=8,8,16"),
    *("--way=zeros", "--way=channels"),
)


def test_makes_smaller_students_and_their_files(tmp_path):
    printed = programs.printed(PROGRAM, f"--output={tmp_path}", *TINY)
    lines = [line.strip("| ").split(" | ") for line in printed.splitlines() if line[:2] == "| "]
    rows = {name: [float(one.replace(",", "")) for one in cells] for name, *cells in lines[1:]}
    assert list(rows) == ["student", "80 % zeros", "fewer channels"]
    accuracy, whole, _, zipped, _ = rows["student"]
    assert accuracy > 40
    assert all(row[0] > 30 for row in rows.values())
    assert rows["fewer channels"][1] <= 0.5 * whole
    assert rows["80 % zeros"][1] == whole
    assert rows["80 % zeros"][3] < 0.75 * zipped
    plain = keras.models.load_model(tmp_path / "pruned.keras")
    kernels = [np.asarray(one) for one in plain.weights if one.name == "kernel"]
    zeros = [round(0.8 * kernel.size) for kernel in kernels]
    assert [(kernel == 0).sum() for kernel in kernels] == zeros
