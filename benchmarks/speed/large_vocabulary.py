"""Large vocabularies: what a response loss on many classes needs when it keeps no probabilities.

With more than 4,096 classes, the losses on logits are computed for a few positions at a time, the
gradient beside the value. The plain form, which keeps probabilities of all positions, stands beside
it. Contenders are one `tf.function` each, with the value and the gradient to the student's logits.
Values and gradients have to agree before anything is timed. Ratios are taken within a round, then
summarized. The peak is that of one call beyond the two logits, which were there before, in units of
the student's logits in float32. All tensors come from one large piece of memory: TensorFlow's
allocator gives a tensor the whole of a smaller piece, up to 128 MiB more than it asks for.

    python -m benchmarks.speed.large_vocabulary
"""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

import modreduce_keras as mr
from benchmarks import common
from modreduce_keras import ops

FLAGS = flags.FLAGS
flags.DEFINE_integer("positions", 2048, "Positions of the batch", lower_bound=1)
flags.DEFINE_integer("classes", 50257, "Classes, more than 4,096", lower_bound=4097)
flags.DEFINE_multi_enum("loss", ["kd", "binary_kd"], ["kd", "binary_kd"], "Losses")
flags.DEFINE_multi_enum("dtype", ["float32", "bfloat16"], ["float32", "bfloat16"], "Of the logits")
flags.DEFINE_integer("rounds", 10, "Rounds, each with both forms", lower_bound=1)
flags.DEFINE_integer("steps", 1, "Calls of a form in a round", lower_bound=1)
flags.DEFINE_integer("seed", 0, "Seed of the logits")
flags.DEFINE_string("output", str(common.RESULTS / "large_vocabulary.jsonl"), "Rows go here")

PLAIN, OURS = "plain", "in chunks"
TOLERANCE = {"float32": 1e-6, "bfloat16": 2**-7}
"""How far a gradient may be off, as a part of its largest element: in bfloat16 by one rounding."""

Contender = Callable[[], tuple[tf.Tensor, tf.Tensor]]


class PlainKD(mr.losses.KD):
    """The equation of `mr.losses.KD`: all positions at once, its gradient left to TensorFlow."""

    identifier = "plain_kd"

    def per_position(self, teacher: Any, student: Any, *_: Any) -> Any:
        logs = (ops.tempered_log_softmax(logits, self.temperature) for logits in (teacher, student))
        return self.temperature**2 * ops.kl_divergence(*logs)


class PlainBinaryKD(mr.losses.BinaryKD):
    """The equation of `mr.losses.BinaryKD`, likewise."""

    identifier = "plain_binary_kd"

    def per_position(self, teacher: Any, student: Any, *_: Any) -> Any:
        logs = (ops.log_bernoulli(logits, self.temperature) for logits in (teacher, student))
        return self.temperature**2 * keras.ops.sum(ops.kl_divergence(*logs), axis=-1)


LOSSES: dict[str, dict[str, type[mr.losses.Loss]]] = {
    "kd": {PLAIN: PlainKD, OURS: mr.losses.KD},
    "binary_kd": {PLAIN: PlainBinaryKD, OURS: mr.losses.BinaryKD},
}


def contender(loss: mr.losses.Loss, teacher: tf.Tensor, student: tf.Tensor) -> Contender:
    """Returns a compiled function that gives the mean of a loss and its gradient."""

    @tf.function(autograph=False)
    def value_and_gradient(teacher, student):
        with tf.GradientTape() as tape:
            tape.watch(student)
            # As a distiller calls it; `loss(...)` is Keras' call, which casts all to float32.
            value = tf.reduce_mean(loss.call(teacher, student))
        return value, tape.gradient(value, student)

    return lambda: value_and_gradient(teacher, student)


def require_agreement(results: dict[str, tuple[tf.Tensor, tf.Tensor]], dtype: str) -> None:
    """Compares value and gradient of both forms.

    Raises:
        RuntimeError: If they differ, so that a comparison of their times would mean nothing.
    """
    (value, gradient), (expected, plain) = results[OURS], results[PLAIN]
    error = float(tf.abs(value - expected) / tf.abs(expected))
    largest = float(tf.reduce_max(tf.abs(plain)))
    off = float(tf.reduce_max(tf.abs(tf.cast(gradient - plain, "float32")))) / largest
    for what, difference, most in (("values", error, 1e-6), ("gradients", off, TOLERANCE[dtype])):
        if not difference <= most:
            raise RuntimeError(f"The {what} of both forms differ by {difference:.1e}")


def take_one_large_piece() -> None:
    """Makes the allocator take what all contenders need from the system at once."""
    elements = 16 * FLAGS.positions * FLAGS.classes
    tf.raw_ops.Empty(shape=[elements], dtype="float32", init=False)


def measure(name: str, dtype: str) -> list[dict[str, Any]]:
    """Returns the rows of one loss, one for each form."""
    keras.utils.set_random_seed(FLAGS.seed)
    shape = (FLAGS.positions, FLAGS.classes)
    teacher, student = (tf.cast(tf.random.normal(shape, stddev=3.0), dtype) for _ in range(2))
    forms = {form: contender(kind(), teacher, student) for form, kind in LOSSES[name].items()}
    require_agreement({form: function() for form, function in forms.items()}, dtype)
    # Reading the number waits for a device that computes asynchronously.
    functions = {form: lambda run=run: float(run()[0]) for form, run in forms.items()}
    times = common.interleave(functions, rounds=FLAGS.rounds, steps=FLAGS.steps)
    unit = 4 * np.prod(shape) / 2**20
    rows = []
    for form, own in times.items():
        peak = common.peak_memory(functions[form])
        row = {"loss": name, "dtype": dtype, "contender": form, **common.spread(own, "ms")}
        row |= {"mib": round(peak, 1), "peak": round(peak / unit, 3)}
        if form == OURS:
            speedups = common.paired_ratios(times[PLAIN], own)
            row |= {"faster_than": PLAIN, **common.spread(speedups, "speedup")}
        rows.append(row)
    return rows


def main(_) -> None:
    # Every contender traces a function of its own, which TensorFlow takes for retracing.
    tf.get_logger().setLevel("ERROR")
    sizes = {name: FLAGS[name].value for name in ("positions", "classes", "rounds", "steps")}
    about = common.metadata(FLAGS.seed)
    take_one_large_piece()
    for name, dtype in itertools.product(FLAGS.loss, FLAGS.dtype):
        rows = measure(name, dtype)
        common.append_rows(Path(FLAGS.output), [{**row, **sizes, **about} for row in rows])
        for row in rows:
            line = f"{name:10} {dtype:9} {row['contender']:10}{row['ms_median']:10.1f} ms"
            line += f"  peak {row['peak']:.2f} x"
            if "speedup_median" in row:
                line += f"  {common.told(row, 'speedup', 2)} x faster"
            print(line, flush=True)


if __name__ == "__main__":
    app.run(main)
