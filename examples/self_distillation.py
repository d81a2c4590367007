"""Self-distillation: exits at earlier layers of a network learn from it, and samples leave early.

A residual network gets an exit after each of its first two stages: a bottleneck and a classifier.
Both learn from the deepest classifier while all three learn from the labels (`mr.SelfDistiller`).
What comes out is several networks of different cost, and one that easy images leave early.

    python examples/self_distillation.py
    python examples/self_distillation.py --images=10000 --epochs=12 --seeds=1

It trains, on 2,000 images of the sample of Fashion-MNIST in the package, a narrow resnet8 alone,
one with exits that learn from the labels only, and one with self-distillation, from three seeds. It
prints two Markdown tables of numbers on 2,000 test images, and saves the second as a picture:

- how often each classifier is right, with its parameters and multiply-adds;
- for several thresholds of confidence, how often the early-exit network is right, what it computes
  and what time it takes, both as a part of what the network alone does.

It takes six minutes on two cores. Thresholds and weights were not tuned.

Zhang et al., Be Your Own Teacher, 2019.
"""

import math
import os
import time
from collections import defaultdict
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from absl import app, flags, logging

import modreduce_keras as mr

FLAGS = flags.FLAGS
flags.DEFINE_integer("depth", 8, "Layers of the residual network: 8, 14, 20, ...")
flags.DEFINE_list("widths", "8,8,16,32", "Channels of its first layer and of its stages.")
flags.DEFINE_multi_string("exit", ["stage1", "stage2"], "A layer with an exit, shallow to deep.")
flags.DEFINE_integer("epochs", 15, "Epochs of every network.", lower_bound=1)
flags.DEFINE_integer("images", 2000, "Training images.", 1, 10_000)
flags.DEFINE_integer("seeds", 3, "Repetitions of the training.", lower_bound=1)
flags.DEFINE_integer("repeats", 5, "Repetitions of what is timed.", lower_bound=1)
flags.DEFINE_float("alpha", 0.3, "Share of the deepest classifier in what an exit learns.", 0, 1)
flags.DEFINE_float("feature_weight", 0.03, "Weight of the distance of the maps.", lower_bound=0)
flags.DEFINE_string("output", "self_distillation", "Folder for the picture and the network.")

BATCH, RATE = 32, 5e-3
THRESHOLDS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
ALONE, LABELS, SELF = "alone", "exits, labels only", "self-distillation"
METHODS = (ALONE, LABELS, SELF)

Split = tuple[np.ndarray, np.ndarray]  # images, classes


def network(seed: int) -> keras.Model:
    """Returns an untrained network from images to the logits of ten classes."""
    keras.utils.set_random_seed(seed)
    widths = [int(width) for width in FLAGS.widths]
    return mr.models.resnet(FLAGS.depth, num_classes=10, widths=widths, input_shape=(28, 28, 1))


def with_exits(method: str, model: keras.Model) -> keras.Model:
    """Returns what to train: the network itself, or the distiller around it."""
    if method == ALONE:
        return model
    taught = method == SELF
    return mr.SelfDistiller(
        model,
        exits=FLAGS.exit,
        alpha=FLAGS.alpha if taught else 0.0,
        feature_weight=FLAGS.feature_weight if taught else 0.0,
    )


def train(model: keras.Model, data: Split) -> None:
    """Compiles and fits a network or a distiller: one recipe for all."""
    steps = FLAGS.epochs * math.ceil(len(data[0]) / BATCH)
    model.compile(
        optimizer=keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(RATE, steps)),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(*data, epochs=FLAGS.epochs, batch_size=BATCH, verbose=0)


def accuracies(model: keras.Model, test: Split) -> dict[str, float]:
    """Returns the test accuracy of each classifier in percent."""
    logs = model.evaluate(*test, batch_size=500, verbose=0, return_dict=True)
    if "accuracy" in logs:
        return {"final": 100 * logs["accuracy"]}
    return {
        name.removesuffix("/accuracy"): 100 * value
        for name, value in logs.items()
        if name.endswith("/accuracy")
    }


def shown(values: list[float]) -> str:
    """Returns the mean of some percentages, with their standard deviation."""
    if not values:
        return "-"
    spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
    return f"{np.mean(values):.1f}{spread}"


