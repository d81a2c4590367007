"""Step overhead: what our training step costs beside the same step written by hand.

For each pair of teacher and student, in one process and taking turns:

- plain training of the student with Keras;
- KD: by hand, with this library, and with `keras.distillation`;
- KD + hint + RKD distance + RKD angle: by hand and with this library;
- KD + hint on equal maps, no regressor: with this library and with `keras.distillation`.

The step by hand (`by_hand.py`) is one `tf.function` with none of our code in it. Every contender
trains a student of its own from the same weights, with an optimizer of its own (Keras' SGD with
momentum), on the same batch, and keeps the same books: the running means of the loss and of each
term, and the accuracy, updated and returned by every step (`keras.distillation` keeps the means
it has). Before anything is timed, the first step by hand and ours must give the same logs and
move the student equally. In that comparison ours has Keras' own batch normalizations as well: the
rounding of the fused kernel and of the folded teacher, which are what is timed, grows through a
network. All share one teacher, but for `keras.distillation`, which freezes the teacher it is given
and so gets a copy.

What `fit` runs for each batch (`train_function` on an iterator) is timed, so no costs of an epoch
count; the loop by hand reads the same kind of iterator. `train_on_batch`, which takes NumPy
arrays and returns Python numbers, is timed beside it. The angles of RKD by hand are as published,
from the (batch, batch, features) differences; ours come from the distances and need no such
tensor.

Networks of keras.applications have no taps of the same names: for them, only plain training and KD
are timed.

Ratios are taken within a round, then summarized; `wanted` is the most that one may be. Run it with
nothing else on the machine:

    python -m benchmarks.speed.step_overhead
    python -m benchmarks.speed.step_overhead --pair=ResNet50:MobileNetV2:0.35 \
        --pair=ResNet50:EfficientNetB0 --size=96 --rounds=20 --steps=1
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

import modreduce_keras as mr
from benchmarks import common, networks
from benchmarks.speed import by_hand

FLAGS = flags.FLAGS
flags.DEFINE_multi_string(
    "pair",
    ["resnet56:resnet20", "resnet32x4:resnet8x4"],
    "TEACHER:STUDENT, from mr.models or keras.applications; the student may have a width (:0.35)",
)
flags.DEFINE_integer("size", 32, "Height and width of the images", lower_bound=32)
flags.DEFINE_integer("batch", 64, "Images in a batch", lower_bound=2)
flags.DEFINE_integer("rounds", 14, "Rounds, each with every contender", lower_bound=1)
flags.DEFINE_integer("steps", 2, "Steps of a contender in a round", lower_bound=1)
flags.DEFINE_integer("seed", 0, "Seed of weights and images")
flags.DEFINE_bool("jit_compile", False, "Compile every contender's step with XLA")
flags.DEFINE_string("output", str(common.RESULTS / "step_overhead.jsonl"), "Rows go here")

CLASSES = 100
WANTED = {
    "resnet56:resnet20": 0.80,
    "resnet32x4:resnet8x4": 0.86,
    "ResNet50:MobileNetV2:0.35": 0.80,
    "ResNet50:EfficientNetB0": 0.90,
}
"""The most that our step of KD may take, as a part of the one by hand."""


class Pair:
    """What the contenders share: the teacher, the batch, and the weights they start from."""

    def __init__(self, teacher: str, student: str):
        self._names = {"teacher": teacher, "student": student}
        random = np.random.default_rng(FLAGS.seed)
        size = FLAGS.size
        images = random.normal(size=(FLAGS.batch, size, size, 3)).astype("float32")
        self.batch = images, random.integers(CLASSES, size=FLAGS.batch)
        self.dataset = tf.data.Dataset.from_tensors(self.batch).repeat()
        models = {role: self._new(role) for role in self._names}
        self.teacher = models["teacher"]
        common.adopt_statistics(self.teacher, images)
        self._weights = {role: model.get_weights() for role, model in models.items()}
        self.has_taps = not any(map(networks.is_application, self._names.values()))
        if self.has_taps:
            channels = [models[role].get_layer("stage2").output.shape[-1] for role in self._names]
            self._regressor = by_hand.hint_regressor(*reversed(channels))

    def _new(self, role: str) -> keras.Model:
        # Copies of a network have equal seeds of layers that drop units; a teacher and a student of
        # one architecture have different weights.
        keras.utils.set_random_seed(FLAGS.seed + (role == "teacher"))
        return networks.network(self._names[role], classes=CLASSES, size=FLAGS.size)

    def copy(self, role: str) -> keras.Model:
        """Returns a new teacher or student, equal to all others."""
        model = self._new(role)
        model.set_weights(self._weights[role])
        return model

    def regressor(self) -> keras.Model:
        """Returns a new regressor for the hint, equal to all others."""
        regressor = keras.models.clone_model(self._regressor)
        regressor.set_weights(self._regressor.get_weights())
        return regressor

    def movement(self, student: keras.Model) -> np.ndarray:
        """Returns how far a student's variables have moved from the start, as one vector."""
        weights = zip(student.weights, self._weights["student"], strict=True)
        moved = [now.numpy() - start for now, start in weights if now.trainable]
        return np.concatenate([np.ravel(move) for move in moved])


