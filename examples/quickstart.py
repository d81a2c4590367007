"""Quick start: three students learn from a teacher and from one another, and one is deployed.

It trains, on the sample of Fashion-MNIST in the package, a teacher that sees 8,500 images, and
then students of 37,550 parameters that see only 1,000 of them:

- one alone, on the labels;
- one with KD from the teacher (`mr.Distiller`);
- three together (`mr.ModReduce`): each learns from the teacher (KD; KD and FitNets' hint; KD and
  RKD's distances) and, more and more, by the learnt weighted average of all three.

Images, epochs, batch size and optimizer are the same for all, and all is repeated from three
seeds. The best of ModReduce's three and the student to deploy are chosen by accuracy on 1,500
validation images cut from the training images; the 2,000 test images only give the numbers.

It prints a table of the test accuracies, saves learning curves and the aggregator's weights as
PNG and the best student as `.keras` and TFLite, in float32 and in int8, and compares these with
it. A report, as HTML and Markdown, shows what the best student of each way does otherwise than the
teacher: 8 minutes on two cores.

The setting leaves room: the teacher knows 7,500 images that the students never see (where they
saw them all, KD gained one point). Rates, epochs and weights were chosen on the validation images.
Expect the teacher to add five points to a student, several times the spread; ModReduce's best
student to equal the one with KD, within the spread; and the ensemble to be ahead of both.
"""

import math
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from absl import app, flags, logging

import modreduce_keras as mr

VALIDATION_IMAGES = 1500
TRAINING_IMAGES = 10_000 - VALIDATION_IMAGES
TEACHER_WIDTHS, STUDENT_WIDTHS = (64, 128, 128), (20, 40, 80)
TEACHER_BATCH, STUDENT_BATCH = 128, 32
RANGE_IMAGES = 500
TEACHER_RATE, STUDENT_RATE = 3e-3, 2e-2

FLAGS = flags.FLAGS
flags.DEFINE_integer("epochs", 30, "Epochs of every student.", lower_bound=1)
flags.DEFINE_integer("teacher_epochs", 8, "Epochs of the teacher.", lower_bound=1)
flags.DEFINE_integer("seeds", 3, "Repetitions of the students' training.", lower_bound=1)
flags.DEFINE_integer("labels", 1000, "Training images of every student.", 1, TRAINING_IMAGES)
flags.DEFINE_string("output", "quickstart", "Folder for the pictures and the models.")

ALONE, KD = "Student alone", "Student with KD"
MODREDUCE, ENSEMBLE = "ModReduce, best student", "ModReduce, ensemble of all three"
COLORS = {"response": "tab:blue", "feature": "tab:orange", "relation": "tab:green"}

Split = tuple[np.ndarray, np.ndarray]  # images, classes
Outcome = tuple[dict[str, list[float]], dict[str, float], float]  # history, test, seconds
Line = tuple[str, str, np.ndarray]  # label, color, values (seeds, epochs)


class Data(NamedTuple):
    """Images and their classes, by what they are for."""

    teacher: Split
    student: Split
    validation: Split
    test: Split


class Result(NamedTuple):
    """What a method gave from one seed; `metric` is the name of its accuracy in the logs."""

    method: str
    metric: str
    models: list[keras.Model]
    history: dict[str, list[float]]
    test: dict[str, float]
    seconds: float

    def validation_accuracy(self) -> float:
        """Returns the accuracy after the last epoch, by which the best student is chosen."""
        return self.history[f"val_{self.metric}"][-1]


class EpochBar(keras.callbacks.Callback):
    """Shows one of Keras' progress bars for a whole training, with validation accuracies."""

    def __init__(self, title: str, metrics: list[str]):
        super().__init__()
        self.title = title
        self.shown = {metric.split("/")[0]: f"val_{metric}" for metric in metrics}

    def on_train_begin(self, logs=None):
        print(f"{self.title}, on the validation images:")
        self.bar = keras.utils.Progbar(
            self.params["epochs"], stateful_metrics=list(self.shown), unit_name="epoch"
        )

    def on_epoch_end(self, epoch, logs=None):
        self.bar.update(epoch + 1, [(name, logs[log]) for name, log in self.shown.items()])


def load_data(labels: int) -> Data:
    """Returns the splits: the teacher's, a part of it for students, validation and test."""
    (images, classes), test = mr.data.load_sample()
    return Data(
        teacher=(images[:TRAINING_IMAGES], classes[:TRAINING_IMAGES]),
        student=(images[:labels], classes[:labels]),
        validation=(images[TRAINING_IMAGES:], classes[TRAINING_IMAGES:]),
        test=test,
    )


def network(widths: tuple[int, ...], name: str) -> keras.Model:
    """Returns an untrained network from images to the logits of ten classes."""
    return mr.models.get("convnet", num_classes=10, widths=widths, name=name)


