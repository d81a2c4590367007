"""What docs/architecture.md and docs/contributing/distiller.md show is true of the code."""

import re
from pathlib import Path

import keras
import numpy as np

import modreduce_keras as mr

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "architecture.md").read_text("utf-8")


def test_every_file_that_is_named_exists():
    named = set(re.findall(r"\b([a-z_]+(?:/[a-z_]+)*\.py)\b", TEXT))
    paths = [
        path.as_posix()
        for path in ROOT.rglob("*.py")
        if not path.relative_to(ROOT).parts[0].startswith(".venv")
    ]
    assert [name for name in named if not any(p.endswith(f"/{name}") for p in paths)] == []
    assert len(named) > 15


def test_no_distiller_is_further_from_a_keras_model_than_three_classes():
    for name in mr.__all__:
        kind = getattr(mr, name)
        if isinstance(kind, type) and issubclass(kind, mr.BaseDistiller):
            between = kind.__mro__[1 : kind.__mro__.index(keras.Model)]
            assert len(between) <= 3, kind


def test_the_example_trains_saves_and_equals_its_equation(scratch_registry, tmp_path):
    page = (ROOT / "docs" / "contributing" / "distiller.md").read_text("utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    namespace = {}
    exec(block, namespace)

    def net(name):
        return mr.models.get("convnet", num_classes=3, widths=(4,), name=name)

    response = mr.Response("kd", weight=0.0)
    distiller = namespace["EntropyDistiller"](
        student=net("s"), teacher=net("t"), knowledge=[response]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile("sgd", loss, run_eagerly=True)
    images = np.random.default_rng(0).normal(size=(6, 28, 28, 1)).astype("float32")
    labels = np.arange(6) % 3
    outputs = distiller.forward(images, training=True)
    logits = keras.ops.convert_to_numpy(outputs.students["student"].logits).astype("float64")
    logs = distiller.train_on_batch(images, labels, return_dict=True)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    entropy = -(shares * np.log(shares)).sum(axis=1).mean()
    np.testing.assert_allclose(logs["entropy"], entropy, rtol=1e-5)
    np.testing.assert_allclose(logs["loss"], logs["ce"] - 0.1 * entropy, rtol=1e-5)
    path = tmp_path / "distiller.keras"
    distiller.save(path)
    loaded = keras.models.load_model(path)
    expected = distiller.predict(images, verbose=0)
    np.testing.assert_array_equal(loaded.predict(images, verbose=0), expected)