class Contender(NamedTuple):
    """One way to train a student: `step()` runs one step and returns its logs."""

    step: Callable[[], dict[str, Any]]
    student: keras.Model


def _optimizer():
    return keras.optimizers.SGD(0.01, momentum=0.9)


def _in_keras(
    pair: Pair, trainer: keras.Model, student: keras.Model, on_batch=False, **arguments: Any
) -> Contender:
    """Trains with a Keras model: the student itself or a distiller."""
    trainer.compile(
        optimizer=_optimizer(),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=FLAGS.jit_compile,
        **arguments,
    )
    if on_batch:
        return Contender(lambda: trainer.train_on_batch(*pair.batch, return_dict=True), student)
    trainer.make_train_function()
    iterator = iter(pair.dataset)
    return Contender(lambda: trainer.train_function(iterator), student)


def student_alone(pair):
    student = pair.copy("student")
    return _in_keras(pair, student, student)


def ours(pair, *knowledge, on_batch=False, fused=True):
    distiller = mr.Distiller(
        student=pair.copy("student"),
        teacher=pair.teacher,
        knowledge=list(knowledge),
        teacher_dtype=None if fused else "as_given",
    )
    return _in_keras(pair, distiller, distiller.student, on_batch, fused_normalization=fused)


def keras_distillation(pair, *losses):
    distiller = keras.distillation.Distiller(
        teacher=pair.copy("teacher"), student=pair.copy("student"), distillation_losses=list(losses)
    )
    return _in_keras(pair, distiller, distiller.student)


def hand_written(pair, make_step, *modules):
    student = pair.copy("student")
    step = make_step(student, pair.teacher, *modules, _optimizer(), FLAGS.jit_compile)
    iterator = iter(pair.dataset)
    return Contender(lambda: step(*next(iterator)), student)


def all_contenders(pair: Pair, fused: bool = True) -> dict[str, Contender]:
    """Returns everything that is timed, by its name in the table.

    Args:
        pair: What they share.
        fused: Whether ours run the fused kernel of batch normalizations, and the folded teacher.
    """
    contenders = {
        "student alone": student_alone(pair),
        "KD, by hand": hand_written(pair, by_hand.kd_step),
        "KD, ours": ours(pair, mr.Response("kd"), fused=fused),
    }
    if not pair.has_taps:
        return contenders
    logits = keras.distillation.LogitsDistillation(4.0, loss=keras.losses.KLDivergence())
    maps = keras.distillation.FeatureDistillation("mse", "stage2", "stage2")
    hint = mr.Feature("hint", at="stage2")
    plain_hint = mr.Feature("hint", at="stage2", adapter=None)
    relations = (mr.Relation(f"rkd_{kind}", at="embedding") for kind in ("distance", "angle"))
    contenders |= {
        "KD, ours, train_on_batch": ours(pair, mr.Response("kd"), on_batch=True, fused=fused),
        "KD, keras.distillation": keras_distillation(pair, logits),
        "KD + hint + RKD, by hand": hand_written(pair, by_hand.kd_hint_rkd_step, pair.regressor()),
        "KD + hint + RKD, ours": ours(pair, mr.Response("kd"), hint, *relations, fused=fused),
        "KD + feature, ours": ours(pair, mr.Response("kd"), plain_hint, fused=fused),
        "KD + feature, keras.distillation": keras_distillation(pair, logits, maps),
    }
    hint.adapter.set_weights(pair.regressor().get_weights())
    return contenders