def print_accuracies(results: dict[tuple[str, str], list[float]], distiller) -> None:
    """Prints a row for each classifier: the means over all seeds."""
    print("\nTest accuracy, %\n")
    print(f"| classifier | {' | '.join(METHODS)} | parameters | multiply-adds |")
    print("|---" * (len(METHODS) + 3) + "|")
    for name in [*distiller.exits, "final", "ensemble"]:
        cells = [shown(results[method, name]) for method in METHODS]
        everything = name == "ensemble"
        model = distiller.model_with_exits if everything else distiller.exit_model(name)
        cells += [f"{model.count_params():,}", f"{mr.evaluation.multiply_adds(model):,}"]
        print(f"| {name} | {' | '.join(cells)} |")


def seconds(model: keras.Model, images: np.ndarray) -> float:
    """Returns the time that a model takes for the images."""
    begin = time.perf_counter()
    model.predict(images, batch_size=500, verbose=0)
    return time.perf_counter() - begin


def times(distiller, images: np.ndarray) -> list[float]:
    """Returns the median time at each threshold as a part of the network's alone, in turns."""
    early_exit, turns = distiller.early_exit(), []
    for _ in range(1 + FLAGS.repeats):
        turns.append([seconds(distiller.student, images)])
        for threshold in THRESHOLDS:
            early_exit.threshold = threshold
            turns[-1].append(seconds(early_exit, images))
    alone, *early = np.median(turns[1:], axis=0)  # The first turn compiles.
    return [took / alone for took in early]


def print_early_exit(distiller, test: Split) -> list:
    """Prints accuracy, computation and time of the early-exit network, by threshold."""
    rows = mr.evaluation.early_exit_curve(distiller, *test, thresholds=THRESHOLDS)
    names = list(rows[0].shares)
    print("\nEarly exit, last seed; computation and time as a part of the network's alone\n")
    print(f"| threshold | accuracy, % | computation | time | {' | '.join(names)} |")
    print("|---" * (len(names) + 4) + "|")
    for row, took in zip(rows, times(distiller, test[0]), strict=True):
        shares = " | ".join(f"{100 * share:.0f} %" for share in row.shares.values())
        numbers = f"{100 * row.accuracy:.1f} | {row.compute:.2f} | {took:.2f}"
        print(f"| {row.threshold:g} | {numbers} | {shares} |")
    return rows


def draw(path: Path, rows: list, results: dict[tuple[str, str], list[float]]) -> None:
    """Saves a picture of accuracy over computation."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    compute, accuracy = zip(*((row.compute, 100 * row.accuracy) for row in rows), strict=True)
    axes.plot(compute, accuracy, marker="o", label="early exit, by threshold")
    for row in rows:
        place = row.compute, 100 * row.accuracy
        axes.annotate(f"{row.threshold:g}", place, xytext=(4, -12), textcoords="offset points")
    last = results[ALONE, "final"][-1]
    axes.plot([1], [last], marker="s", linestyle="", color="gray", label="network alone")
    axes.set(xlabel="multiply-adds, part of the network's alone", ylabel="test accuracy, %")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def main(_) -> None:
    logging.set_verbosity(logging.WARNING)
    folder = Path(FLAGS.output)
    folder.mkdir(parents=True, exist_ok=True)
    (images, classes), test = mr.data.load_sample()
    data = images[: FLAGS.images], classes[: FLAGS.images]
    results = defaultdict(list)
    for seed in range(1, FLAGS.seeds + 1):
        for method in METHODS:
            model = with_exits(method, network(seed))
            train(model, data)
            for name, percent in accuracies(model, test).items():
                results[method, name].append(percent)
            percent = results[method, "final"][-1]
            print(f"Seed {seed}, {method}: {percent:.1f} % at the end", flush=True)
    distiller = model  # the last one trained, with self-distillation
    print_accuracies(results, distiller)
    rows = print_early_exit(distiller, test)
    draw(folder / "early_exit.png", rows, results)
    distiller.early_exit(threshold=0.9).save(folder / "early_exit.keras")
    print(f"\nPicture and early-exit network: {folder}/")


if __name__ == "__main__":
    app.run(main)
