r"""Online methods on the embedded sample: what each of them gives for the same budget.

As in `examples/quickstart.py`, a teacher sees 8,500 images, and students of 6,386 parameters see
1,000 of them. The methods:

- `plain`, `kd`, `dkd`, `dist`, `dist and hint`, `shake`: one student, on the labels; with KD, DKD
  or DIST from the teacher; with DIST and a hint at the second stage, with the published weight or
  1; with KD and SHAKE, whose shadow head on the teacher learns from the student too;
- `peers/...`: three students without a teacher, and an aggregator;
- `branches/...`: the same, with a trunk that they share (the first stage);
- `modreduce/...`: three students distilled from the teacher (KD; KD and FitNets' hint; KD and RKD's
  distances), and an aggregator.

`peers/none` and `modreduce/none` learn nothing from one another. They tell what is gained by
choosing the best of three and by averaging three, which the others gain as well.

Images, batches, epochs, optimizer and learning rate are the same for all. The online weight w is
the same too: peers without a teacher reach it by the published ramp-up over 80 of 300 parts of the
training, ModReduce by its growth from 0.01 over all of it. The best peer is chosen by its accuracy
on 1,500 validation images after the last epoch; that of OKDDip is its leader. Test accuracies are
those of 2,000 images: of that peer, of the aggregator's own ensemble where there is one, and of
the mean of all peers' probabilities.

As published, PCL's peers see views of their own, moved by up to two pixels; no other method has
them. ModReduce's form of ONE sees windows of 16×16, of which 28×28 images hold one, the upper left.

Learning rate and w were chosen by validation alone, as the pair with the highest mean accuracy of
the best peers over some methods of each kind, with a seed that the table does not have:

    python -m benchmarks.accuracy.online_table --first_seed=101 --seeds=1 --output=choice.jsonl \
        --learning_rate=0.01 --learning_rate=0.02 --online_weight=0.3 --online_weight=0.7 \
        --methods=kd --methods=peers/mean --methods=peers/mutual --methods=branches/one \
        --methods=modreduce/weighted_average --methods=modreduce/mutual

A row is written after each training, and runs that the file has are not repeated. A run takes half
a minute on a core or two, all five seeds of all methods an hour:

    python -m benchmarks.accuracy.online_table --teacher=/tmp/teacher.keras
    python -m benchmarks.accuracy.online_table --methods=plain --methods=branches/one --seeds=3
"""

import itertools
import math
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

import modreduce_keras as mr
from benchmarks import common

FLAGS = flags.FLAGS
flags.DEFINE_multi_string("methods", [], "Methods; all, if none is given")
flags.DEFINE_integer("seeds", 5, "Number of seeds", lower_bound=1)
flags.DEFINE_integer("first_seed", 1, "The first of them", lower_bound=0)
flags.DEFINE_integer("epochs", 20, "Epochs of the students", lower_bound=1)
flags.DEFINE_integer("teacher_epochs", 8, "Epochs of the teacher", lower_bound=1)
flags.DEFINE_integer("labels", 1000, "Training images of the students", 64, 8500)
flags.DEFINE_multi_float("learning_rate", [0.02], "Of Adam, at the start of its cosine")
flags.DEFINE_multi_float("online_weight", [0.7], "What the online weight grows to, up to 1")
flags.DEFINE_string(
    "teacher",
    str(Path(tempfile.gettempdir()) / "online_table_teacher.keras"),
    "File of the teacher, which is trained where there is none",
)
flags.DEFINE_string("output", str(common.RESULTS / "online_table.jsonl"), "Rows go here")

TRAINING_IMAGES = 8500
BATCH, TEACHER_BATCH, TEACHER_RATE = 32, 128, 3e-3
WIDTHS, TEACHER_WIDTHS = (8, 16, 32), (64, 128, 128)
RAMP_UP = 80 / 300
SETTING = ("epochs", "labels", "teacher_epochs", "learning_rate", "online_weight")

Split = tuple[np.ndarray, np.ndarray]
Setting = dict[str, Any]


class Data(NamedTuple):
    """Images and their classes, by what they are for."""

    teacher: Split
    student: Split
    validation: Split
    test: Split


class Trainee(NamedTuple):
    """What a method trains.

    Attributes:
        model: A student or a distiller.
        passes: Forward passes of students in a training step; parts of a student count by their
            multiply-adds.
    """

    model: keras.Model
    passes: float = 1.0


def load_data() -> Data:
    (images, classes), test = mr.data.load_sample()
    return Data(
        teacher=(images[:TRAINING_IMAGES], classes[:TRAINING_IMAGES]),
        student=(images[: FLAGS.labels], classes[: FLAGS.labels]),
        validation=(images[TRAINING_IMAGES:], classes[TRAINING_IMAGES:]),
        test=test,
    )


def network(name: str, widths: tuple[int, ...] = WIDTHS) -> keras.Model:
    return mr.models.get("convnet", num_classes=10, widths=widths, name=name)


