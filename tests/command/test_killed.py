"""`modreduce distill`, killed and started again on the embedded sample, ends in the same files."""

import json
import signal
import time

import keras
import numpy as np
import pytest

from modreduce_keras import models
from modreduce_keras.command import distill, program
from tests.support import programs

pytestmark = pytest.mark.slow

TIMED = {"milliseconds", "seconds_of_this_start", "out"}


def started(folder, out):
    """Starts `modreduce distill` in a process: two epochs of nine steps."""
    arguments = [
        "distill",
        f"--teacher={folder}/teacher.keras",
        "--student=convnet",
        "--data=fashion_sample",
        "--pixels=0..1",
        "--epochs=2",
        "--batch_size=1024",
        "--checkpoint_every=2",
        "--augment",
        "--formats=int8",
        "--noreport",
        "--least_agreement=0.5",
        f"--out={folder / out}",
    ]
    process = programs.processes.Process(target=run, args=(arguments,))
    process.start()
    return process


def run(arguments):
    raise SystemExit(program.main(arguments))


def content(folder):
    """Returns what a run has written, without times."""
    student = keras.saving.load_model(folder / distill.STUDENT)
    summary = json.loads((folder / distill.SUMMARY).read_text("utf-8"), object_hook=untimed)
    return {
        "config": student.to_json(),
        "weights": [one.tobytes() for one in student.get_weights()],
        "summary": summary,
        **{
            path.name: path.read_bytes()
            for path in [*folder.glob("*.tflite"), folder / distill.HISTORY]
        },
    }


def untimed(part):
    return {name: value for name, value in part.items() if name not in TIMED}


def test_it_ends_in_the_same_files(tmp_path):
    keras.utils.set_random_seed(0)
    models.get("convnet", num_classes=10, widths=(4, 8), name="teacher").save(
        tmp_path / "teacher.keras"
    )
    whole = started(tmp_path, "whole")
    whole.join()
    assert whole.exitcode == 0
    expected = content(tmp_path / "whole")
    assert all(np.isfinite(np.frombuffer(one, "float32")).all() for one in expected["weights"])

    killed = started(tmp_path, "killed")
    checkpoints = tmp_path / "killed" / distill.CHECKPOINTS
    # In the first epoch, after some checkpoints within it.
    while killed.is_alive() and len(list(checkpoints.glob("*.checkpoint"))) < 2:
        time.sleep(0.01)
    killed.kill()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    assert not (tmp_path / "killed" / distill.STUDENT).exists()

    again = started(tmp_path, "killed")
    again.join()
    assert again.exitcode == 0
    found = content(tmp_path / "killed")
    assert set(found) == set(expected)
    assert [name for name in expected if found[name] != expected[name]] == []
    assert sorted(path.name for path in (tmp_path / "killed").iterdir()) == sorted(
        path.name for path in (tmp_path / "whole").iterdir()
    )
