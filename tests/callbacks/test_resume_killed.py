"""A ModReduce run, killed at 20 random moments and a checkpoint torn, ends as one left alone."""

import signal

import numpy as np
import pytest

from tests.support import programs
from tests.support.trainings import killed

pytestmark = pytest.mark.slow

KILLS = 5


def run(*arguments):
    """Runs the training in a process and returns how that ended."""
    process = programs.processes.Process(target=killed.run, args=arguments)
    process.start()
    process.join()
    return process.exitcode


def result(path):
    with np.load(path) as arrays:
        return {name: arrays[name].tobytes() for name in arrays}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("once")
    assert run(folder / "run", folder / "final.npz", "epoch") == 0
    with np.load(folder / "final.npz") as arrays:
        assert all(np.isfinite(arrays[name]).all() for name in arrays)
    return result(folder / "final.npz")


@pytest.mark.parametrize("seed", range(4))
def test_the_final_state_is_bit_identical(seed, uninterrupted, tmp_path):
    random = np.random.default_rng(seed)
    moments = list(random.permutation([*killed.MOMENTS, "time"]))
    assert len(moments) == KILLS
    every = 1 if seed % 2 else 2
    output = tmp_path / "final.npz"
    for moment in moments:
        amount = float(random.uniform()) * (0.3 if moment == "step" else 1.0)
        ended = run(tmp_path / "run", output, every, str(moment), amount)
        assert ended == -signal.SIGKILL, f"not killed by {moment} {amount}"
    older, newest = sorted((tmp_path / "run").glob("*.checkpoint"))[-2:]
    newest.write_bytes(newest.read_bytes()[: older.stat().st_size // 3])
    assert run(tmp_path / "run", output, every) == 0
    assert result(output) == uninterrupted
