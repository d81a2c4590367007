"""The soak runs and notes what it says, and fails where memory grows or something is retraced."""

from pathlib import Path

import numpy as np
import pytest

from tests.support import programs

pytestmark = pytest.mark.slow

SIZES = ["--steps=200", "--epochs=4", "--settling=1", "--batch=8", "--limit=300"]
SOAK, LEAKING = "benchmarks.checks.soak", "tests.support.trainings.leaking_soak"
ROOT = Path(__file__).parents[3]


def run(module, folder):
    """Runs a short soak in a process of its own."""
    files = [f"--output={folder / 'soak.jsonl'}", f"--figure={folder / 'soak.png'}"]
    return programs.run(module, *SIZES, *files, folder=ROOT)


def the_row(folder):
    from benchmarks import common

    (row,) = common.read_rows(folder / "soak.jsonl")
    return row


def test_steps_memory_and_traces_are_noted(tmp_path):
    ended = run(SOAK, tmp_path)
    assert ended.returncode == 0, ended.stderr
    row = the_row(tmp_path)
    assert (row["steps"], row["epochs"], row["samples"]) == (200, 4, 396)
    curve = row["curve"]
    assert curve["step"] == [50, 100, 150, 200]
    for name in ("mib", "given_out_mib"):
        own = curve[name]
        told = [row[f"{name}_{which}"] for which in ("first", "median", "last")]
        assert told == pytest.approx([own[0], np.median(own), own[-1]], abs=0.1)
        line = np.polyfit([0.1, 0.15, 0.2], own[1:], 1)
        # The curve is rounded to a tenth of a MiB, over a tenth of a thousand steps.
        assert row[f"{name}_per_1000_steps"] == pytest.approx(line[0], abs=1.1)
    # Both shapes of a batch, and what the callbacks ask of the distiller: all in the first epoch.
    assert row["traces"] == row["traces_first_epoch"]
    assert all(row["traces"].values())
    # What TensorFlow and Keras take by themselves is in it.
    assert 100 < row["given_out_mib_first"] < row["mib_first"] < 3000
    assert min(curve["variables"]) == max(curve["variables"]) > 100
    assert (tmp_path / "soak.png").read_bytes().startswith(b"\x89PNG")


def test_a_leak_and_a_retraced_function_are_found(tmp_path):
    ended = run(LEAKING, tmp_path)
    assert ended.returncode == 1
    row = the_row(tmp_path)
    # A MiB in each step, beside what a first epoch takes and gives back.
    for name in ("mib", "given_out_mib"):
        assert row[f"{name}_per_1000_steps"] == pytest.approx(1000, rel=0.4)
    assert row["traces"]["test_step"] == row["traces_first_epoch"]["test_step"] + 1
    assert row["traces"]["train_step"] == row["traces_first_epoch"]["train_step"]
    message = ended.stderr
    assert "resident memory grows by" in message
    assert "memory given out grows by" in message
    assert "traced after the first epoch: {'test_step': 1, 'forward_pass': 1}" in message
