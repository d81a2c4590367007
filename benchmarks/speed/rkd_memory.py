"""RKD: what computing its angles without the differences of the samples saves.

RKD compares the angles of all triplets of a batch. As published (`by_hand.py`), they come from
the differences of all pairs, a (batch, batch, features) tensor, normalized and multiplied. Ours
follow from the distances of all pairs, which the Gram matrix gives, a few anchors at a time. The
distances are computed from the Gram matrix in both.

Contenders are one `tf.function` each, with the value and the gradient to the student: the angles
alone, and both losses with their default weights. Values and gradients have to agree before
anything is timed. Ratios are taken within a round, then summarized; the peak memory is that of
one call beyond what was held before it.

Published, several tensors of (batch, batch, features) live at once, and their products take
2 · batch³ · features operations for each side and twice that for the gradient. What limits ours
is elementwise arithmetic: dozens of passes over batch³ numbers, whatever the width, those of the
forward pass done again for the gradient so that nothing is kept. Its memory is some twenty
tensors of (16 anchors, batch, batch). Narrow embeddings therefore gain less, and very narrow ones
lose time: two widths are measured, that of a resnet20 and that of large networks.

Run it with nothing else on the machine:

    python -m benchmarks.speed.rkd_memory
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

import modreduce_keras as mr
from benchmarks import common
from benchmarks.speed import by_hand

FLAGS = flags.FLAGS
flags.DEFINE_integer("batch", 256, "Samples in a batch", lower_bound=2)
flags.DEFINE_multi_integer("features", [64, 512], "Width of both embeddings", lower_bound=1)
flags.DEFINE_integer("rounds", 20, "Rounds, each with every contender", lower_bound=1)
flags.DEFINE_integer("steps", 1, "Calls of a contender in a round", lower_bound=1)
flags.DEFINE_integer("seed", 0, "Seed of the embeddings")
flags.DEFINE_string("output", str(common.RESULTS / "rkd_memory.jsonl"), "Rows go here")

TOLERANCE = 1e-4

Loss = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
Contender = Callable[[], tuple[np.ndarray, np.ndarray]]


def losses() -> dict[str, Loss]:
    """Returns what is compared, by its name in the table: functions of teacher and student."""
    distance, angle = mr.losses.RKDDistance(), mr.losses.RKDAngle()

    def both(distances: Loss, angles: Loss) -> Loss:
        weights = distance.default_weight, angle.default_weight
        return lambda t, s: weights[0] * distances(t, s) + weights[1] * angles(t, s)

    return {
        "angles, as published": by_hand.rkd_angle,
        "angles, ours": angle,
        "distances and angles, as published": both(by_hand.rkd_distance, by_hand.rkd_angle),
        "distances and angles, ours": both(distance, angle),
    }


RATIO_TO = {
    "angles, ours": "angles, as published",
    "distances and angles, ours": "distances and angles, as published",
}


def contender(loss: Loss, teacher: tf.Tensor, student: tf.Tensor) -> Contender:
    """Returns a compiled function that gives a loss and its gradient, as arrays."""

    @tf.function
    def value_and_gradient(student):
        with tf.GradientTape() as tape:
            tape.watch(student)
            value = loss(teacher, student)
        return value, tape.gradient(value, student)

    return lambda: tuple(result.numpy() for result in value_and_gradient(student))


def require_agreement(contenders: dict[str, Contender]) -> None:
    """Runs every contender, and compares ours with the published form.

    Raises:
        RuntimeError: If values or gradients differ, so that a comparison of their times would
            mean nothing.
    """
    results = {name: function() for name, function in contenders.items()}
    for name, reference in RATIO_TO.items():
        pairs = zip(("values", "gradients"), results[name], results[reference], strict=True)
        for what, ours, expected in pairs:
            error = np.linalg.norm(ours - expected) / np.linalg.norm(expected)
            if not error <= TOLERANCE:
                raise RuntimeError(f"{what} of {name!r} and {reference!r} differ by {error:.1e}")


def measure(features: int) -> list[dict[str, Any]]:
    """Returns the rows of one width of embeddings, one for each contender."""
    keras.utils.set_random_seed(FLAGS.seed)
    random = np.random.default_rng(FLAGS.seed)
    shape = (2, FLAGS.batch, features)
    teacher, student = tf.unstack(tf.constant(random.normal(size=shape), "float32"))
    contenders = {name: contender(loss, teacher, student) for name, loss in losses().items()}
    require_agreement(contenders)
    times = common.interleave(contenders, rounds=FLAGS.rounds, steps=FLAGS.steps)
    peaks = {name: common.peak_memory(function) for name, function in contenders.items()}
    rows = []
    for name, own in times.items():
        row = {
            "features": features,
            "contender": name,
            **common.spread(own, "ms"),
            "mib": round(peaks[name], 1),
        }
        if name in RATIO_TO:
            reference = RATIO_TO[name]
            ratios = common.paired_ratios(own, times[reference])
            row |= {"ratio_to": reference, **common.spread(ratios, "ratio")}
            if peaks[reference]:
                row |= {"mib_ratio": round(peaks[name] / peaks[reference], 4)}
        rows.append(row)
    return rows


def main(_) -> None:
    # Every contender traces a function of its own, which TensorFlow takes for retracing.
    tf.get_logger().setLevel("ERROR")
    sizes = {name: FLAGS[name].value for name in ("batch", "rounds", "steps")}
    about = common.metadata(FLAGS.seed)
    for features in FLAGS.features:
        rows = measure(features)
        common.append_rows(Path(FLAGS.output), [{**row, **sizes, **about} for row in rows])
        for row in rows:
            cost = f"{row['ms_median']:8.1f} ms {row['mib']:8.1f} MiB"
            ratios = [f"{row[key]:.2f} x" for key in ("ratio_median", "mib_ratio") if key in row]
            print(f"{features:4} features  {row['contender']:36}{cost}  {', '.join(ratios)}")


if __name__ == "__main__":
    app.run(main)
