"""Born-again networks: generations of equal students, each distilled from the one before.

The first generation learns from the labels. A new network of the same architecture, with fresh
weights, then learns from it; the third learns from the second; and so on. Each link is
one `mr.Distiller`, and the whole method is the function `born_again` below. The generations
together are an ensemble, and stronger than any of them.

    python examples/born_again.py
    python examples/born_again.py --generations=5 --labels_weight=0

It trains, on 1,000 images of the sample of Fashion-MNIST in the package and from three seeds, three
generations of a network of 6,386 parameters. It prints a table of accuracies on 2,000 test images:
of each generation, of the ensemble of all up to it (the mean of their probabilities), and, for
comparison, of as many networks that learn from the labels only: two minutes on two cores.

Furlanello et al., Born-Again Neural Networks, 2018. The paper's students learn from the teacher's
probabilities at temperature 1, with the labels (as here) or without them (`--labels_weight=0`).
"""

import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterator

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from absl import app, flags, logging

import modreduce_keras as mr

FLAGS = flags.FLAGS
flags.DEFINE_list("widths", "8,16,32", "Widths of the network's stages.")
flags.DEFINE_integer("generations", 3, "Generations, with the first.", lower_bound=2)
flags.DEFINE_integer("epochs", 20, "Epochs of every generation.", lower_bound=1)
flags.DEFINE_integer("images", 1000, "Training images.", 1, 10_000)
flags.DEFINE_integer("seeds", 3, "Repetitions of it all.", lower_bound=1)
flags.DEFINE_float("temperature", 1.0, "Temperature of the teacher's probabilities.", 0.1)
flags.DEFINE_float("labels_weight", 1.0, "Weight of the labels from the second on.", 0.0)

BATCH, RATE = 32, 2e-2

Split = tuple[np.ndarray, np.ndarray]  # images, classes


def born_again(
    generations: int, build: Callable[[], keras.Model], train: Callable[[keras.Model], None]
) -> Iterator[keras.Model]:
    """Trains generations of equal networks and yields each when it is done.

    Args:
        generations: How many.
        build: Returns an untrained network.
        train: Compiles and fits what it gets: a network, or the distiller around it.
    """
    teacher = None
    for _ in range(generations):
        student = build()
        if teacher is None:
            train(student)
        else:
            kd = mr.Response(mr.losses.KD(temperature=FLAGS.temperature))
            weight = FLAGS.labels_weight
            train(
                mr.Distiller(
                    student=student, teacher=teacher, knowledge=[kd], supervised_weight=weight
                )
            )
        yield student
        teacher = student


def network() -> keras.Model:
    """Returns an untrained network from images to the logits of ten classes."""
    return mr.models.get("convnet", num_classes=10, widths=[int(width) for width in FLAGS.widths])


def train(model: keras.Model, data: Split) -> None:
    """Compiles and fits a network or a distiller: one recipe for all."""
    steps = FLAGS.epochs * math.ceil(len(data[0]) / BATCH)
    model.compile(
        optimizer=keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(RATE, steps)),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(*data, epochs=FLAGS.epochs, batch_size=BATCH, verbose=0)


def labels_only(data: Split) -> Iterator[keras.Model]:
    """Yields as many networks as there are generations, each trained on the labels alone."""
    for _ in range(FLAGS.generations):
        student = network()
        train(student, data)
        yield student


def percents(models: Iterator[keras.Model], test: Split) -> Iterator[tuple[float, float]]:
    """Yields the test accuracy of each network, and of the ensemble of all up to it."""
    images, classes = test
    everyone = []
    for model in models:
        logits = model.predict(images, batch_size=500, verbose=0)
        everyone.append(keras.ops.convert_to_numpy(keras.ops.softmax(logits)))
        votes = everyone[-1], np.mean(everyone, axis=0)
        yield tuple(100 * float((p.argmax(axis=1) == classes).mean()) for p in votes)


def shown(values: list[float]) -> str:
    """Returns the mean of some percentages, with their standard deviation."""
    spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
    return f"{np.mean(values):.1f}{spread}"


def main(_) -> None:
    logging.set_verbosity(logging.WARNING)
    (images, classes), test = mr.data.load_sample()
    data = images[: FLAGS.images], classes[: FLAGS.images]
    results = defaultdict(list)
    for seed in range(1, FLAGS.seeds + 1):
        keras.utils.set_random_seed(seed)
        generations = born_again(FLAGS.generations, network, lambda model: train(model, data))
        for taught, models in (("teacher", generations), ("labels", labels_only(data))):
            for number, (alone, together) in enumerate(percents(models, test), start=1):
                results[taught, number, "alone"].append(alone)
                results[taught, number, "ensemble"].append(together)
                print(f"Seed {seed}, taught by {taught}, {number}: {alone:.1f} %", flush=True)

    print("\nTest accuracy, %\n")
    print("| generation | born again | ensemble so far | labels only | ensemble so far |")
    print("|---|---|---|---|---|")
    for number in range(1, FLAGS.generations + 1):
        cells = [
            shown(results[taught, number, which])
            for taught in ("teacher", "labels")
            for which in ("alone", "ensemble")
        ]
        print(f"| {number} | {' | '.join(cells)} |")


if __name__ == "__main__":
    app.run(main)
