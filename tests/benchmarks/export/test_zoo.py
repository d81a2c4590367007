"""The benchmark of exports: a row for each file, whose figures are those of the files."""

import keras
import numpy as np
import pytest

import modreduce_keras as mr

pytestmark = pytest.mark.slow

TINY = ["--steps=2", "--batch=8", "--representative=32", "--images=20", "--repeats=2"]


@pytest.fixture
def zoo(tmp_path):
    from benchmarks.export import zoo

    zoo.FLAGS(["zoo", *TINY, f"--output={tmp_path / 'rows.jsonl'}"])
    return zoo


def test_a_row_for_each_file(zoo, tmp_path, capsys):
    from benchmarks import common

    zoo.FLAGS.network = ["convnet"]
    zoo.main(None)
    rows = {row["file"]: row for row in common.read_rows(tmp_path / "rows.jsonl")}
    assert list(rows) == ["float32", "float16", "dynamic", "int8"]
    full, parameters = rows["float32"], mr.models.get("convnet", num_classes=10).count_params()
    for row in rows.values():
        assert (row["network"], row["parameters"]) == ("convnet", parameters)
        assert row["ratio_to_float32"] == pytest.approx(full["bytes"] / row["bytes"], abs=1e-4)
        # Counts of 20 images.
        counts = [20 * row[name] for name in ("agreement", "accuracy", "keras_accuracy")]
        np.testing.assert_allclose(counts, np.round(counts), atol=1e-6)
        assert (row["steps"], row["images"], row["threads"], row["seed"]) == (2, 20, 1, 0)
        assert row["ms"] > 0
    assert full["agreement"] == 1.0
    assert full["largest_difference"] < 1e-4 < rows["float16"]["largest_difference"]
    assert rows["int8"]["ratio_to_float32"] > rows["float16"]["ratio_to_float32"] > 1.8
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_all_networks_of_the_zoo_unless_told_otherwise(zoo, monkeypatch):
    named = []
    monkeypatch.setattr(zoo, "trained", lambda name, *data: named.append(name))
    monkeypatch.setattr(zoo, "measure", lambda *_: [])
    zoo.main(None)
    assert {"convnet", "resnet8", "resnet110", "resnet8x4", "resnet32x4"} <= set(named)
    assert len(named) == len(set(named)) >= 10


def test_networks_take_the_statistics_of_a_batch(zoo):
    images = np.random.default_rng(0).normal(3.0, 2.0, (64, 28, 28, 1)).astype("float32")
    model = zoo.trained("convnet", images, np.arange(64) % 10)
    before = keras.Model(model.input, model.get_layer("stage1_conv").output)(images)
    moving = model.get_layer("stage1_norm").moving_mean
    np.testing.assert_allclose(moving, np.mean(before, (0, 1, 2)), atol=1e-4)
