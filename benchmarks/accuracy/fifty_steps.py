"""Fifty steps: each offline method brings the student nearer to the teacher, in its own terms.

A resnet20 is trained on the embedded sample. Then, for each method of the catalogue, a resnet8
learns from it and from the labels for fifty steps of `fit`, with the method's own weight; staged
losses train their stage instead, and adapters that learn beforehand have fifty steps of their
stage first. The method's term is measured before and after, in inference, on images that neither
network has been trained on; the factor by which it falls is the row's number.

Before the first measurement, batch normalization sees some batches, without any weight being
changed: a new network's running statistics are not those of its activations. A memory bank is
written anew before each measurement, with the embeddings of all images, held-out ones included:
fifty steps fill a part of it only, and a negative that has never been seen is an easy one.

    python -m benchmarks.accuracy.fifty_steps
    python -m benchmarks.accuracy.fifty_steps --methods=crd --methods=semckd
    python -m benchmarks.accuracy.fifty_steps --methods=irg --weight=1
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

import modreduce_keras as mr
from benchmarks import catalogue, common

FLAGS = flags.FLAGS
flags.DEFINE_string("teacher", "resnet20", "Teacher, from mr.models")
flags.DEFINE_string("student", "resnet8", "Student, from mr.models")
flags.DEFINE_multi_string("methods", [], "Identifiers of losses; all, if none is given")
flags.DEFINE_integer("steps", 50, "Training steps of the student", lower_bound=1)
flags.DEFINE_integer("teacher_epochs", 3, "Epochs of the teacher's training", lower_bound=1)
flags.DEFINE_integer("trained_on", 10_000, "Images that both are trained on", lower_bound=2)
flags.DEFINE_integer("held_out", 512, "Images that the term is measured on", lower_bound=2)
flags.DEFINE_integer("batch", 64, "Images in a batch", lower_bound=2)
flags.DEFINE_float("learning_rate", 0.02, "Of SGD with momentum .9", lower_bound=0.0)
flags.DEFINE_float("weight", None, "Weight of the terms, instead of each method's own")
flags.DEFINE_integer("seed", 0, "Seed of weights and order")
flags.DEFINE_string("output", str(common.RESULTS / "fifty_steps.jsonl"), "Rows go here")

SETTLING_BATCHES = 20
REFRESHING_PASSES = 2


class Images:
    """The embedded sample: what networks train on and what the term is measured on."""

    def __init__(self):
        splits = zip(mr.data.load_sample(), (FLAGS.trained_on, FLAGS.held_out), strict=True)
        parts = [(x[:number], y[:number]) for (x, y), number in splits]
        self.x, self.y = (np.concatenate(both) for both in zip(*parts, strict=True))
        self.trained_on = len(parts[0][0])

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


def trained_teacher(images: Images) -> keras.Model:
    """Returns the teacher, trained on the labels, and prints its accuracy on held-out images."""
    teacher = network(FLAGS.teacher)
    teacher.compile(optimizer(), cross_entropy(), metrics=["accuracy"])
    x, y = images.x[: images.trained_on], images.y[: images.trained_on]
    teacher.fit(x, y, batch_size=FLAGS.batch, epochs=FLAGS.teacher_epochs, verbose=0)
    held_out = images.x[images.trained_on :], images.y[images.trained_on :]
    print(f"teacher: {teacher.evaluate(*held_out, verbose=0)[1]:.3f} of held-out images right")
    return teacher


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


def measure(identifier: str, teacher: keras.Model, images: Images) -> dict[str, Any]:
    """Returns the row of one method."""
    student = catalogue.student_for(identifier, network(FLAGS.student), teacher)
    weight = {} if FLAGS.weight is None else {"weight": FLAGS.weight}
    knowledge = catalogue.knowledge_for(
        identifier, samples=len(images.x), batch_size=FLAGS.batch, **weight
    )
    needed = teacher if knowledge.loss.needs_teacher else None
    distiller = mr.Distiller(student=student, teacher=needed, knowledge=[knowledge])
    distiller.compile(optimizer(), catalogue.supervision(identifier))
    data = images.training(FLAGS.steps)
    term = Term(distiller, images)
    if knowledge.pretrains and not knowledge.staged:
        distiller.pretrain(data, optimizer=optimizer(), verbose=0, shuffle=False)
    term.settle()
    before = term.measure()
    if knowledge.staged:
        distiller.pretrain(data, optimizer=optimizer(), verbose=0, shuffle=False)
    else:
        labelled = catalogue.labelled_for(identifier, data, 10)
        distiller.fit(labelled, verbose=0, shuffle=False)
    after = term.measure()
    return {
        "method": identifier,
        "kind": knowledge.loss.kind,
        "weight": round(float(knowledge.weight), 6),
        "stage": "own" if knowledge.staged else "joint",
        "before": before,
        "after": after,
        "factor": round(before / after, 3) if before > 0 else None,
    }


def main(_) -> None:
    # Every method traces a step of its own, which TensorFlow takes for retracing.
    tf.get_logger().setLevel("ERROR")
    about, images = common.metadata(FLAGS.seed), Images()
    teacher = trained_teacher(images)
    sizes = {name: FLAGS[name].value for name in ("teacher", "student", "steps", "batch")}
    for identifier in FLAGS.methods or catalogue.identifiers():
        row = measure(identifier, teacher, images)
        common.append_rows(Path(FLAGS.output), [{**row, **sizes, **about}])
        print(
            f"{identifier:20} weight {row['weight']:<8g} {row['before']:10.4g} -> "
            f"{row['after']:10.4g}, factor {row['factor']}"
        )
        keras.backend.clear_session(free_memory=False)


if __name__ == "__main__":
    app.run(main)
