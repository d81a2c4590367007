"""OKDDip: students that learn from one another without a teacher, and a leader to deploy.

Students that learn from their common mean become alike, and then learn nothing more from one
another. In OKDDip each of them has a target of its own: a mixture of all, whose shares it learns by
attention. The last one is the leader, the student to deploy: it learns from the mean of the others,
and nobody learns from it. All share their first stage, which runs once.

    python examples/okddip.py
    python examples/okddip.py --peers=5 --at=stage2

It trains, on 1,000 images of the sample of Fashion-MNIST in the package and from three seeds, a
student of 6,386 parameters alone, and then three peers and their leader, each of that size. It
prints a table of accuracies on 2,000 test images and how diverse the peers are, and saves the last
leader as a plain Keras model: one minute on two cores.

Chen, Mei, Wang, Feng and Chen, Online Knowledge Distillation with Diverse Peers, 2020.
"""

import math
import os
from collections import defaultdict
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from absl import app, flags, logging

import modreduce_keras as mr

WIDTHS, BATCH, RATE = (8, 16, 32), 32, 2e-2
RAMP_UP = 80 / 300  # the part of the training in which the online weight grows, as published
ALONE, ENSEMBLE = "alone", "mean of the peers"

FLAGS = flags.FLAGS
flags.DEFINE_integer("peers", 4, "Students that learn together, the leader among them.", 3)
flags.DEFINE_string("at", "stage1", "The last layer that they share.")
flags.DEFINE_integer("epochs", 30, "Epochs of every student.", lower_bound=1)
flags.DEFINE_integer("images", 1000, "Training images.", 1, 10_000)
flags.DEFINE_integer("seeds", 3, "Repetitions.", lower_bound=1)
flags.DEFINE_string("output", "okddip", "Folder for the leader.")

Split = tuple[np.ndarray, np.ndarray]  # images, classes


def network() -> keras.Model:
    """Returns an untrained network from images to the logits of ten classes."""
    return mr.models.get("convnet", num_classes=10, widths=WIDTHS)


def steps(part: float = 1.0) -> int:
    """Returns the number of training steps in a part of the training."""
    return max(1, round(part * FLAGS.epochs * math.ceil(FLAGS.images / BATCH)))


def train(model: keras.Model, data: Split) -> dict[str, list[float]]:
    """Compiles and fits a student or a group, and returns the logs of all epochs."""
    rate = keras.optimizers.schedules.CosineDecay(RATE, steps())
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
    return model.fit(*data, epochs=FLAGS.epochs, batch_size=BATCH, verbose=0).history


def make_group() -> mr.PeerDistiller:
    """Returns peers on one trunk, the last of which is the leader."""
    names = [f"peer_{number}" for number in range(1, FLAGS.peers)] + ["leader"]
    branched = mr.models.branch(network(), at=FLAGS.at, branches=FLAGS.peers, names=names)
    return mr.PeerDistiller(
        branched,
        aggregator="okddip",
        online_weight=mr.schedules.SigmoidRampUp(1.0, steps=steps(RAMP_UP)),
    )


def main(_) -> None:
    logging.set_verbosity(logging.WARNING)
    (images, classes), test = mr.data.load_sample()
    data, accuracies = (images[: FLAGS.images], classes[: FLAGS.images]), defaultdict(list)
    for seed in range(1, FLAGS.seeds + 1):
        keras.utils.set_random_seed(seed)
        student = network()
        train(student, data)
        tested = student.evaluate(*test, verbose=0, return_dict=True)
        accuracies[ALONE].append(100 * tested["accuracy"])

        keras.utils.set_random_seed(seed)
        group = make_group()
        diversity = train(group, data)["diversity"]
        tested = group.evaluate(*test, verbose=0, return_dict=True)
        for name in group.students:
            accuracies[name].append(100 * tested[f"{name}/accuracy"])
        accuracies[ENSEMBLE].append(100 * tested["ensemble/accuracy"])
        print(
            f"seed {seed}: alone {accuracies[ALONE][-1]:.1f} %, leader "
            f"{accuracies['leader'][-1]:.1f} %; diversity {diversity[0]:.3f} in the first epoch, "
            f"{diversity[-1]:.3f} in the last",
            flush=True,
        )

    print("\n| student | test accuracy, % |\n|---|---|")
    for name, values in accuracies.items():
        spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
        print(f"| {name} | {np.mean(values):.1f}{spread} |")

    path = Path(FLAGS.output) / "leader.keras"
    path.parent.mkdir(parents=True, exist_ok=True)
    group.best_student.save(path)
    print(
        f"\nSaved the {group.best_student_name} as {path}: {group.best_student.count_params():,} "
        f"parameters, of {group.count_params():,} in the group"
    )


if __name__ == "__main__":
    app.run(main)