def train(
    model: keras.Model, data: Data, split: Split, epochs: int, batch: int, rate: float, **fit: Any
) -> Outcome:
    """Compiles, fits and evaluates a network or a distiller: one recipe for all methods."""
    steps = epochs * math.ceil(len(split[0]) / batch)
    model.compile(
        optimizer=keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps)),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    begin = time.perf_counter()
    history = model.fit(
        *split, validation_data=data.validation, epochs=epochs, batch_size=batch, **fit
    ).history
    seconds = time.perf_counter() - begin
    return history, model.evaluate(*data.test, verbose=0, return_dict=True), seconds


def train_student(
    model: keras.Model, data: Data, epochs: int, title: str, metrics: list[str]
) -> Outcome:
    """Trains a student, or the distiller around it, within the budget that all of them have."""
    bar = EpochBar(title, metrics)
    budget = data.student, epochs, STUDENT_BATCH, STUDENT_RATE
    return train(model, data, *budget, callbacks=[bar], verbose=0)


def train_teacher(data: Data, epochs: int) -> Result:
    """Trains the teacher, once for all seeds, under Keras' usual bars."""
    keras.utils.set_random_seed(0)
    print("Teacher")
    model = network(TEACHER_WIDTHS, "teacher")
    outcome = train(model, data, data.teacher, epochs, TEACHER_BATCH, TEACHER_RATE)
    return Result(f"Teacher ({TRAINING_IMAGES:,} images)", "accuracy", [model], *outcome)


def train_alone(data: Data, epochs: int, seed: int) -> Result:
    """Trains a student on the labels only."""
    keras.utils.set_random_seed(seed)
    student = network(STUDENT_WIDTHS, "student")
    outcome = train_student(student, data, epochs, f"{ALONE}, seed {seed}", ["accuracy"])
    return Result(ALONE, "accuracy", [student], *outcome)


def train_with_kd(teacher: keras.Model, data: Data, epochs: int, seed: int) -> Result:
    """Trains a student on the labels and on the teacher's softened probabilities."""
    keras.utils.set_random_seed(seed)
    distiller = mr.Distiller(
        student=network(STUDENT_WIDTHS, "student"),
        teacher=teacher,
        knowledge=[mr.Response(mr.losses.KD(temperature=4.0))],
    )
    outcome = train_student(distiller, data, epochs, f"{KD}, seed {seed}", ["accuracy"])
    return Result(KD, "accuracy", [distiller.student], *outcome)


def train_modreduce(teacher: keras.Model, data: Data, epochs: int, seed: int) -> list[Result]:
    """Trains three students together; gives the results of the best one and of the ensemble."""
    keras.utils.set_random_seed(seed)
    steps = epochs * math.ceil(len(data.student[0]) / STUDENT_BATCH)
    distiller = mr.ModReduce(
        teacher=teacher,
        students={name: network(STUDENT_WIDTHS, name) for name in COLORS},
        knowledge={
            "response": [mr.Response("kd")],
            "feature": [mr.Response("kd"), mr.Feature("hint", at="stage2", weight=1.0)],
            "relation": [mr.Response("kd"), mr.Relation("rkd_distance", at="embedding", weight=5)],
        },
        aggregator="weighted_average",
        online_weight=mr.schedules.Exponential(0.01, 0.7, steps=steps),
    )
    metrics = [f"{name}/accuracy" for name in (*COLORS, "ensemble")]
    outcome = train_student(distiller, data, epochs, f"ModReduce, seed {seed}", metrics)
    best, everyone = distiller.best_student_name, list(distiller.students.values())
    return [
        Result(MODREDUCE, f"{best}/accuracy", [distiller.best_student], *outcome),
        Result(ENSEMBLE, "ensemble/accuracy", everyone, *outcome),
    ]


def print_table(results: list[Result]) -> None:
    """Prints a row for each method: the mean over its seeds, with the standard deviation."""
    print("\n| method | test accuracy, % | parameters | training, s |")
    print("|---|---|---|---|")
    for method in dict.fromkeys(one.method for one in results):
        same = [one for one in results if one.method == method]
        accuracy = 100 * np.array([one.test[one.metric] for one in same])
        spread = f" ± {accuracy.std(ddof=1):.1f}" if len(same) > 1 else ""
        seconds = np.mean([one.seconds for one in same])
        size = sum(model.count_params() for model in same[0].models)
        print(f"| {method} | {accuracy.mean():.1f}{spread} | {size:,} | {seconds:.0f} |")


