"""Precision: what bfloat16 and float16 save in a step of KD, and what they cost in accuracy.

`--part=steps`: the step of KD, by what teacher and student compute in, for each pair:

- `float32`: both in float32, as Keras' layers compute: `teacher_dtype="as_given"` and
  `fused_normalization=False`;
- `float32, fused and folded`: by the fused kernel of batch normalizations, which the next ones have
  as well, and `teacher_dtype="float32"`;
- `bfloat16 teacher`: `teacher_dtype="bfloat16"`, the student in float32;
- `bfloat16 teacher and student`: the same, and the student's policy is `mixed_bfloat16`;
- on a GPU also the last two in float16.

All start from the same weights and take turns on the same batch. Ratios to the float32 step are
taken within a round, then summarized. Beside them stand the errors of the first step against the
float32 one: of the loss, relative, and of the student's gradient, the norm of the difference over
the norm, and the cosine. The gradient is what the optimizer's momentum is after that step.

A row says whether the processor has bfloat16 arithmetic. Where it has none, bfloat16 is emulated:
its errors are of the same size, its times say nothing about a processor that has it.

`--part=accuracy`: on the embedded sample, a teacher that has seen 8,500 images, and students that
see 1,000 of them for 300 steps, by the same choices. For one seed all students start from the same
weights and see the same batches. A row for each choice and seed tells the accuracy on the 2,000
test images, the steps that were skipped because a gradient was not finite, and the loss scale in
the end. What is printed then: each mean and standard deviation over the seeds, and how far the
mean is from float32's in units of float32's standard deviation.

    python -m benchmarks.accuracy.precision
    python -m benchmarks.accuracy.precision --part=steps --pair=resnet56:resnet20
"""

import contextlib
import math
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

import modreduce_keras as mr
from benchmarks import common

FLAGS = flags.FLAGS
flags.DEFINE_enum("part", "both", ["steps", "accuracy", "both"], "What is measured")
flags.DEFINE_multi_string(
    "pair", ["resnet32x4:resnet8x4", "resnet56:resnet20"], "TEACHER:STUDENT, from mr.models"
)
flags.DEFINE_integer("batch", 64, "Images in a batch of the pairs", lower_bound=2)
flags.DEFINE_integer("rounds", 10, "Rounds, each with every contender", lower_bound=1)
flags.DEFINE_integer("steps", 1, "Steps of a contender in a round", lower_bound=1)
flags.DEFINE_integer("seed", 0, "Seed of the pairs' weights and images")
flags.DEFINE_integer("seeds", 5, "Number of seeds of the accuracies", lower_bound=1)
flags.DEFINE_integer("first_seed", 1, "The first of them", lower_bound=0)
flags.DEFINE_integer("training_steps", 300, "Steps that a student is trained for", lower_bound=1)
flags.DEFINE_integer("teacher_epochs", 8, "Epochs of the teacher", lower_bound=1)
flags.DEFINE_integer("labels", 1000, "Training images of the students", 64, 8500)
flags.DEFINE_float("learning_rate", 0.02, "Of Adam, at the start of its cosine", lower_bound=0)
flags.DEFINE_string("output", str(common.RESULTS / "precision.jsonl"), "Rows go here")

CLASSES = 100
RATE, MOMENTUM = 0.01, 0.9
ATTEMPTS = 30
TRAINING_IMAGES = 8500
STUDENT_BATCH, TEACHER_BATCH, TEACHER_RATE = 32, 128, 3e-3
WIDTHS, TEACHER_WIDTHS = (8, 16, 32), (64, 128, 128)


