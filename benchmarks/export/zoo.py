"""Exports: how much of each network of the zoo its TFLite files keep, and what they save.

Each network of `mr.models` is trained for some steps on the embedded sample, at 28 x 28 pixels,
takes over the statistics of a batch (the moving ones of so few steps are those of the start), and
is exported in float32, with float16 weights, with int8 weights ("dynamic"), and in int8 throughout,
its ranges measured from training images. Each file is compared with the Keras network on test
images: the share of equal classes, the largest difference of two logits beside the largest logit,
the accuracy of both, the size, and the median time of one image with one thread.

Networks that have learnt so little are right less often than trained ones, and their logits lie
closer together: agreement is a lower bound of what trained ones keep.

    python -m benchmarks.export.zoo
    python -m benchmarks.export.zoo --network=resnet20 --steps=200
"""

import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
from absl import app, flags

import modreduce_keras as mr
from benchmarks import common
from modreduce_keras.registry import components

FLAGS = flags.FLAGS
flags.DEFINE_multi_string("network", [], "From mr.models; all of them unless given")
flags.DEFINE_integer("steps", 30, "Steps that a network is trained for", lower_bound=1)
flags.DEFINE_integer("batch", 32, "Images in a batch", lower_bound=2)
flags.DEFINE_integer("representative", 100, "Training images for the ranges of int8", 32, 10_000)
flags.DEFINE_integer("images", 300, "Test images", 1, 2000)
flags.DEFINE_integer("repeats", 50, "Runs of one image that are timed", lower_bound=1)
flags.DEFINE_integer("seed", 0, "Seed of the weights and of the order of images")
flags.DEFINE_string("output", str(common.RESULTS / "export_zoo.jsonl"), "Rows go here")

FILES = {"float32": None, "float16": "float16", "dynamic": "dynamic", "int8": "int8"}
SETTLING = 256
RATE = 3e-3

Split = tuple[np.ndarray, np.ndarray]  # images, classes


def trained(name: str, images: np.ndarray, classes: np.ndarray) -> keras.Model:
    """Returns a network after a few steps, with the statistics of a batch."""
    keras.utils.set_random_seed(FLAGS.seed)
    model = mr.models.get(name, num_classes=10, input_shape=images.shape[1:])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(RATE), loss)
    seen = np.random.default_rng(FLAGS.seed).integers(len(images), size=FLAGS.steps * FLAGS.batch)
    model.fit(images[seen], classes[seen], FLAGS.batch, shuffle=False, verbose=0)
    common.adopt_statistics(model, images[:SETTLING])
    return model


def measure(model: keras.Model, images: np.ndarray, test: Split) -> list[dict[str, Any]]:
    """Returns a row for each file of a network."""
    rows = []
    logits = model.predict(test[0], batch_size=100, verbose=0)
    with tempfile.TemporaryDirectory() as folder:
        for name, quantization in FILES.items():
            path = mr.export.to_tflite(
                model,
                Path(folder) / f"{name}.tflite",
                quantization=quantization,
                representative=images[: FLAGS.representative] if name == "int8" else None,
            )
            found = mr.export.verify(
                path, model, test, least_agreement=0.0, batch_size=100, repeats=FLAGS.repeats
            )
            full = rows[0]["bytes"] if rows else found.size
            rows.append(
                {
                    "network": model.name,
                    "parameters": model.count_params(),
                    "file": name,
                    "agreement": found.agreement,
                    "accuracy": found.accuracy,
                    "keras_accuracy": found.student_accuracy,
                    "largest_difference": found.largest_difference,
                    "largest_logit": float(np.abs(logits).max()),
                    "bytes": found.size,
                    "ratio_to_float32": round(full / found.size, 4),
                    "ms": round(found.milliseconds, 4),
                    "threads": found.threads,
                }
            )
    return rows


def main(_) -> None:
    (images, classes), (test_images, test_classes) = mr.data.load_sample()
    test = test_images[: FLAGS.images], test_classes[: FLAGS.images]
    settings = ("steps", "batch", "representative", "images", "repeats")
    sizes = {name: FLAGS[name].value for name in settings}
    for name in FLAGS.network or components("model"):
        rows = measure(trained(name, images, classes), images, test)
        about = {**sizes, **common.metadata(FLAGS.seed)}
        common.append_rows(Path(FLAGS.output), [{**row, **about} for row in rows])
        for row in rows:
            print(
                f"{name:12} {row['file']:8} {100 * row['agreement']:6.2f} %  "
                f"difference {row['largest_difference']:.1e} of {row['largest_logit']:.1f}  "
                f"accuracy {100 * row['accuracy']:.1f} % ({100 * row['keras_accuracy']:.1f})  "
                f"{row['bytes'] / 1024:8.1f} KiB  {row['ratio_to_float32']:.2f} x smaller  "
                f"{row['ms']:.3f} ms",
                flush=True,
            )


if __name__ == "__main__":
    app.run(main)