def steps_in(setting: Setting) -> int:
    """Returns the number of training steps of a student."""
    return setting["epochs"] * math.ceil(setting["labels"] / BATCH)


# What each method trains: teacher, setting -> trainee


def plain(teacher, setting) -> Trainee:
    return Trainee(network("student"))


def response(teacher, setting, *, loss: str) -> Trainee:
    """A student that learns from the labels and the teacher's logits."""
    knowledge = [mr.Response(loss)]
    return Trainee(mr.Distiller(student=network("student"), teacher=teacher, knowledge=knowledge))


def dist_and_hint(teacher, setting, *, weight: float | None = None) -> Trainee:
    """A student that learns by DIST and from the maps of the second stage."""
    knowledge = [mr.Response("dist"), mr.Feature("hint", at="stage2", weight=weight)]
    return Trainee(mr.Distiller(student=network("student"), teacher=teacher, knowledge=knowledge))


def shake(teacher, setting) -> Trainee:
    knowledge = [
        mr.Response("kd"),
        mr.Feature("shake", student="logits", teacher=["stage1", "stage2", "stage3", "logits"]),
    ]
    return Trainee(mr.Distiller(student=network("student"), teacher=teacher, knowledge=knowledge))


def peers(teacher, setting, *, aggregator: Any) -> Trainee:
    """Three separate students without a teacher; `None` to train them independently."""
    students = [network(f"peer_{place}") for place in range(3)]
    weight = 0.0 if aggregator is None else ramp_up(setting)
    distiller = mr.PeerDistiller(students, aggregator=aggregator or "mean", online_weight=weight)
    return Trainee(distiller, 3.0 + past_passes(distiller))


def branches(teacher, setting, *, aggregator: Any, number: int = 3, views=False) -> Trainee:
    """Students that share their first stage."""
    student = network("student")
    branched = mr.models.branch(student, at="stage1", branches=number)
    own = [moved(seed) for seed in range(number)] if views else None
    distiller = mr.PeerDistiller(
        branched, aggregator=aggregator, online_weight=ramp_up(setting), student_inputs=own
    )
    parts = [branched.trunk] * (number if views else 1) + list(branched.heads.values())
    cost = sum(map(mr.evaluation.multiply_adds, parts)) / mr.evaluation.multiply_adds(student)
    return Trainee(distiller, cost + past_passes(distiller))


def modreduce(teacher, setting, *, aggregator: Any) -> Trainee:
    """Three students distilled from the teacher; `None` to train them independently."""
    knowledge = {
        "response": [mr.Response("kd")],
        "feature": [mr.Response("kd"), mr.Feature("hint", at="stage2", weight=1.0)],
        "relation": [mr.Response("kd"), mr.Relation("rkd_distance", at="embedding", weight=5.0)],
    }
    growth = mr.schedules.Exponential(0.01, setting["online_weight"], steps=steps_in(setting))
    distiller = mr.ModReduce(
        teacher=teacher,
        students={name: network(name) for name in knowledge},
        knowledge=knowledge,
        aggregator=aggregator or "mean",
        online_weight=0.0 if aggregator is None else growth,
    )
    return Trainee(distiller, 3.0 + past_passes(distiller))


def ramp_up(setting: Setting) -> mr.schedules.SigmoidRampUp:
    steps = max(1, round(RAMP_UP * steps_in(setting)))
    return mr.schedules.SigmoidRampUp(setting["online_weight"], steps=steps)


def moved(seed: int) -> keras.layers.Layer:
    """Returns a layer that moves images by up to two pixels."""
    by = 2 / 28
    return keras.layers.RandomTranslation(by, by, fill_mode="constant", seed=seed)


def past_passes(distiller: mr.PeerDistiller) -> int:
    """Returns how many EMA models of the peers run in a step."""
    return len(distiller.students) if "averages" in distiller.aggregator.needs else 0


METHODS: dict[str, Callable[[keras.Model, Setting], Trainee]] = {
    "plain": plain,
    **{name: partial(response, loss=name) for name in ("kd", "dkd", "dist")},
    "dist and hint": dist_and_hint,
    "dist and hint, weight 1": partial(dist_and_hint, weight=1.0),
    "shake": shake,
    "peers/none": partial(peers, aggregator=None),
    **{
        f"peers/{name}": partial(peers, aggregator=name)
        for name in (
            "mean",
            "leave_one_out_mean",
            "mutual",
            "codistillation",
            "weighted_average",
            "fully_connected",
        )
    },
    "peers/kdcl": lambda *given: peers(*given, aggregator=mr.aggregators.get("kdcl", rule="naive")),
    "branches/one": partial(branches, aggregator="one"),
    "branches/okddip": partial(branches, aggregator="okddip", number=4),
    "branches/pcl": partial(branches, aggregator="pcl", views=True),
    "modreduce/none": partial(modreduce, aggregator=None),
    **{
        f"modreduce/{name}": partial(modreduce, aggregator=name)
        for name in ("mean", "weighted_average", "fully_connected", "okddip", "mutual")
    },
    **{
        f"modreduce/{name}": lambda *given, name=name: modreduce(
            *given, aggregator=mr.aggregators.get(name, variant="modreduce")
        )
        for name in ("one", "pcl")
    },
}
"""In the order of the table. Aggregators with arguments are new for each training."""


