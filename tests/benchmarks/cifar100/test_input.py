"""The benchmark of CIFAR-100's input runs on made-up images, and its rows fit together."""

import sys

import numpy as np
import pytest

from modreduce_keras.data import cifar

pytestmark = pytest.mark.slow


def test_rows_of_pipelines_and_students(monkeypatch, random):
    from benchmarks.cifar100 import input as benchmark

    images = random.integers(0, 256, size=(400, 32, 32, 3), dtype="uint8")
    labels = np.repeat(np.arange(100), 4)
    monkeypatch.setattr(cifar, "_load", lambda part, data_dir, download: (images, labels))
    monkeypatch.setattr(benchmark.mr.data, "cifar100", small(cifar.cifar100))
    command = ["x", "--student=resnet8", "--batch=8", "--batches=5", "--rounds=2", "--steps=2"]
    monkeypatch.setattr(sys, "argv", command)
    benchmark.FLAGS(command)
    rows = benchmark.measure()
    assert [row["contender"] for row in rows] == ["1 view", "2 views", "resnet8"]
    assert [row.get("ratio_to") for row in rows] == ["resnet8", "resnet8", None]
    assert rows[0]["wanted"] == 10.0
    # Two rounds: the median of the ratios is their mean, between those of the extremes.
    for row in rows[:2]:
        assert row["ratio_p25"] <= row["ratio_median"] <= row["ratio_p75"]
    for row in rows:
        assert row["images_per_second"] == pytest.approx(8000 / row["ms_median"], rel=0.01)


def small(function):
    return lambda **arguments: function(**{**arguments, "validation": 100})