RATIO_TO = {
    "KD, ours": "KD, by hand",
    "KD, ours, train_on_batch": "KD, by hand",
    "KD, keras.distillation": "KD, ours",
    "KD + hint + RKD, ours": "KD + hint + RKD, by hand",
    "KD + feature, keras.distillation": "KD + feature, ours",
}


def first_steps(pair: Pair, contenders: dict[str, Contender]) -> None:
    """Runs one step of each contender, and compares ours with the one by hand.

    Raises:
        RuntimeError: If the logs or the students' movements differ, so that a comparison of
            their times would mean nothing.
    """
    compared = {
        n: other for n, other in RATIO_TO.items() if other.endswith("by hand") and n in contenders
    }
    logs = {name: contenders[name].step() for name in {*compared, *compared.values()}}
    for name, reference in compared.items():
        common.require_same_logs(name, logs[name], reference, logs[reference])
        moved, should = (pair.movement(contenders[n].student) for n in (name, reference))
        common.require_same_movement(name, moved, reference, should)


def measure(pair_name: str) -> list[dict[str, Any]]:
    """Returns the rows of one pair of models, one for each contender."""
    keras.utils.set_random_seed(FLAGS.seed)
    pair = Pair(*pair_name.split(":", maxsplit=1))
    first_steps(pair, all_contenders(pair, fused=False))
    contenders = all_contenders(pair)

    def finished(step):
        # Reading a number from the logs waits for a device that computes asynchronously.
        return lambda: float(next(iter(step().values())))

    steps = {name: finished(contender.step) for name, contender in contenders.items()}
    for step in steps.values():
        step()
    times = common.interleave(steps, rounds=FLAGS.rounds, steps=FLAGS.steps)
    for name, contender in contenders.items():
        if not np.isfinite(pair.movement(contender.student)).all():
            raise RuntimeError(f"{name!r} has trained its student to infinity or NaN")
    rows = []
    for name, own in times.items():
        row = {"pair": pair_name, "contender": name, **common.spread(own, "ms")}
        if name in RATIO_TO:
            ratios = common.paired_ratios(own, times[RATIO_TO[name]])
            row |= {"ratio_to": RATIO_TO[name], **common.spread(ratios, "ratio")}
        if name == "KD, ours":
            row["wanted"] = WANTED.get(pair_name)
        rows.append(row)
    return rows


def main(_) -> None:
    # Every contender traces a step of its own, which TensorFlow takes for retracing.
    tf.get_logger().setLevel("ERROR")
    sizes = {
        name: FLAGS[name].value for name in ("size", "batch", "rounds", "steps", "jit_compile")
    }
    about = common.metadata(FLAGS.seed)
    for pair_name in FLAGS.pair:
        rows = measure(pair_name)
        common.append_rows(Path(FLAGS.output), [{**row, **sizes, **about} for row in rows])
        for row in rows:
            ratio = f"{row['ratio_median']:.3f} x {row['ratio_to']}" if "ratio_to" in row else ""
            print(f"{pair_name}  {row['contender']:34} {row['ms_median']:8.1f} ms  {ratio}")


if __name__ == "__main__":
    app.run(main)
