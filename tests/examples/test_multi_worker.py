"""The example of several machines, as two workers of this one: one network is saved."""

import re
from pathlib import Path

import keras
import pytest

import modreduce_keras as mr
from tests.support import programs

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).parents[2] / "examples" / "multi_worker.py"


def test_two_workers_save_one_network(tmp_path):
    arguments = [f"--output={tmp_path}", "--images=128", "--epochs=1"]
    done = programs.run(PROGRAM, *arguments, timeout=300)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "workers" in line]
    told = re.fullmatch(r"2 workers, test accuracy ([\d.]+) %, saved as (.*)", line)
    images, classes = mr.data.load_sample()[1]
    logits = keras.saving.load_model(told[2]).predict(images, batch_size=500, verbose=0)
    assert float(told[1]) == pytest.approx(100 * (logits.argmax(axis=1) == classes).mean(), abs=0.1)
    assert Path(told[2]) == tmp_path / "small.keras"
