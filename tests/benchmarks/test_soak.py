"""The soak runs and notes what it says, and fails where memory grows or something is retraced."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow

SIZES = ["--steps=240", "--epochs=6", "--settling=2", "--batch=8", "--limit=200"]
LEAKING = Path(__file__).parents[1] / "support" / "leaking_soak.py"


def run(script, folder):
    """Runs a short soak in a process of its own."""
    files = [f"--output={folder / 'soak.jsonl'}", f"--figure={folder / 'soak.png'}"]
    command = [sys.executable, str(script), *SIZES, *files]
    return subprocess.run(command, check=False, capture_output=True, encoding="utf-8")


def the_row(folder):
    import common

    (row,) = common.read_rows(folder / "soak.jsonl")
    return row


def test_steps_memory_and_traces_are_noted(benchmarks, tmp_path):
    ended = run(benchmarks / "soak.py", tmp_path)
    assert ended.returncode == 0, ended.stderr
    row = the_row(tmp_path)
    assert (row["steps"], row["epochs"], row["samples"]) == (240, 6, 316)
    curve = row["curve"]
    assert curve["step"] == [40, 80, 120, 160, 200, 240]
    assert len(curve["mib"]) == 6
    assert row["mib_first"] == pytest.approx(curve["mib"][0], abs=0.1)
    assert row["mib_last"] == pytest.approx(curve["mib"][-1], abs=0.1)
    assert row["mib_median"] == pytest.approx(np.median(curve["mib"]), abs=0.1)
    line = np.polyfit(np.array(curve["step"][2:]) / 1000, curve["mib"][2:], 1)
    assert row["mib_per_1000_steps"] == pytest.approx(line[0], abs=0.3)
    # Both shapes of a batch, and what the callbacks ask of the distiller: all in the first epoch.
    assert row["traces"] == row["traces_first_epoch"]
    assert all(row["traces"].values())
    # What TensorFlow and Keras take by themselves is in it.
    assert 200 < row["mib_first"] < 3000
    assert min(curve["variables"]) == max(curve["variables"]) > 100
    assert (tmp_path / "soak.png").read_bytes().startswith(b"\x89PNG")


def test_a_leak_and_a_retraced_function_are_found(benchmarks, tmp_path):
    ended = run(LEAKING, tmp_path)
    assert ended.returncode == 1
    row = the_row(tmp_path)
    # A MiB in each step.
    assert row["mib_per_1000_steps"] == pytest.approx(1000, rel=0.1)
    assert row["traces"]["test_step"] == row["traces_first_epoch"]["test_step"] + 1
    assert row["traces"]["train_step"] == row["traces_first_epoch"]["train_step"]
    message = ended.stderr
    assert "memory grows by" in message
    assert "traced after the first epoch: {'test_step': 1, 'forward': 1}" in message
