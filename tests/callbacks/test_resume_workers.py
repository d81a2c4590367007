"""One of two workers is killed, both start again, and end as the two that never were."""

import signal

import numpy as np
import pytest

from modreduce_keras.callbacks.checkpoints import Folder
from tests.support import programs
from tests.support.trainings import killed

pytestmark = pytest.mark.slow


def start(folder, kill_in=(None, None)):
    ports = programs.free_ports(2)
    workers = [
        programs.processes.Process(
            target=killed.run_worker,
            args=(index, ports, folder / "run", folder / f"final_{index}.npz", kill_in[index]),
        )
        for index in range(2)
    ]
    for worker in workers:
        worker.start()
    return workers


def results(folder, workers):
    for worker in workers:
        worker.join(180)
    assert [worker.exitcode for worker in workers] == [0, 0]
    states = []
    for index in range(2):
        with np.load(folder / f"final_{index}.npz") as arrays:
            states.append([arrays[name].tobytes() for name in arrays])
    return states


def positions(folder, index):
    return Folder(folder / "run" / f"worker-{index}", 3).positions()


def test_both_begin_with_the_newest_checkpoint_that_both_have(tmp_path):
    once, run = tmp_path / "once", tmp_path / "run"
    once.mkdir()
    run.mkdir()
    expected = results(once, start(once))
    workers = start(run, kill_in=(None, 1))
    workers[1].join(180)
    assert workers[1].exitcode == -signal.SIGKILL
    workers[0].join(180)  # it ends by itself, and says why
    assert workers[0].exitcode == 1
    told = (run / "final_0.txt").read_text()
    assert "Another worker of this training has stopped" in told
    assert "mr.callbacks.Resume" in told
    assert "\n" not in told
    assert positions(run, 0)[-1] == (2, 0)
    assert positions(run, 1)[-1] == (1, 2)
    assert results(run, start(run)) == expected
