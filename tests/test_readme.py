"""The README's Python blocks run as they stand, given models and data of tiny size."""

import re
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr

README = Path(__file__).parents[1] / "README.md"
SIZES = {"epochs=240": "epochs=2", "batch(64": "batch(4", "max_trials=20": "max_trials=1"}
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)


@pytest.fixture
def namespace():
    """What the README takes for granted: models, data and their length."""

    def net(width=4):
        widths = (width, width)
        return mr.models.get("convnet", num_classes=3, widths=widths, input_shape=(8, 8, 1))

    images = np.random.default_rng(0).normal(size=(8, 8, 8, 1)).astype("float32")
    samples = tf.data.Dataset.from_tensor_slices((images, np.arange(8) % 3))
    data = samples.batch(4)
    second = net(5)
    second.name = "second"
    return {
        "net": net,
        "student": net(),
        "teacher": net(6),
        "second_teacher": second,
        "samples": samples,
        "train": data,
        "validation": data,
        "epochs": 2,
        "steps_per_epoch": 2,
    }


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed:UserWarning")
def test_blocks_run(namespace, tmp_path, monkeypatch, scratch_registry, capfd):
    monkeypatch.chdir(tmp_path)
    assert len(BLOCKS) == 9
    for block in BLOCKS:
        for written, tiny in SIZES.items():
            block = block.replace(written, tiny)
        exec(block, namespace)
    for name in ("mutual", "ensemble", "diverse", "collaborative"):
        peers = namespace[name]
        peers.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        peers.fit(namespace["train"], verbose=0)
    assert {path.name for path in tmp_path.iterdir()} >= {"student.keras", "student.tflite"}
    assert mr.aggregators.get("median").identifier == "median"
    logits = np.array([[[0.0, 4.0], [5.0, 1.0], [1.0, 2.0]]])
    result = mr.aggregators.get("median")(logits)["ensemble"]
    np.testing.assert_array_equal(result, [[1.0, 2.0]])
