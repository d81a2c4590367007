"""Networks for phones: what int8 files keep of them, quantized after training and in it.

Networks of `keras.applications`, narrow, with random weights and at the smallest size that they
take, are distilled from a small teacher for some steps on the embedded sample (Fashion-MNIST,
padded and in three equal channels). Then there are two int8 files of each:

- `after training`: TFLite's own quantization, its ranges those of training images;
- `aware, distilled`: of the copy from `quantize_aware`, distilled for some more steps.

A file is compared with the Keras model that it was made of, on test images: the share of equal
classes, and both accuracies. Batch normalizations have a momentum of 0.9, since the published 0.99
and 0.999 remember the start for longer than there are steps. Rates were not searched for.

    python -m benchmarks.export.phones
    python -m benchmarks.export.phones --network=MobileNetV2 --steps=100
"""

import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
from absl import app, flags

import modreduce_keras as mr
from benchmarks import common
from modreduce_keras.keras_internals import family_of

SIZE, CHANNELS = 32, 3
NETWORKS = {
    "MobileNetV2": {"alpha": 0.35},
    "MobileNetV3Small": {"alpha": 0.35},
    "MobileNetV3Large": {"alpha": 0.35},
    "EfficientNet": {
        "width_coefficient": 0.35,
        "depth_coefficient": 0.4,
        "default_size": SIZE,
        "name": "net",
    },
    "EfficientNetV2": {
        "width_coefficient": 0.35,
        "depth_coefficient": 0.4,
        "default_size": SIZE,
        "name": "efficientnetv2-b0",
    },
    "NASNet": {
        "penultimate_filters": 192,
        "num_blocks": 1,
        "stem_block_filters": 16,
        "skip_reduction": False,
    },
}
"""Arguments that make a network narrow.

Those without a size in their name are EfficientNetB0, EfficientNetV2B0 and NASNetMobile with fewer
channels and blocks.
"""
_FAMILIES = {
    "EfficientNet": family_of(keras.applications.EfficientNetB0, "EfficientNet"),
    "EfficientNetV2": family_of(keras.applications.EfficientNetV2B0, "EfficientNetV2"),
    "NASNet": family_of(keras.applications.NASNetMobile, "NASNet"),
}
_OF_MINUS_ONE_TO_ONE = ("MobileNetV2", "NASNet")
"""Networks that do not rescale images themselves."""

FLAGS = flags.FLAGS
flags.DEFINE_multi_enum("network", list(NETWORKS), list(NETWORKS), "Of those here, all by default")
flags.DEFINE_integer("float_steps", 800, "Steps of the student in float32", lower_bound=1)
flags.DEFINE_integer("steps", 300, "Steps of the copy with the rounding", lower_bound=1)
flags.DEFINE_integer("batch", 32, "Images in a batch", lower_bound=2)
flags.DEFINE_integer("teacher_epochs", 3, "Epochs of the teacher", lower_bound=1)
flags.DEFINE_float("learning_rate", 2e-3, "Of Adam, at the start of its cosine", lower_bound=0)
flags.DEFINE_float("more_learning_rate", 2e-4, "The same with the rounding", lower_bound=0)
flags.DEFINE_integer("images", 1000, "Test images", 1, 2000)
flags.DEFINE_integer("seed", 0, "Seed of the weights and of the order of images")
flags.DEFINE_string("output", str(common.RESULTS / "phones.jsonl"), "Rows go here")

SETTINGS = (
    "float_steps",
    "steps",
    "batch",
    "teacher_epochs",
    "learning_rate",
    "more_learning_rate",
    "images",
)
REPRESENTATIVE, TEACHER_BATCH, TEACHER_RATE, MOMENTUM = 200, 128, 3e-3, 0.9

Split = tuple[np.ndarray, np.ndarray]  # images, classes


def coloured(data: Split) -> Split:
    """Returns images of three channels and numbers from 0 to 255, with their classes."""
    images, classes = data
    images = 255.0 * np.pad(images, [(0, 0), (2, 2), (2, 2), (0, 0)])
    return np.repeat(images, CHANNELS, axis=-1).astype("float32"), classes


