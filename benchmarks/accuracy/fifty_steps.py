"""Fifty steps: each offline method brings the student nearer to the teacher, in its own terms.

A resnet20 is trained on the embedded sample. Then, for each method of the catalogue, a resnet8
learns from it and from the labels for fifty steps of `fit`, with the method's own weight; staged
losses train their stage instead, and adapters that learn beforehand have fifty steps of their
stage first. The method's term is measured before and after, in inference, on images that neither
network has been trained on; the factor by which it falls is the row's number.

Losses on attention, on maps of labels and on numbers have networks of their own that learn from the
same images: those of `fifty_steps_pairs`.

Before the first measurement, batch normalization sees some batches, without any weight being
changed: a new network's running statistics are not those of its activations. A memory bank is
written anew before each measurement, with the embeddings of all images, held-out ones included:
fifty steps fill a part of it only, and a negative that has never been seen is an easy one.

    python -m benchmarks.accuracy.fifty_steps
    python -m benchmarks.accuracy.fifty_steps --methods=crd --methods=semckd
    python -m benchmarks.accuracy.fifty_steps --methods=irg --weight=1
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

import modreduce_keras as mr
from benchmarks import catalogue, common
from benchmarks.accuracy.fifty_steps_pairs import PAIRS, Pair, pair_for

FLAGS = flags.FLAGS
flags.DEFINE_string("teacher", "resnet20", "Teacher, from mr.models")
flags.DEFINE_string("student", "resnet8", "Student, from mr.models")
flags.DEFINE_multi_string("methods", [], "Identifiers of losses; all, if none is given")
flags.DEFINE_integer("steps", 50, "Training steps of the student", lower_bound=1)
flags.DEFINE_integer("teacher_epochs", 3, "Epochs of the teacher's training", lower_bound=1)
flags.DEFINE_integer("trained_on", 10_000, "Images that both are trained on", lower_bound=2)
flags.DEFINE_integer("held_out", 512, "Images that the term is measured on", lower_bound=2)
flags.DEFINE_integer("batch", 64, "Images in a batch", lower_bound=2)
flags.DEFINE_float("learning_rate", 0.02, "Of SGD with momentum 0.9", lower_bound=0.0)
flags.DEFINE_float("weight", None, "Weight of the terms, instead of each method's own")
flags.DEFINE_integer("seed", 0, "Seed of weights and order")
flags.DEFINE_string("output", str(common.RESULTS / "fifty_steps.jsonl"), "Rows go here")

SETTLING_BATCHES = 20
REFRESHING_PASSES = 2


class Images:
    """The embedded sample: what networks train on and what the term is measured on.

    Args:
        targets: Returns the labels of images and their classes. Defaults to `None`: the classes.
    """

    def __init__(self, targets: Callable[[Any, Any], Any] | None = None):
        splits = zip(mr.data.load_sample(), (FLAGS.trained_on, FLAGS.held_out), strict=True)
        parts = [(x[:number], y[:number]) for (x, y), number in splits]
        self.x, self.y = (np.concatenate(both) for both in zip(*parts, strict=True))
        self.trained_on = len(parts[0][0])
        if targets is not None:
            self.y = keras.ops.convert_to_numpy(targets(self.x, self.y))

    def training(self, steps: int) -> tf.data.Dataset:
        """Returns batches to train on, the same at each call."""
        slices = slice(self.trained_on)
        data = tf.data.Dataset.from_tensor_slices((self.x[slices], self.y[slices]))
        data = mr.data.with_index(data).shuffle(self.trained_on, seed=FLAGS.seed).repeat()
        return data.batch(FLAGS.batch, drop_remainder=True).take(steps)

    def batches(self, held_out_only: bool) -> Iterator[tuple[Any, Any]]:
        """Yields batches as `training` does, in order; the last one is smaller."""
        for start in range(self.trained_on * held_out_only, len(self.x), FLAGS.batch):
            index = np.arange(start, min(start + FLAGS.batch, len(self.x)))
            yield {"inputs": self.x[index], "sample_index": index}, self.y[index]


def network(identifier: str) -> keras.Model:
    keras.utils.set_random_seed(FLAGS.seed)
    return mr.models.get(identifier, num_classes=10, input_shape=(28, 28, 1))


def optimizer() -> keras.optimizers.Optimizer:
    return keras.optimizers.SGD(FLAGS.learning_rate, momentum=0.9)


def cross_entropy() -> keras.losses.Loss:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


class Setting(NamedTuple):
    """What a loss is measured with: a trained teacher, images, and the pair if it is another."""

    teacher: keras.Model
    images: Images
    pair: Pair | None

    @classmethod
    def of(cls, pair: Pair | None) -> "Setting":
        """Trains the teacher on the labels, and prints its loss on held-out images."""
        images = Images(None if pair is None else pair.targets)
        teacher = network(FLAGS.teacher) if pair is None else built(pair, is_teacher=True)
        teacher.compile(optimizer(), cross_entropy() if pair is None else pair.supervision)
        x, y = images.x[: images.trained_on], images.y[: images.trained_on]
        teacher.fit(x, y, batch_size=FLAGS.batch, epochs=FLAGS.teacher_epochs, verbose=0)
        held_out = images.x[images.trained_on :], images.y[images.trained_on :]
        print(f"teacher {teacher.name}: loss {teacher.evaluate(*held_out, verbose=0):.3f}")
        return cls(teacher, images, pair)

    def names(self) -> dict[str, str]:
        """Returns what rows call the networks."""
        if self.pair is not None:
            return {"teacher": f"wide {self.pair.name}", "student": f"narrow {self.pair.name}"}
        return {"teacher": FLAGS.teacher, "student": FLAGS.student}

    def distiller(self, identifier: str) -> mr.Distiller:
        """Returns a compiled distiller, whose student is to learn by a loss."""
        weight = {} if FLAGS.weight is None else {"weight": FLAGS.weight}
        if self.pair is not None:
            student = built(self.pair, is_teacher=False)
            knowledge = self.pair.knowledge[identifier](**weight)
            supervision = self.pair.supervision
        else:
            student = catalogue.student_for(identifier, network(FLAGS.student), self.teacher)
            knowledge = catalogue.knowledge_for(
                identifier, samples=len(self.images.x), batch_size=FLAGS.batch, **weight
            )
            supervision = catalogue.supervision(identifier)
        needed = self.teacher if knowledge.loss.needs_teacher else None
        distiller = mr.Distiller(student=student, teacher=needed, knowledge=[knowledge])
        distiller.compile(optimizer(), supervision)
        return distiller


def built(pair: Pair, is_teacher: bool) -> keras.Model:
    keras.utils.set_random_seed(FLAGS.seed)
    return pair.network(is_teacher)


class Term:
    """A method's own term between the two networks of a distiller."""

    def __init__(self, distiller: mr.Distiller, images: Images):
        self.distiller, self.images = distiller, images
        (self.knowledge,) = distiller.all_knowledge()
        self.values = tf.function(self._values, reduce_retracing=True)

    def _values(self, x, y, training, adapting):
        outputs = self.distiller.forward(x, training=training, with_teacher=True, labels=y)
        pair, context = outputs.arguments_of("student", self.knowledge)
        return self.knowledge(*pair, **context, training=adapting)

    def settle(self) -> None:
        """Lets batch normalization and memory see some batches; changes no weight."""
        for x, y in self.images.training(SETTLING_BATCHES):
            self.values(x, y, True, True)

    def measure(self) -> float:
        """Returns the mean of the term over the held-out images."""
        adapter = self.knowledge.adapter
        for _ in range(REFRESHING_PASSES if adapter is not None and adapter.needs_index else 0):
            for x, y in self.images.batches(held_out_only=False):
                self.values(x, y, False, True)
        batches = list(self.images.batches(held_out_only=True))
        means = [np.mean(self.values(x, y, False, False)) for x, y in batches]
        return float(np.average(means, weights=[len(y) for _, y in batches]))


