"""A teacher cache, whose writer is killed at 10 random moments, is that of one left alone."""

import signal
from pathlib import Path

import numpy as np
import pytest

from modreduce_keras.data import shards
from tests.support import programs
from tests.support.trainings import killed_writer
from tests.support.trainings.cached import outputs_of

pytestmark = pytest.mark.slow

KILLS = 5


def run(*arguments):
    process = programs.processes.Process(target=killed_writer.run, args=arguments)
    process.start()
    process.join()
    return process.exitcode


def rows(folder):
    """Returns what is stored, by view and sample."""
    found = {}
    for path in killed_writer.existing(folder):
        shard = shards.read(path)
        for place, sample in enumerate(shard.samples.tolist()):
            assert (shard.view, sample) not in found
            outputs = [output[place].tobytes() for output in outputs_of(shard)]
            found[shard.view, sample] = (int(shard.checksums[place]), *outputs)
    return found


def test_processes_that_fill_one_cache_at_once_never_fall(tmp_path):
    """From nothing; and where what was written before is damaged in every way."""
    folder, expected = tmp_path / "cache", None
    for damages in ([], ["cache.json"], ["view-0000.complete", "*.shard"], ["*"]):
        for pattern in damages:
            for path in folder.glob(pattern):
                path.write_bytes(path.read_bytes()[:-3])
        several = [
            programs.processes.Process(target=killed_writer.run, args=(folder,)) for _ in range(3)
        ]
        for process in several:
            process.start()
        for process in several:
            process.join()
        assert [process.exitcode for process in several] == [0, 0, 0]
        found = {}
        for path in killed_writer.existing(folder):
            shard = shards.read(path)
            for place, sample in enumerate(shard.samples.tolist()):
                values = [output[place].tobytes() for output in outputs_of(shard)]
                # Two processes may have computed it, alike.
                assert found.setdefault((shard.view, sample), values) == values
        assert len(found) == killed_writer.VIEWS * killed_writer.SAMPLES
        assert expected is None or found == expected
        expected = found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("once") / "cache"
    assert run(folder) == 0
    found = rows(folder)
    assert len(found) == killed_writer.VIEWS * killed_writer.SAMPLES
    return found


@pytest.mark.parametrize("seed", range(2))
def test_nothing_is_lost_but_the_unfinished_shard(seed, undisturbed, tmp_path):
    random, folder = np.random.default_rng(seed), tmp_path / "cache"
    before, kills = {}, 0
    while kills < KILLS:
        moment = ["time", "writing"][kills % 2]
        assert run(folder, moment, float(random.uniform())) == -signal.SIGKILL
        kills += 1
        after = rows(folder)
        # What was stored stays, bit by bit, and what is stored is right.
        assert before.items() <= after.items() <= undisturbed.items()
        before = after
    unfinished = len(list(folder.glob("*.unfinished")))
    assert 0 < len(before) < len(undisturbed)
    assert unfinished <= KILLS
    assert run(folder) == 0
    assert rows(folder) == undisturbed
    there, ran = map(int, Path(f"{folder}.ran").read_text().split())
    assert (there, ran) == (len(before), len(undisturbed) - len(before))
