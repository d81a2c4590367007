"""CIFAR-100: the papers' methods and networks, trained alike and told plainly.

A run is a method, a pair of networks, a protocol and a seed. `--protocol=paper` is that of the
publications: 240 epochs of SGD. Two are for two cores, with augmentations that a teacher has seen
once: `--protocol=middle`, 30 epochs of 45,000 images, and `--protocol=small`, 20 epochs of 10,000.
`--protocol=few_labels` is the small one with labels for 1,000 of the images.
Methods stand in `methods.py` and `every_loss.py`, protocols in `protocols.py`, what was published
in `published.py`.

    python -m benchmarks.cifar100.train --pair=resnet56:resnet20 --method=modreduce \
        --aggregator=weighted_average --protocol=paper --seeds=3
    python -m benchmarks.cifar100.train --flagfile=benchmarks/cifar100/configurations/small.txt

Methods are compared in pairs: those of one seed see the same images in the same order, crops and
flips, and their students begin with equal weights, the first, the second and the third one alike.

A row is written after each run, and runs that the file has are not repeated. A run that was killed
resumes; one that diverges ends and is recorded as such. `--folder` holds the files that runs share:
`teachers/NETWORK.keras`, which is trained first by the papers' protocol where it is missing (any
saved Keras model of that layout will do, see `mr.models.load_teacher`), the caches of their
outputs, and the checkpoints of unfinished runs.

Students never see the test images before their last epoch: the last images of each class of the
training set are held out (5,000 in the papers' protocol, where the publications train on them as
well), and the best of several students is the best on these. The publications chose the epoch by
the test set.
"""

import dataclasses
import itertools
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags, logging

import modreduce_keras as mr
from benchmarks import common
from benchmarks.cifar100 import every_loss
from benchmarks.cifar100.methods import AGGREGATORS, ALONE, METHODS, Task, Trainee, stages_of
from benchmarks.cifar100.protocols import PROTOCOLS, Protocol
from modreduce_keras.registry import components

FLAGS = flags.FLAGS
flags.DEFINE_multi_string("pair", ["resnet56:resnet20"], "TEACHER:STUDENT, from mr.models")
flags.DEFINE_multi_string("method", [], "Methods; all, if none is given")
flags.DEFINE_multi_enum("aggregator", list(AGGREGATORS), AGGREGATORS, "Those of --method=modreduce")
flags.DEFINE_enum("protocol", "paper", list(PROTOCOLS), "How students are trained")
flags.DEFINE_integer("seeds", 1, "Number of seeds", lower_bound=1)
flags.DEFINE_integer("first_seed", 1, "The first of them", lower_bound=0)
flags.DEFINE_integer("epochs", None, "Epochs, if not the protocol's", lower_bound=1)
flags.DEFINE_integer("held_out", None, "Images held out, if not the protocol's", 100, 49_900)
flags.DEFINE_integer("validation", None, "Images of these that validate, if not the protocol's", 1)
flags.DEFINE_string("folder", "cifar100_runs", "Folder of teachers, caches and checkpoints")
flags.DEFINE_string("data_dir", None, "Folder of the prepared data sets; downloads, if not given")
flags.DEFINE_string(
    "output", None, "Rows go here; to results/cifar100_PROTOCOL.jsonl, if not given"
)

TEST_BATCH = 500
RUN = ("protocol", "pair", "method", "seed", "epochs", "samples", "validation_images")
"""What tells one run from another."""
OUTCOME = (
    *("diverged", "best", "test", "students_test", "ensemble_test", "softmax_ensemble_test"),
    *("validation", "curve"),
)
"""What comes of a training."""


@dataclasses.dataclass(frozen=True)
class Run:
    """A method, its networks and a seed under a protocol."""

    protocol_name: str
    protocol: Protocol
    pair: str
    method: str
    seed: int

    @property
    def teacher(self) -> str:
        return self.pair.split(":")[0]

    @property
    def student(self) -> str:
        return self.pair.split(":")[1]

    def describe(self) -> dict[str, Any]:
        """Returns what the row says of the run."""
        own = self.protocol_name, self.pair, self.method, self.seed
        sizes = self.protocol.epochs, self.protocol.samples, self.protocol.validation
        return dict(zip(RUN, (*own, *sizes), strict=True))

    def folder(self) -> Path:
        """Returns the folder of the run's checkpoints."""
        name = "_".join(str(value) for value in self.describe().values())
        return Path(FLAGS.folder, "runs", "".join(c if c.isalnum() else "_" for c in name))