def measure(identifier: str, setting: Setting) -> dict[str, Any]:
    """Returns the row of one method."""
    distiller = setting.distiller(identifier)
    (knowledge,) = distiller.all_knowledge()
    data = setting.images.training(FLAGS.steps)
    term = Term(distiller, setting.images)
    if knowledge.pretrains and not knowledge.staged:
        distiller.pretrain(data, optimizer=optimizer(), verbose=0, shuffle=False)
    term.settle()
    before = term.measure()
    if knowledge.staged:
        distiller.pretrain(data, optimizer=optimizer(), verbose=0, shuffle=False)
    else:
        if setting.pair is None:
            data = catalogue.labelled_for(identifier, data, 10)
        distiller.fit(data, verbose=0, shuffle=False)
    after = term.measure()
    return {
        "method": identifier,
        "kind": knowledge.loss.kind,
        "weight": round(float(knowledge.weight), 6),
        "stage": "own" if knowledge.staged else "joint",
        "before": before,
        "after": after,
        "factor": round(before / after, 3) if before > 0 else None,
        **setting.names(),
    }


def main(_) -> None:
    # Every method traces a step of its own, which TensorFlow takes for retracing.
    tf.get_logger().setLevel("ERROR")
    about = common.metadata(FLAGS.seed)
    sizes = {name: FLAGS[name].value for name in ("steps", "batch")}
    others = [identifier for pair in PAIRS for identifier in pair.knowledge]
    settings: dict[str | None, Setting] = {}
    for identifier in FLAGS.methods or [*catalogue.identifiers(), *others]:
        pair = pair_for(identifier)
        name = None if pair is None else pair.name
        if name not in settings:
            settings[name] = Setting.of(pair)
        row = measure(identifier, settings[name])
        common.append_rows(Path(FLAGS.output), [{**row, **sizes, **about}])
        print(
            f"{identifier:20} weight {row['weight']:<8g} {row['before']:10.4g} -> "
            f"{row['after']:10.4g}, factor {row['factor']}",
            flush=True,
        )
        keras.backend.clear_session(free_memory=False)


if __name__ == "__main__":
    app.run(main)