def draw(path: Path, title: str, unit: str, bottom: float, lines: list[Line]) -> None:
    """Saves a picture of lines over epochs: the mean of the seeds in a band of one deviation."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.5), layout="constrained")
    axes = figure.subplots()
    for label, color, values in lines:
        epochs = np.arange(1, values.shape[1] + 1)
        mean, deviation = values.mean(axis=0), values.std(axis=0, ddof=min(1, len(values) - 1))
        axes.plot(epochs, mean, color=color, label=label, marker="." if len(epochs) == 1 else "")
        band = mean - deviation, mean + deviation
        axes.fill_between(epochs, *band, color=color, alpha=0.15, linewidth=0)
    axes.set(title=f"{title}, mean ± standard deviation", ylim=(bottom, None))
    axes.set(xlabel="epoch", ylabel=unit)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def draw_pictures(results: list[Result], folder: Path) -> None:
    """Saves the learning curves and the aggregator's weights."""

    def over_seeds(method: str, log: str) -> np.ndarray:
        return np.array([one.history[log] for one in results if one.method == method])

    curves = [
        (ALONE, "tab:gray", 100 * over_seeds(ALONE, "val_accuracy")),
        (KD, "black", 100 * over_seeds(KD, "val_accuracy")),
    ]
    shares = []
    for name, color in COLORS.items():
        accuracy = over_seeds(MODREDUCE, f"val_{name}/accuracy")
        curves.append((f"ModReduce, {name}", color, 100 * accuracy))
        shares.append((name, color, over_seeds(MODREDUCE, f"{name}/ensemble_weight")))
    # The first epochs are steep, and would leave the rest no room.
    low = min(values.mean(axis=0)[values.shape[1] // 8 :].min() for *_, values in curves) - 1
    draw(folder / "learning_curves.png", "Learning curves", "validation accuracy, %", low, curves)
    draw(folder / "aggregator_weights.png", "Aggregator", "weight in the ensemble", 0.0, shares)


def deploy(result: Result, data: Data, folder: Path) -> dict[str, Path]:
    """Saves a student as `.keras` and TFLite, and compares the files with it; gives these."""
    (student,) = result.models
    student.save(folder / "student.keras")
    print(
        f"\nDeployed: {result.method}, the best of all by validation "
        f"({100 * result.validation_accuracy():.1f} %)"
    )
    images, _ = data.student
    files = {
        "student.tflite": {},
        "student_int8.tflite": {"quantization": "int8", "representative": images[:RANGE_IMAGES]},
    }
    for name, arguments in files.items():
        path = mr.export.to_tflite(student, folder / name, **arguments)
        found = mr.export.verify(path, student, data.test)
        print(
            f"{name}: {found.size / 1024:.1f} KiB, test accuracy {100 * found.accuracy:.1f} %, "
            f"agreement with Keras {100 * found.agreement:.2f} % of {found.samples:,} images, "
            f"largest difference of logits {found.largest_difference:.1e}, "
            f"{found.milliseconds:.3f} ms per image"
        )
    return {name: folder / name for name in files}


def write_report(
    teacher: Result,
    chosen: list[Result],
    exports: dict[str, dict[str, Path]],
    test: Split,
    folder: Path,
) -> None:
    """Writes the pages that compare a student of each method with the teacher."""
    curves = {one.method: one.history[f"val_{one.metric}"] for one in chosen}
    curves["teacher"] = teacher.history["val_accuracy"]
    found = mr.report(
        teacher=teacher.models[0],
        students={one.method: one.models[0] for one in chosen},
        exports=exports,
        data=test,
        path=folder,
        histories={name: {"val_accuracy": values} for name, values in curves.items()},
        class_names=mr.data.SAMPLE_CLASSES,
        title="What the students of the quick start have learnt",
    )
    print(f"Report: {found.html}, {found.markdown}")


def main(_) -> None:
    logging.set_verbosity(logging.WARNING)
    folder = Path(FLAGS.output)
    folder.mkdir(parents=True, exist_ok=True)
    data = load_data(FLAGS.labels)
    results = [train_teacher(data, FLAGS.teacher_epochs)]
    (teacher,) = results[0].models
    for seed in range(1, FLAGS.seeds + 1):
        results.append(train_alone(data, FLAGS.epochs, seed))
        results.append(train_with_kd(teacher, data, FLAGS.epochs, seed))
        results += train_modreduce(teacher, data, FLAGS.epochs, seed)
    print_table(results)
    draw_pictures(results, folder)
    best = {}
    for method in (ALONE, KD, MODREDUCE):
        same = [result for result in results if result.method == method]
        best[method] = max(same, key=Result.validation_accuracy)
    deployed = max(best.values(), key=Result.validation_accuracy)
    exports = {deployed.method: deploy(deployed, data, folder)}
    write_report(results[0], list(best.values()), exports, data.test, folder)
    print(f"Pictures and models: {folder}/")


if __name__ == "__main__":
    app.run(main)