def fit(model: keras.Model, split: Split, data: Data, epochs: int, batch: int, rate: float) -> Any:
    """Compiles and fits; validation after the last epoch only. Returns the history's logs."""
    steps = epochs * math.ceil(len(split[0]) / batch)
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model.fit(
        *split,
        validation_data=data.validation,
        validation_freq=epochs,
        epochs=epochs,
        batch_size=batch,
        verbose=0,
    ).history


def load_teacher(data: Data) -> keras.Model:
    """Returns the teacher from its file, or trains it and writes the file."""
    path = Path(FLAGS.teacher)
    if path.exists():
        return keras.saving.load_model(path)
    keras.utils.set_random_seed(0)
    teacher = network("teacher", TEACHER_WIDTHS)
    fit(teacher, data.teacher, data, FLAGS.teacher_epochs, TEACHER_BATCH, TEACHER_RATE)
    teacher.save(path)
    return teacher


def measure(
    method: str, seed: int, setting: Setting, teacher: keras.Model, data: Data
) -> dict[str, Any]:
    """Trains once by a method and returns what came of it."""
    keras.utils.set_random_seed(seed)
    model, passes = METHODS[method](teacher, setting)
    begin = time.perf_counter()
    logs = fit(model, data.student, data, setting["epochs"], BATCH, setting["learning_rate"])
    seconds = time.perf_counter() - begin
    best, students, ensemble = "", [model], None
    if isinstance(model, mr.Distiller):
        students = [model.student]
    elif isinstance(model, mr.PeerDistiller):
        best, students = model.best_student_name, list(model.students.values())
        tested = model.evaluate(*data.test, verbose=0, return_dict=True)
        ensemble = tested.get("ensemble/accuracy")
    images, classes = data.test
    probabilities = [
        keras.ops.convert_to_numpy(keras.ops.softmax(student.predict(images, 500, verbose=0)))
        for student in students
    ]
    place = list(model.students).index(best) if best else 0
    together = accuracy(np.mean(probabilities, axis=0), classes) if best else None
    return {
        "peer": best or None,
        "validation": logs[f"val_{best}/accuracy" if best else "val_accuracy"][-1],
        "test": accuracy(probabilities[place], classes),
        "ensemble_test": ensemble,
        "softmax_ensemble_test": together,
        "seconds": round(seconds, 2),
        "student_passes": round(passes, 3),
        "teacher_passes": int(getattr(model, "teacher", None) is not None),
    }


def accuracy(scores: np.ndarray, classes: np.ndarray) -> float:
    return float((scores.argmax(axis=1) == classes).mean())


def settings() -> Iterator[Setting]:
    """Yields every combination of the learning rates and online weights that were given."""
    same = {name: FLAGS[name].value for name in ("epochs", "labels", "teacher_epochs")}
    for rate, weight in itertools.product(FLAGS.learning_rate, FLAGS.online_weight):
        yield {**same, "learning_rate": rate, "online_weight": weight}


def identity(row: dict[str, Any]) -> tuple:
    """Returns what tells one training from another."""
    return tuple(row[name] for name in ("method", "seed", *SETTING))


def main(_) -> None:
    # Every method traces a step of its own, which TensorFlow takes for retracing.
    tf.get_logger().setLevel("ERROR")
    unknown = sorted(set(FLAGS.methods) - set(METHODS))
    if unknown:
        raise app.UsageError(f"--methods must be of {list(METHODS)}. Received: {unknown}")
    data, output = load_data(), Path(FLAGS.output)
    teacher = load_teacher(data)
    known = {identity(row): row for row in common.read_rows(output)}
    accuracies = defaultdict(list)
    seeds = range(FLAGS.first_seed, FLAGS.first_seed + FLAGS.seeds)
    for seed, setting, method in itertools.product(seeds, settings(), FLAGS.methods or METHODS):
        run = {"method": method, "seed": seed, **setting}
        row = known.get(identity(run))
        if row is None:
            row = {**common.metadata(seed), **run, **measure(method, seed, setting, teacher, data)}
            common.append_rows(output, [row])
            keras.backend.clear_session(free_memory=False)
            print(
                f"{method:28} seed {seed}  validation {100 * row['validation']:.1f} %  "
                f"test {100 * row['test']:.1f} %  {row['seconds']:.1f} s",
                flush=True,
            )
        accuracies[setting["learning_rate"], setting["online_weight"]].append(row["validation"])
    for (rate, weight), values in accuracies.items():
        print(
            f"learning rate {rate:g}, online weight {weight:g}: best peers "
            f"{100 * np.mean(values):.2f} % in validation, the mean of {len(values)} trainings"
        )


if __name__ == "__main__":
    app.run(main)
