"""Method cost: what a training step of each method costs beside one of KD.

Every offline method of the catalogue trains a student from the same weights with the labels and
its own term alone, at fitting taps, as KD itself does: one teacher, one batch, Keras' SGD. Staged
losses are timed as a term of the joint loss; adapters that learn beforehand count as pretrained.
CRD is there three times: with negatives of each sample's own (as published), with one draw for
the batch, and with a queue instead of the memory bank.

The methods take turns with KD in small groups, because all at once would not fit in memory.
Ratios to KD are taken within a round, then summarized. The memory is the peak of one step beyond
what was held before it, the median of several; what is held for good is told apart: the weights
and the memory of the term's adapter. With `--plain`, all steps run as Keras' layers do, so that a
method is compared with a slower KD. Building the steps takes most of the ten minutes, on two
cores. Run it with nothing else on the machine:

    python -m benchmarks.speed.method_cost
    python -m benchmarks.speed.method_cost --methods=crd --methods=crd_shared --methods=crd_queue
"""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

import modreduce_keras as mr
from benchmarks import catalogue, common

FLAGS = flags.FLAGS
flags.DEFINE_string("teacher", "resnet56", "Teacher, from mr.models")
flags.DEFINE_string("student", "resnet20", "Student, from mr.models")
flags.DEFINE_multi_string("methods", [], "Identifiers of losses; all, if none is given")
flags.DEFINE_bool("plain", False, "As Keras' layers run: nothing fused, nothing folded")
flags.DEFINE_integer("batch", 64, "Images in a batch", lower_bound=2)
flags.DEFINE_integer("samples", 50_000, "Training samples that a memory bank holds", lower_bound=2)
flags.DEFINE_integer("group", 6, "Methods that take turns with KD", lower_bound=1)
flags.DEFINE_integer("rounds", 10, "Rounds, each with every method of a group", lower_bound=1)
flags.DEFINE_integer("steps", 1, "Steps of a method in a round", lower_bound=1)
flags.DEFINE_integer("seed", 0, "Seed of weights and images")
flags.DEFINE_string("output", str(common.RESULTS / "method_cost.jsonl"), "Rows go here")

CLASSES = 100
REFERENCE = "kd"
WARM_UP, PEAKS = 2, 3
VARIANTS = {
    "crd_shared": ("crd", "contrastive_memory", {"sampling": "shared"}),
    "crd_queue": ("crd", "contrastive_queue", {}),
}
"""Other adapters for a method: its identifier, the adapter's and the adapter's arguments."""


class Contender(NamedTuple):
    """A method that is timed: `step()` trains for one step and returns the loss."""

    step: Callable[[], float]
    knowledge: mr.Knowledge


class Pair:
    """What the methods share: the teacher, the batch, and the weights they start from."""

    def __init__(self):
        random = np.random.default_rng(FLAGS.seed)
        images = random.normal(size=(FLAGS.batch, 32, 32, 3)).astype("float32")
        index = random.choice(FLAGS.samples, FLAGS.batch, replace=FLAGS.samples < FLAGS.batch)
        labels = random.integers(CLASSES, size=FLAGS.batch)
        batch = {"inputs": images, "sample_index": index}, labels
        self.dataset = tf.data.Dataset.from_tensors(batch).repeat()
        self.teacher = mr.models.get(FLAGS.teacher, num_classes=CLASSES)
        common.adopt_statistics(self.teacher, images)
        self._start = self._student().get_weights()

    @staticmethod
    def _student() -> keras.Model:
        return mr.models.get(FLAGS.student, num_classes=CLASSES)

    def contender(self, method: str) -> Contender:
        """Returns a new student that learns by a method, compiled and warmed up."""
        student, knowledge = self._student(), knowledge_of(method)
        student.set_weights(self._start)
        student = catalogue.student_for(method, student, self.teacher)
        teacher = self.teacher if knowledge.loss.needs_teacher else None
        distiller = mr.Distiller(
            student=student,
            teacher=teacher,
            knowledge=[knowledge],
            teacher_dtype="as_given" if FLAGS.plain and teacher is not None else None,
        )
        if knowledge.pretrains:
            knowledge.pretrained.assign(1.0)
        # So slow that no method diverges, whatever its weight: the cost is the same.
        optimizer = keras.optimizers.SGD(1e-6, momentum=0.9)
        identifier = knowledge.loss.identifier
        distiller.compile(
            optimizer, catalogue.supervision(identifier), fused_normalization=not FLAGS.plain
        )
        distiller.make_train_function()
        iterator = iter(catalogue.labelled_for(identifier, self.dataset, CLASSES))

        def step() -> float:
            # Reading the number waits for a device that computes asynchronously.
            return float(distiller.train_function(iterator)["loss"])

        for _ in range(WARM_UP):
            if not np.isfinite(step()):
                raise RuntimeError(f"The loss of {method!r} is not finite")
        return Contender(step, knowledge)