class Clock(keras.callbacks.Callback):
    """Writes each epoch's seconds, validation included, into the history."""

    def on_epoch_begin(self, epoch, logs=None):
        self.begin = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        logs["seconds"] = time.perf_counter() - self.begin


def images(protocol: Protocol, split: str, **arguments: Any) -> tf.data.Dataset:
    """Returns the batches of a split."""
    if split != "train":
        arguments["batch_size"] = TEST_BATCH
    data = mr.data.cifar100(
        split,
        validation=protocol.held_out,
        data_dir=FLAGS.data_dir,
        download=FLAGS.data_dir is None,
        **arguments,
    )
    if split != "validation":
        return data
    few = data.unbatch().take(protocol.validation).batch(TEST_BATCH)
    return few.apply(tf.data.experimental.assert_cardinality(-(-protocol.validation // TEST_BATCH)))


def training_images(run: Run, taught: bool, views: int = 1, parts: int = 1) -> tf.data.Dataset:
    """Returns the batches of a training, with the index of each image if there is a teacher."""
    few = run.protocol.labelled is not None
    data = images(
        run.protocol,
        "train",
        batch_size=run.protocol.batch * parts,
        augmentations=run.protocol.augmentations,
        views=views,
        seed=run.seed,
        index=taught or few,
    )
    if not few:
        return data
    known = tf.constant(has_label(run.protocol))

    def with_few_labels(x, y):
        y = tf.where(tf.gather(known, x["sample_index"]), y, tf.constant(-1, y.dtype))
        return (x if taught else x["inputs"]), y

    return data.map(with_few_labels)


def has_label(protocol: Protocol) -> np.ndarray:
    """Returns whether each training image has a label: the first ones of each class do."""
    batches = images(protocol, "train", batch_size=TEST_BATCH, shuffle=False, augment=False)
    classes = np.concatenate([labels for _, labels in batches.as_numpy_iterator()])
    before = [np.sum(classes[:place] == one) for place, one in enumerate(classes)]
    return np.array(before) < protocol.labelled // len(np.unique(classes))


def cached(run: Run, teacher: keras.Model) -> mr.data.TeacherCache:
    """Returns the filled cache of a teacher's outputs, for the images of a seed."""
    name = f"{run.teacher}_{run.protocol.samples}_images_seed_{run.seed}"
    cache = mr.data.TeacherCache(
        Path(FLAGS.folder, "caches", name),
        teacher,
        taps=[*stages_of(teacher), "embedding"],
        views=run.protocol.augmentations,
        dtype="float16",
    )
    cache.fill(training_images(run, taught=True))
    return cache


def fit(run: Run, identifier: str, trainee: Trainee, data: tf.data.Dataset) -> dict[str, list]:
    """Compiles and trains, or resumes a training that was killed. Returns the history."""
    protocol, model = run.protocol, trainee.model
    optimizer = protocol.optimizer(identifier, trainee.ema_momentum)
    if isinstance(model, mr.ModReduce):
        optimizer = {
            name: protocol.optimizer(identifier, trainee.ema_momentum) for name in model.students
        }
        if model.aggregator.trainable_variables:
            optimizer["aggregator"] = protocol.aggregator_optimizer()
    model.compile(optimizer, protocol.loss, metrics=["accuracy"])
    # Where students share the images, an epoch of each takes several of the data.
    epochs, every = (trainee.parts * n for n in (protocol.epochs, protocol.validate_every))
    return model.fit(
        data,
        validation_data=images(protocol, "validation"),
        validation_freq=sorted({*range(every, epochs + 1, every), epochs}),
        epochs=epochs,
        callbacks=[
            Clock(),
            mr.callbacks.Resume(run.folder()),
            keras.callbacks.TerminateOnNaN(),
        ],
        shuffle=False,
        verbose=0,
    ).history


def load_teacher(protocol: Protocol, identifier: str) -> keras.Model:
    """Returns the teacher from its file, or trains it by the papers' protocol and writes it."""
    path = Path(FLAGS.folder, "teachers", f"{identifier}.keras")
    protocol = protocol if FLAGS.protocol == "paper" else PROTOCOLS["paper"]
    if not path.exists():
        print(
            f"Training the teacher first, {identifier} on the labels for {protocol.epochs} epochs: "
            f"{path} is not there. Any saved Keras model of this layout would do",
            flush=True,
        )
        keras.utils.set_random_seed(0)
        run = Run("paper", protocol, f"labels:{identifier}", "plain", 0)
        teacher = protocol.network(identifier, "teacher")
        history = fit(run, identifier, Trainee(teacher), training_images(run, taught=False))
        shutil.rmtree(run.folder())
        if not np.isfinite(history["loss"][-1]):
            raise RuntimeError(
                f"The training of the teacher {identifier} diverged in epoch "
                f"{len(history['loss'])}. Put a trained one at {path}"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        teacher.save(path)
    arguments = {**protocol.arguments.get(identifier, {}), "name": "teacher"}
    return mr.models.load_teacher(path, identifier, normalized=True, **arguments)


def networks(run: Run) -> Callable[[str], keras.Model]:
    """Returns a function that makes untrained students.

    The weights of the first one are a function of the run's seed, and so are those of the second
    and the third: not of what else a method draws.
    """
    numbers = itertools.count()

    def network(name: str) -> keras.Model:
        keras.utils.set_random_seed(run.seed + 1000 * next(numbers))
        return run.protocol.network(run.student, name)

    return network


def prepare(run: Run, teacher: keras.Model | None) -> tuple[Trainee, tf.data.Dataset]:
    """Returns what a run trains, and on what."""
    if teacher is not None and run.protocol.augmentations:
        teacher = cached(run, teacher)
    made = {**METHODS, **every_loss.EVERY_LOSS}[run.method]
    trainee = made(Task(networks(run), teacher, run.protocol))
    data = training_images(run, teacher is not None, trainee.views, trainee.parts)
    if isinstance(teacher, mr.data.TeacherCache):
        read = {
            tap for knowledge in trainee.model.all_knowledge() for tap in knowledge.taps("teacher")
        }
        data = teacher.attach(data, [tap for tap in teacher.taps if tap in read])
    return trainee, data


def measure(run: Run, teacher: keras.Model | None) -> dict[str, Any]:
    """Trains once and returns what came of it."""
    protocol, (trainee, data) = run.protocol, prepare(run, teacher)
    history = fit(run, run.student, trainee, data)
    return {
        **outcome(protocol, trainee.model, history),
        "seconds": round(sum(history["seconds"]), 1),
        "student_steps": round(trainee.students * protocol.steps),
        "teacher_forwards": trainee.teachers * protocol.samples * protocol.epochs,
    }


def outcome(protocol: Protocol, model: keras.Model, history: dict[str, list]) -> dict[str, Any]:
    """Returns accuracies: of the deployed student, of the ensembles, and on the way.

    They are `None` if the loss became infinite or no number, in the epoch `"diverged"`.
    """
    if not np.isfinite(history["loss"][-1]):
        losses = [round(value, 4) for value in history["loss"][:-1]]
        curve = {"validation": [], "loss": losses}
        return dict.fromkeys(OUTCOME) | {"diverged": len(history["loss"]), "curve": curve}
    best, students, ensemble = "", [model], None
    test = images(protocol, "test")
    if isinstance(model, mr.Distiller):
        students = [model.student]
    elif isinstance(model, mr.PeerDistiller):
        best, students = model.best_student_name, list(model.students.values())
        ensemble = model.evaluate(test, verbose=0, return_dict=True).get("ensemble/accuracy")
    classes = np.concatenate([labels for _, labels in test.as_numpy_iterator()])
    pixels = test.map(lambda x, y: x)
    probabilities = [
        keras.ops.convert_to_numpy(keras.ops.softmax(student.predict(pixels, verbose=0)))
        for student in students
    ]
    accuracies = [float((scores.argmax(axis=1) == classes).mean()) for scores in probabilities]
    together = np.mean(probabilities, axis=0).argmax(axis=1) == classes
    of_best = f"val_{best}/accuracy" if best else "val_accuracy"
    return {
        "diverged": None,
        "best": best or None,
        "test": accuracies[list(model.students).index(best) if best else 0],
        "students_test": dict(zip(model.students, accuracies, strict=True)) if best else None,
        "ensemble_test": ensemble,
        "softmax_ensemble_test": float(together.mean()) if best else None,
        "validation": history[of_best][-1],
        "curve": {
            "validation": [round(value, 4) for value in history[of_best]],
            "loss": [round(value, 4) for value in history["loss"]],
        },
    }


def test_accuracy(protocol: Protocol, network: keras.Model) -> float:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(loss=loss, metrics=["accuracy"])
    return network.evaluate(images(protocol, "test"), verbose=0, return_dict=True)["accuracy"]


def runs() -> Iterator[Run]:
    """Yields the runs that the flags ask for: all methods of a seed, then the next seed."""
    given = {"epochs": FLAGS.epochs, "held_out": FLAGS.held_out, "validation": FLAGS.validation}
    given = {name: value for name, value in given.items() if value is not None}
    protocol = dataclasses.replace(PROTOCOLS[FLAGS.protocol], **given)
    if protocol.validation > protocol.held_out:
        raise app.UsageError(
            f"--validation must be at most the {protocol.held_out} images held out "
            f"(--held_out). Received: {protocol.validation}"
        )
    for seed in range(FLAGS.first_seed, FLAGS.first_seed + FLAGS.seeds):
        for pair in FLAGS.pair:
            for method in methods():
                yield Run(FLAGS.protocol, protocol, pair, method, seed)


def methods() -> list[str]:
    """Returns the methods that the flags ask for, ModReduce with each of its aggregators.

    Every loss of the catalogue is trained on demand only: `"default"`, or `"balanced/kd"`.

    Raises:
        absl.app.UsageError: If there is no such method.
    """
    groups = {"modreduce": [f"modreduce/{name}" for name in FLAGS.aggregator]}
    grouped = {f"modreduce/{name}" for name in AGGREGATORS}
    alone = [name for name in METHODS if name not in grouped]
    named = FLAGS.method or [*alone, *groups]
    groups |= {name: list(group) for name, group in every_loss.GROUPS.items()}
    unknown = sorted(set(named) - {*METHODS, *every_loss.EVERY_LOSS, *groups})
    if unknown:
        raise app.UsageError(
            f"--method must be of {[*alone, *groups]}, or one of a group, 'modreduce/one' or "
            f"'default/kd'. Received: {unknown}"
        )
    wanted = {name for given in named for name in groups.get(given, [given])}
    return [name for name in (*METHODS, *every_loss.EVERY_LOSS) if name in wanted]


def require_networks() -> None:
    """Raises if a pair is not one of two networks."""
    for pair in FLAGS.pair:
        names = pair.split(":")
        if len(names) != 2 or not set(names) <= set(components("model")):
            raise app.UsageError(
                f"--pair must be TEACHER:STUDENT, two of {sorted(components('model'))}. "
                f"Received: {pair}"
            )


def main(_) -> None:
    logging.set_verbosity(logging.WARNING)
    # Every method traces a step of its own, which TensorFlow takes for retracing.
    tf.get_logger().setLevel("ERROR")
    require_networks()
    output = Path(FLAGS.output or common.RESULTS / f"cifar100_{FLAGS.protocol}.jsonl")
    teachers = {}
    for run in runs():
        about = run.describe()
        known = [[row[name] for name in RUN] for row in common.read_rows(output)]
        if list(about.values()) in known:
            continue
        taught = run.method not in (*ALONE, *every_loss.ALONE)
        if taught and run.teacher not in teachers:
            teacher = load_teacher(run.protocol, run.teacher)
            teachers[run.teacher] = teacher, test_accuracy(run.protocol, teacher)
        teacher, accuracy = teachers[run.teacher] if taught else (None, None)
        settings = dataclasses.asdict(run.protocol)
        row = {**common.metadata(run.seed), **settings, **about, "teacher_test": accuracy}
        row |= measure(run, teacher)
        common.append_rows(output, [row])
        shutil.rmtree(run.folder())
        keras.backend.clear_session(free_memory=False)
        told = f"diverged in epoch {row['diverged']}"
        if not row["diverged"]:
            told = f"validation {row['validation']:.2%}  test {row['test']:.2%}"
        about = f"{run.pair} {run.method:26} seed {run.seed}"
        print(f"{about}  {told}  {row['seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    app.run(main)