class Precision(NamedTuple):
    """What teacher and student compute in.

    Attributes:
        teacher: The `teacher_dtype`; `None` runs both as Keras' layers compute, in float32.
        student: The student's dtype policy.
    """

    teacher: str | None = None
    student: str = "float32"

    def distiller(self, student: keras.Model, teacher: keras.Model) -> mr.Distiller:
        """Returns a distiller with KD."""
        return mr.Distiller(
            student=student,
            teacher=teacher,
            knowledge=[mr.Response("kd")],
            teacher_dtype=self.teacher or "as_given",
        )

    def compile_arguments(self) -> dict[str, Any]:
        return {} if self.teacher else {"fused_normalization": False}


REFERENCE, DEFAULT = "float32", "float32, fused and folded"
PRECISIONS = {
    REFERENCE: Precision(),
    DEFAULT: Precision("float32"),
    "bfloat16 teacher": Precision("bfloat16"),
    "bfloat16 teacher and student": Precision("bfloat16", "mixed_bfloat16"),
    "float16 teacher": Precision("float16"),
    "float16 teacher and student": Precision("float16", "mixed_float16"),
}
TRAINED = [
    REFERENCE,
    DEFAULT,
    "bfloat16 teacher",
    "bfloat16 teacher and student",
    "float16 teacher and student",
]
"""Those whose accuracies are compared."""
WANTED = {
    ("resnet32x4:resnet8x4", "bfloat16 teacher"): 0.78,
    ("resnet32x4:resnet8x4", "bfloat16 teacher and student"): 0.66,
}
"""Ratios to the float32 step that are to be reached where there is bfloat16 arithmetic."""


