"""The example of shared weights at its smallest size: its students are what their rows say."""

from pathlib import Path

import keras
import numpy as np
import pytest

from tests.support import programs

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).parents[2] / "examples" / "share_weights.py"


def test_makes_clustered_and_tied_students(tmp_path):
    tiny = ("--epochs=2", "--more_epochs=1", "--teacher_epochs=1", "--images=256", "--units=16")
    printed = programs.printed(PROGRAM, f"--output={tmp_path}", "--clusters=4", *tiny)
    lines = [line.strip("| ").split(" | ") for line in printed.splitlines() if line[:2] == "| "]
    rows = {name: [float(one.replace(",", "")) for one in cells] for name, *cells in lines[1:]}
    assert list(rows) == ["student", "4 clusters", "tied layers"]
    _, weights, _, whole, zipped = rows["student"]
    assert rows["4 clusters"][1:3] == [weights, 4]
    assert rows["4 clusters"][4] < 0.5 * zipped
    assert rows["tied layers"][1] == weights - 3 * (16 * 16 + 16)
    assert rows["tied layers"][3] < whole
    clustered = keras.saving.load_model(tmp_path / "4_clusters.keras")
    kernels = [np.asarray(one) for one in clustered.weights if one.name == "kernel"]
    assert max(np.unique(one).size for one in kernels) == 4
    tied = keras.saving.load_model(tmp_path / "tied_layers.keras")
    assert tied.count_params() == rows["tied layers"][1]
