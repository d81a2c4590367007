"""The benchmark that kills trainings: when it kills, what it takes for the same end, its rows."""

from pathlib import Path

import pytest

from tests.support.trainings import trainings_to_kill

ROOT = Path(__file__).parents[3]
SHARED = ROOT.parent / "shared"


@pytest.fixture
def kills():
    from benchmarks.cifar100 import kills

    kills.FLAGS(["kills.py"])
    return kills


def outcome(kills, losses, **others):
    return dict.fromkeys(kills.runner.OUTCOME) | {"curve": {"loss": losses}, "test": 0.5} | others


def test_every_published_pair_is_the_default(kills):
    assert kills.FLAGS.pair == list(kills.PUBLISHED)
    assert kills.runner.methods() == ["modreduce/weighted_average"]


def test_a_training_is_killed_when_there_is_a_checkpoint(kills, tmp_path, monkeypatch):
    monkeypatch.setattr(kills, "train", trainings_to_kill.waits_for_its_death)
    assert kills.run(tmp_path, "vgg13:vgg8", "kd", kill=True) == [0, 1]
    assert kills.newest(tmp_path) == (1, 0)


def test_one_that_ends_goes_on_to_its_end(kills, tmp_path, monkeypatch):
    monkeypatch.setattr(kills, "train", trainings_to_kill.ends)
    assert kills.run(tmp_path, "vgg13:vgg8", "kd") == [0, 1, 2]


@pytest.mark.parametrize(
    ("training", "kill", "message"),
    [
        ("ends", True, r"vgg13_vgg8\.txt was to be killed with kd, and ended with exit code 0"),
        ("fails", True, "was to be killed with kd, and ended with exit code 3"),
        ("fails", False, "was to end well with kd, and ended with exit code 3"),
    ],
)
def test_one_that_is_not_killed_or_fails_is_an_error(
    kills, tmp_path, monkeypatch, training, kill, message
):
    monkeypatch.setattr(kills, "train", getattr(trainings_to_kill, training))
    with pytest.raises(RuntimeError, match=message):
        kills.run(tmp_path, "vgg13:vgg8", "kd", kill)


def test_losses_may_differ_a_little_and_accuracies_not_at_all(kills):
    whole = outcome(kills, [4.0, 2.0])
    assert kills.difference(whole, whole) == 0.0
    assert kills.difference(whole, outcome(kills, [4.0, 2.0001])) == pytest.approx(5e-5)
    for other in (
        outcome(kills, [4.0, 2.01]),
        outcome(kills, [2.0]),
        outcome(kills, [4.0, 2.0], test=0.25),
        outcome(kills, [4.0, 2.0], diverged=2),
    ):
        with pytest.raises(RuntimeError, match="went on to another end"):
            kills.difference(whole, other)


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared data")
def test_a_published_pair_is_killed_and_goes_on(kills, monkeypatch):
    monkeypatch.chdir(ROOT)
    kills.FLAGS(["kills.py", f"--data_dir={SHARED / 'tfds'}"])
    row = kills.measure("vgg13:vgg8", "kd")
    assert (row["steps"], row["samples"], row["begun"][0]) == (6, 100, 1)
    left = row["steps_before"] // 2  # epochs whose checkpoints were there
    assert left in (1, 2)
    assert row["begun_again"] == list(range(left + 1, 4))
    assert row["difference"] <= 1e-6