def teacher_of(data: Split) -> keras.Model:
    inputs = keras.Input((SIZE, SIZE, CHANNELS))
    net = mr.models.get(
        "convnet", num_classes=10, widths=(16, 32, 64), input_shape=(SIZE, SIZE, CHANNELS)
    )
    teacher = keras.Model(inputs, net(keras.layers.Rescaling(1 / 255)(inputs)), name="teacher")
    steps = len(data[0]) // TEACHER_BATCH * FLAGS.teacher_epochs
    train(teacher, data, steps, TEACHER_BATCH, TEACHER_RATE)
    return teacher


def network(name: str) -> keras.Model:
    """Returns a network with random weights that takes images of 0 to 255."""
    inputs = keras.Input((SIZE, SIZE, CHANNELS), name="image")
    given = {"weights": None, "classes": 10, "classifier_activation": None, **NETWORKS[name]}
    scaled = inputs
    if name in _OF_MINUS_ONE_TO_ONE:
        scaled = keras.layers.Rescaling(1 / 127.5, -1.0)(inputs)
    build = _FAMILIES.get(name) or getattr(keras.applications, name)
    net = build(input_tensor=scaled, **given)
    model = keras.Model(inputs, net.output, name=name)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = MOMENTUM
    return model


def train(model: keras.Model, data: Split, steps: int, batch: int, rate: float) -> None:
    seen = np.random.default_rng(FLAGS.seed).integers(len(data[0]), size=steps * batch)
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(data[0][seen], data[1][seen], batch, shuffle=False, verbose=0)


def distil(
    student: keras.Model, teacher: keras.Model, data: Split, steps: int, rate: float
) -> None:
    distiller = mr.Distiller(student=student, teacher=teacher, knowledge="kd")
    train(distiller, data, steps, FLAGS.batch, rate)


def measured(student: keras.Model, test: Split, **arguments: Any) -> dict[str, Any]:
    """Returns what a student's int8 file gives on the test images."""
    with tempfile.TemporaryDirectory() as folder:
        path = mr.export.to_tflite(
            student, Path(folder) / "a.tflite", quantization="int8", **arguments
        )
        found = mr.export.verify(path, student, test, least_agreement=0.0, repeats=10)
    return {
        "agreement": found.agreement,
        "accuracy": found.accuracy,
        "keras_accuracy": found.student_accuracy,
        "bytes": found.size,
    }


def measure(name: str, teacher: keras.Model, data: Split, test: Split) -> list[dict[str, Any]]:
    """Returns a row for each file of a network."""
    keras.utils.set_random_seed(FLAGS.seed)
    student, representative = network(name), data[0][:REPRESENTATIVE]
    distil(student, teacher, data, FLAGS.float_steps, FLAGS.learning_rate)
    after = measured(student, test, representative=representative)
    quantized = mr.quantize_aware(student, representative=representative)
    distil(quantized, teacher, data, FLAGS.steps, FLAGS.more_learning_rate)
    about = {"network": name, "parameters": student.count_params()}
    return [
        {**about, "contender": "after training", **after},
        {**about, "contender": "aware, distilled", **measured(quantized, test)},
    ]


def main(_) -> None:
    data, test = map(coloured, mr.data.load_sample())
    test = test[0][: FLAGS.images], test[1][: FLAGS.images]
    keras.utils.set_random_seed(FLAGS.seed)
    teacher = teacher_of(data)
    settings = {name: FLAGS[name].value for name in SETTINGS}
    for name in FLAGS.network:
        rows = measure(name, teacher, data, test)
        about = {**settings, **common.metadata(FLAGS.seed)}
        common.append_rows(Path(FLAGS.output), [{**row, **about} for row in rows])
        for row in rows:
            print(
                f"{name:16} {row['contender']:16} agreement {100 * row['agreement']:6.2f} %  "
                f"accuracy {100 * row['accuracy']:.1f} % ({100 * row['keras_accuracy']:.1f})  "
                f"{row['bytes'] / 1024:8.1f} KiB",
                flush=True,
            )


if __name__ == "__main__":
    app.run(main)
