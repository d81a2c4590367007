"""How students of `benchmarks.accuracy.smaller` are trained: one recipe for all of them."""

import dataclasses
import math
import tempfile
from typing import Any

import keras

import modreduce_keras as mr
from benchmarks.accuracy.smaller.images import Images, Split, accuracy

TRAINING_IMAGES = 8500
TEACHER_BATCH, TEACHER_WIDTHS, TEACHER_RATE = 128, (64, 128, 128), 3e-3
TEMPERATURE, ONLINE_WEIGHT = 4.0, 0.7
LABELS, KD, MODREDUCE = "labels", "kd", "modreduce"
PEERS = ("kd", "dist", "dkd")
"""What the three students of ModReduce learn from the teacher, as in the README."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The students of a data set, and the learning rates of their trainings.

    Attributes:
        classes: Number of classes.
        shape: Of an image.
        widths: Channels of the student's stages.
        rank: Of the layers of low rank.
        rate: Learning rate of Adam from random weights, and with zeros.
        channel_rate: Of students of fewer channels or low rank.
        cluster_rate: Of clustered students.
        rounding_rate: Of students in int8.
        timed: Whether the files are timed.
    """

    classes: int = 10
    shape: tuple[int, int, int] = (28, 28, 1)
    widths: tuple[int, ...] = (20, 40, 80)
    rank: int = 8
    rate: float = 2e-2
    channel_rate: float = 1e-2
    cluster_rate: float = 5e-4
    rounding_rate: float = 2e-3
    timed: bool = True

    def network(self, name: str, widths: tuple[int, ...] | None = None) -> keras.Model:
        """Returns an untrained network from images to logits."""
        given = {"num_classes": self.classes, "input_shape": self.shape}
        return mr.models.get("convnet", widths=widths or self.widths, name=name, **given)


def optimizer(rate: float, steps: int) -> keras.optimizers.Optimizer:
    """Returns Adam, whose rate falls to 0 by a cosine."""
    return keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps))


def cross_entropy() -> keras.losses.Loss:
    """Returns the loss on labels."""
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def trained_teacher(data: Split, epochs: int) -> keras.Model:
    """Returns the teacher of all seeds."""
    keras.utils.set_random_seed(0)
    teacher = Recipe().network("teacher", TEACHER_WIDTHS)
    images, classes = (part[:TRAINING_IMAGES] for part in data)
    teacher.compile(
        optimizer(TEACHER_RATE, epochs * math.ceil(len(images) / TEACHER_BATCH)), cross_entropy()
    )
    teacher.fit(images, classes, TEACHER_BATCH, epochs, verbose=0)
    return teacher


@dataclasses.dataclass(frozen=True)
class Course:
    """What the students of one seed have in common: images, teacher, order of the images.

    Attributes:
        teacher: The teacher.
        images: What students are trained on.
        validation: Images that neither is trained on, to choose by.
        test: Images that only give the numbers.
        seed: Of first weights and order.
        recipe: What students are trained, and how.
    """

    teacher: keras.Model
    images: Images
    validation: Split
    test: Split
    seed: int
    recipe: Recipe = dataclasses.field(default_factory=Recipe)

    def steps(self, epochs: int) -> int:
        """Returns the number of training steps."""
        return epochs * math.ceil(self.images.size / self.images.batch)

    def student(self, number: int = 0) -> keras.Model:
        """Returns an untrained student: the same one for the same number."""
        keras.utils.set_random_seed(1000 * number + self.seed)
        return self.recipe.network(f"student_{number}")

    def fit(self, model: keras.Model, epochs: int, rate: float, *, taught: bool) -> None:
        """Trains a model or a distiller on the images, in the order of the seed."""
        data = self.images.batches(taught=taught)
        model.compile(optimizer(rate, self.steps(epochs)), cross_entropy())
        model.fit(data, epochs=epochs, shuffle=False, verbose=0)

    def distil(self, student: keras.Model, epochs: int, rate: float) -> keras.Model:
        """Trains a student on the labels and by KD, and returns it."""
        knowledge = [mr.Response(mr.losses.KD(temperature=TEMPERATURE))]
        distiller = mr.Distiller(student=student, teacher=self.images.outputs, knowledge=knowledge)
        self.fit(distiller, epochs, rate, taught=True)
        return student

    def together(
        self, students: list[keras.Model], epochs: int, rate: float, *, grows: bool = True
    ) -> list[keras.Model]:
        """Trains three students by ModReduce, and returns them."""
        weight = mr.schedules.Exponential(0.01, ONLINE_WEIGHT, steps=self.steps(epochs))
        distiller = mr.ModReduce(
            teacher=self.images.outputs,
            students=dict(zip(PEERS, students, strict=True)),
            knowledge={name: [mr.Response(name)] for name in PEERS},
            aggregator="weighted_average",
            online_weight=weight if grows else ONLINE_WEIGHT,
        )
        self.fit(distiller, epochs, rate, taught=True)
        return students

    def learn(
        self, way: str, students: list[keras.Model], epochs: int, rate: float, **given: Any
    ) -> list[keras.Model]:
        """Trains students in a way, `LABELS`, `KD` or `MODREDUCE`, and returns them."""
        if way == MODREDUCE:
            return self.together(students, epochs, rate, **given)
        for student in students:
            if way == KD:
                self.distil(student, epochs, rate)
            else:
                self.fit(student, epochs, rate, taught=False)
        return students

    def deployed(self, students: list[keras.Model]) -> keras.Model:
        """Returns the student that is best on the validation images."""
        if len(students) == 1:
            return students[0]
        return max(students, key=lambda student: accuracy(student, self.validation))

    def measured(self, model: keras.Model) -> dict[str, Any]:
        """Returns what a row says of a model."""
        return {
            "accuracy": accuracy(model, self.test),
            "parameters": model.count_params(),
            "multiply_adds": mr.evaluation.multiply_adds(model),
            "gzipped": mr.compression.gzipped_size(model),
        }

    def measured_file(self, model: keras.Model, **quantization: Any) -> dict[str, Any]:
        """Returns what a row says of a model's TFLite file."""
        with tempfile.TemporaryDirectory() as folder:
            path = mr.export.to_tflite(model, f"{folder}/student.tflite", **quantization)
            given = {"least_agreement": 0.0, "repeats": 500 if self.recipe.timed else 1}
            found = mr.export.verify(path, model, self.test, **given)
            zipped = mr.compression.gzipped_size(path)
        return {
            "accuracy": round(found.accuracy, 4),
            "agreement": round(found.agreement, 4),
            "bytes": found.size,
            "gzipped": zipped,
            "milliseconds": round(found.milliseconds, 4) if self.recipe.timed else None,
        }