@contextlib.contextmanager
def policy(name: str):
    """Layers made inside get the dtype policy."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


# Steps


class Pair:
    """What the contenders share: the teacher, the batch, and the weights they start from."""

    def __init__(self, teacher: str, student: str):
        self._student_name = student
        self.teacher = mr.models.get(teacher, num_classes=CLASSES)
        random = np.random.default_rng(FLAGS.seed)
        shape = FLAGS.batch, *self.teacher.input_shape[1:]
        images = random.normal(size=shape).astype("float32")
        batch = images, random.integers(CLASSES, size=FLAGS.batch)
        self.dataset = tf.data.Dataset.from_tensors(batch).repeat()
        common.adopt_statistics(self.teacher, images)
        self._start = self._student().get_weights()

    def _student(self) -> keras.Model:
        return mr.models.get(self._student_name, num_classes=CLASSES)

    def student(self, dtype_policy: str) -> keras.Model:
        """Returns a new student, equal to all others but for its policy."""
        with policy(dtype_policy):
            student = self._student()
        student.set_weights(self._start)
        return student


class Contender:
    """KD in one precision: `step()` trains for one step and returns the loss."""

    def __init__(self, pair: Pair, precision: Precision):
        self.distiller = precision.distiller(pair.student(precision.student), pair.teacher)
        self.distiller.compile(
            keras.optimizers.SGD(RATE, momentum=MOMENTUM),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            **precision.compile_arguments(),
        )
        self.distiller.make_train_function()
        self._iterator = iter(pair.dataset)

    def step(self) -> float:
        # Reading the number waits for a device that computes asynchronously.
        return float(self.distiller.train_function(self._iterator)["loss"])

    def first_step(self) -> tuple[float, np.ndarray]:
        """Returns the loss and the student's gradient, as one vector, at the weights given.

        Steps that are skipped because of a loss scale that is too high change no weight.

        Raises:
            RuntimeError: If no step is taken.
        """
        for _ in range(ATTEMPTS):
            skipped = self.distiller.skipped_steps
            self.distiller.reset_metrics()
            loss = self.step()
            if self.distiller.skipped_steps == skipped:
                break
        else:
            raise RuntimeError(f"Each of {ATTEMPTS} steps was skipped")
        # From zero, one step makes it -rate * gradient.
        momentums = self.distiller.optimizer.momentums
        moved = [np.ravel(keras.ops.convert_to_numpy(value)) for value in momentums]
        return loss, -np.concatenate(moved).astype("float64") / RATE


def errors(first: tuple[float, np.ndarray], reference: tuple[float, np.ndarray]) -> dict[str, Any]:
    """Returns the errors of a first step, as `Contender.first_step` returns it."""
    (loss, gradient), (true_loss, true_gradient) = first, reference
    norm, true_norm = np.linalg.norm(gradient), np.linalg.norm(true_gradient)
    return {
        "loss_error": float(abs(loss - true_loss) / abs(true_loss)),
        "gradient_error": float(np.linalg.norm(gradient - true_gradient) / true_norm),
        "gradient_cosine": float(gradient @ true_gradient / (norm * true_norm)),
    }


def timed() -> list[str]:
    """Returns the names of the precisions whose steps are timed here."""
    return [n for n, (dtype, _) in PRECISIONS.items() if common.has_gpu() or dtype != "float16"]


def measure_steps(pair_name: str) -> list[dict[str, Any]]:
    """Returns the rows of one pair of models, one for each precision."""
    keras.utils.set_random_seed(FLAGS.seed)
    pair = Pair(*pair_name.split(":"))
    contenders = {name: Contender(pair, PRECISIONS[name]) for name in timed()}
    first = {name: contender.first_step() for name, contender in contenders.items()}
    steps = {name: contender.step for name, contender in contenders.items()}
    for step in steps.values():
        step()
    times = common.interleave(steps, rounds=FLAGS.rounds, steps=FLAGS.steps)
    for name, step in steps.items():
        if not np.isfinite(step()):
            raise RuntimeError(f"{name!r} has trained its student to infinity or NaN")
    rows = []
    for name, own in times.items():
        row = {"part": "steps", "pair": pair_name, "contender": name, **_described(name)}
        row |= common.spread(own, "ms")
        if name != REFERENCE:
            ratios = common.paired_ratios(own, times[REFERENCE])
            row |= {"ratio_to": REFERENCE, **common.spread(ratios, "ratio")}
            row["wanted"] = WANTED.get((pair_name, name))
            row |= errors(first[name], first[REFERENCE])
        rows.append(row)
    return rows


def _described(name: str) -> dict[str, Any]:
    precision = PRECISIONS[name]
    return {"teacher_dtype": precision.teacher, "student_policy": precision.student}


def run_steps() -> None:
    sizes = {name: FLAGS[name].value for name in ("batch", "rounds", "steps")}
    about = {
        "cores": common.cores(),
        "bfloat16": common.has_bfloat16(),
        **common.metadata(FLAGS.seed),
    }
    if not about["bfloat16"]:
        print("No bfloat16 arithmetic here: it is emulated, and its times mean little")
    for pair_name in FLAGS.pair:
        rows = measure_steps(pair_name)
        common.append_rows(Path(FLAGS.output), [{**row, **sizes, **about} for row in rows])
        for row in rows:
            line = f"{pair_name}  {row['contender']:30} {row['ms_median']:8.1f} ms"
            if "ratio_to" in row:
                line += f"  {row['ratio_median']:.3f} x  loss {row['loss_error']:.1e}"
                line += f"  gradient {row['gradient_error']:.1e} (cos {row['gradient_cosine']:.5f})"
            print(line, flush=True)


# Accuracies


def convnet(name: str, widths: tuple[int, ...]) -> keras.Model:
    return mr.models.get("convnet", num_classes=10, widths=widths, name=name)


def compile_for(model: keras.Model, rate: float, steps: int, **arguments: Any) -> None:
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        **arguments,
    )


def train_teacher(images: np.ndarray, classes: np.ndarray) -> keras.Model:
    keras.utils.set_random_seed(0)
    teacher = convnet("teacher", TEACHER_WIDTHS)
    steps = FLAGS.teacher_epochs * math.ceil(len(images) / TEACHER_BATCH)
    compile_for(teacher, TEACHER_RATE, steps)
    teacher.fit(images, classes, TEACHER_BATCH, FLAGS.teacher_epochs, verbose=0)
    return teacher


def order(seed: int) -> np.ndarray:
    """Returns the places of the images that a student sees, one after another."""
    random = np.random.default_rng(seed)
    seen = FLAGS.training_steps * STUDENT_BATCH
    epochs = [random.permutation(FLAGS.labels) for _ in range(math.ceil(seen / FLAGS.labels))]
    return np.concatenate(epochs)[:seen]


def measure_accuracy(name: str, seed: int, teacher: keras.Model, data: Any) -> dict[str, Any]:
    """Trains a student once and returns what came of it."""
    precision, ((images, classes), test) = PRECISIONS[name], data
    keras.utils.set_random_seed(seed)
    with policy(precision.student):
        student = convnet("student", WIDTHS)
    distiller = precision.distiller(student, teacher)
    compile_for(
        distiller, FLAGS.learning_rate, FLAGS.training_steps, **precision.compile_arguments()
    )
    seen = order(seed)
    logs = distiller.fit(
        images[seen], classes[seen], batch_size=STUDENT_BATCH, shuffle=False, verbose=0
    ).history
    return {
        "part": "accuracy",
        "contender": name,
        **_described(name),
        "test": accuracy(student, *test),
        "loss": logs["loss"][-1],
        "skipped": sum(distiller.skipped_steps.values()),
        "loss_scale": next(iter(distiller.loss_scales.values()), None),
    }


def accuracy(model: keras.Model, images: np.ndarray, classes: np.ndarray) -> float:
    logits = model.predict(images, batch_size=500, verbose=0)
    return float((logits.argmax(axis=1) == classes).mean())


def run_accuracy() -> None:
    settings = ("training_steps", "labels", "teacher_epochs", "learning_rate")
    sizes = {name: FLAGS[name].value for name in settings}
    about = {"cores": common.cores(), "bfloat16": common.has_bfloat16()}
    data = mr.data.load_sample()
    (images, classes), test = data
    teacher = train_teacher(images[:TRAINING_IMAGES], classes[:TRAINING_IMAGES])
    about["teacher_test"] = accuracy(teacher, *test)
    print(f"teacher {100 * about['teacher_test']:.1f} %", flush=True)
    accuracies = defaultdict(list)
    for seed in range(FLAGS.first_seed, FLAGS.first_seed + FLAGS.seeds):
        for name in TRAINED:
            row = measure_accuracy(name, seed, teacher, data)
            row |= {**sizes, **about, **common.metadata(seed)}
            common.append_rows(Path(FLAGS.output), [row])
            accuracies[name].append(row["test"])
            print(
                f"{name:30} seed {seed}  {100 * row['test']:.2f} %  "
                f"skipped {row['skipped']}  loss scale {row['loss_scale']}",
                flush=True,
            )
    for line in summary(accuracies):
        print(line)


def summary(accuracies: dict[str, list[float]]) -> list[str]:
    """Returns a line for each precision: mean, deviation, and the distance from float32."""
    means = {name: 100 * np.mean(own) for name, own in accuracies.items()}
    if len(accuracies[REFERENCE]) == 1:
        return [f"{name:30} {mean:.2f} %" for name, mean in means.items()]
    spreads = {name: 100 * np.std(own, ddof=1) for name, own in accuracies.items()}
    lines = []
    for name, mean in means.items():
        line = f"{name:30} {mean:.2f} % ± {spreads[name]:.2f}"
        if name != REFERENCE:
            distance = (mean - means[REFERENCE]) / spreads[REFERENCE]
            line += f"  {distance:+.2f} deviations from {REFERENCE}"
        lines.append(line)
    return lines


def main(_) -> None:
    # Every contender traces a step of its own, which TensorFlow takes for retracing.
    tf.get_logger().setLevel("ERROR")
    if FLAGS.part != "accuracy":
        run_steps()
    if FLAGS.part != "steps":
        run_accuracy()


if __name__ == "__main__":
    app.run(main)