def methods() -> list[str]:
    """Returns the names of all methods and their variants, by kind."""
    names = []
    for identifier in catalogue.identifiers():
        names += [identifier, *(name for name, (of, *_) in VARIANTS.items() if of == identifier)]
    return names


def knowledge_of(method: str) -> mr.Knowledge:
    """Returns the knowledge of a method or variant, as a term of the joint loss."""
    identifier, arguments = method, {"staged": False}
    if method in VARIANTS:
        identifier, adapter, options = VARIANTS[method]
        if adapter == "contrastive_memory":
            options = {"samples": FLAGS.samples, **options}
        arguments["adapter"] = mr.adapters.get(adapter, **options)
    sizes = {"samples": FLAGS.samples, "batch_size": FLAGS.batch}
    return catalogue.knowledge_for(identifier, **sizes, **arguments)


def measure(pair: Pair, reference: Contender, group: list[str]) -> list[dict[str, Any]]:
    """Returns the rows of some methods, which take turns with the reference."""
    contenders = {REFERENCE: reference}
    contenders |= {name: pair.contender(name) for name in group if name != REFERENCE}
    steps = {name: contender.step for name, contender in contenders.items()}
    times = common.interleave(steps, rounds=FLAGS.rounds, steps=FLAGS.steps)
    peaks = {
        name: float(np.median([common.peak_memory(step) for _ in range(PEAKS)]))
        for name, step in steps.items()
    }
    rows = []
    for name in group:
        knowledge = contenders[name].knowledge
        row = {"method": name, "kind": knowledge.loss.kind}
        row |= {**common.spread(times[name], "ms"), "mib": round(peaks[name], 1)}
        row["held_mib"] = round(held(knowledge), 2)
        if name != REFERENCE:
            ratios = common.paired_ratios(times[name], times[REFERENCE])
            row |= {"ratio_to": REFERENCE, **common.spread(ratios, "ratio")}
            row["extra_mib"] = round(peaks[name] - peaks[REFERENCE], 1)
        rows.append(row)
    return rows


def held(knowledge: mr.Knowledge) -> float:
    """Returns the size of what a term holds for good, its weights and its memory, in MiB."""
    return sum(variable.numpy().nbytes for variable in knowledge.variables) / 2**20


def main(_) -> None:
    # Every method traces a step of its own, which TensorFlow takes for retracing.
    tf.get_logger().setLevel("ERROR")
    keras.utils.set_random_seed(FLAGS.seed)
    names = ("teacher", "student", "plain", "batch", "samples", "rounds", "steps")
    sizes = {name: FLAGS[name].value for name in names}
    about, pair = common.metadata(FLAGS.seed), Pair()
    chosen, reference = FLAGS.methods or methods(), pair.contender(REFERENCE)
    for first in range(0, len(chosen), FLAGS.group):
        rows = measure(pair, reference, chosen[first : first + FLAGS.group])
        common.append_rows(Path(FLAGS.output), [{**row, **sizes, **about} for row in rows])
        for row in rows:
            ratio = f"  {row['ratio_median']:.2f} x kd" if "ratio_to" in row else ""
            memory = f"{row['mib']:8.1f} MiB in a step, {row['held_mib']:.2f} held"
            print(f"{row['method']:20} {row['ms_median']:8.1f} ms {memory}{ratio}", flush=True)
        gc.collect()


if __name__ == "__main__":
    app.run(main)
