"""How students of `benchmarks.accuracy.smaller` are trained: one recipe for all of them."""

import dataclasses
import math
import tempfile
from functools import cached_property
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import modreduce_keras as mr

TRAINING_IMAGES, RANGE_IMAGES = 8500, 500
BATCH, TEACHER_BATCH = 32, 128
STUDENT_WIDTHS, TEACHER_WIDTHS = (20, 40, 80), (64, 128, 128)
RATE, TEACHER_RATE, TEMPERATURE, ONLINE_WEIGHT = 2e-2, 3e-3, 4.0, 0.7
LABELS, KD, MODREDUCE = "labels", "kd", "modreduce"
PEERS = ("kd", "dist", "dkd")
"""What the three students of ModReduce learn from the teacher, as in the README."""

Split = tuple[np.ndarray, np.ndarray]  # images, classes


def network(name: str, widths: tuple[int, ...] = STUDENT_WIDTHS) -> keras.Model:
    """Returns an untrained network from images to the logits of ten classes."""
    return mr.models.get("convnet", num_classes=10, widths=widths, name=name)


def optimizer(rate: float, steps: int) -> keras.optimizers.Optimizer:
    """Returns Adam, whose rate falls to 0 by a cosine."""
    return keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps))


def cross_entropy() -> keras.losses.Loss:
    """Returns the loss on labels."""
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def accuracy(model: keras.Model, split: Split) -> float:
    """Returns the share of images whose class a model finds."""
    images, classes = split
    return round(float((answers(model, images).argmax(1) == classes).mean()), 4)


def answers(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """Returns the logits of images; without `predict`, which would trace each of many models."""
    parts = (images[first : first + 500] for first in range(0, len(images), 500))
    return np.concatenate([np.asarray(model(part, training=False)) for part in parts])


def trained_teacher(data: Split, epochs: int) -> keras.Model:
    """Returns the teacher of all seeds."""
    keras.utils.set_random_seed(0)
    teacher = network("teacher", TEACHER_WIDTHS)
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
        train: The students' images; few of the teacher's.
        validation: Images that neither is trained on, to choose by.
        test: Images that only give the numbers.
        seed: Of first weights and order.
    """

    teacher: keras.Model
    train: Split
    validation: Split
    test: Split
    seed: int

    def steps(self, epochs: int) -> int:
        """Returns the number of training steps."""
        return epochs * math.ceil(len(self.train[0]) / BATCH)

    def student(self, number: int = 0, widths: tuple[int, ...] = STUDENT_WIDTHS) -> keras.Model:
        """Returns an untrained student: the same one for the same number."""
        keras.utils.set_random_seed(1000 * number + self.seed)
        return network(f"student_{number}", widths)

    @cached_property
    def outputs(self) -> mr.data.TeacherOutputs:
        """The teacher's outputs for the training images, computed once."""
        return mr.data.TeacherOutputs(logits=answers(self.teacher, self.train[0]))

    def fit(self, model: keras.Model, epochs: int, rate: float, x: Any = None) -> None:
        """Trains a model or a distiller on the images, in the order of the seed."""
        x = self.train[0] if x is None else x
        data = tf.data.Dataset.from_tensor_slices((x, self.train[1]))
        data = data.shuffle(len(self.train[1]), seed=self.seed).batch(BATCH)
        model.compile(optimizer(rate, self.steps(epochs)), cross_entropy())
        model.fit(data, epochs=epochs, shuffle=False, verbose=0)

    def distil(self, student: keras.Model, epochs: int, rate: float = RATE) -> keras.Model:
        """Trains a student on the labels and by KD, and returns it."""
        knowledge = [mr.Response(mr.losses.KD(temperature=TEMPERATURE))]
        distiller = mr.Distiller(student=student, teacher=self.outputs, knowledge=knowledge)
        self.fit(distiller, epochs, rate, self.outputs.attach(self.train[0]))
        return student

    def together(
        self, students: list[keras.Model], epochs: int, *, rate: float = RATE, grows: bool = True
    ) -> list[keras.Model]:
        """Trains three students by ModReduce, and returns them."""
        weight = mr.schedules.Exponential(0.01, ONLINE_WEIGHT, steps=self.steps(epochs))
        distiller = mr.ModReduce(
            teacher=self.outputs,
            students=dict(zip(PEERS, students, strict=True)),
            knowledge={name: [mr.Response(name)] for name in PEERS},
            aggregator="weighted_average",
            online_weight=weight if grows else ONLINE_WEIGHT,
        )
        self.fit(distiller, epochs, rate, self.outputs.attach(self.train[0]))
        return students

    def learn(
        self, way: str, students: list[keras.Model], epochs: int, rate: float = RATE, **given: Any
    ) -> list[keras.Model]:
        """Trains students in a way, `LABELS`, `KD` or `MODREDUCE`, and returns them."""
        if way == MODREDUCE:
            return self.together(students, epochs, rate=rate, **given)
        for student in students:
            if way == KD:
                self.distil(student, epochs, rate)
            else:
                self.fit(student, epochs, rate)
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
            found = mr.export.verify(path, model, self.test, least_agreement=0.0, repeats=500)
            zipped = mr.compression.gzipped_size(path)
        return {
            "accuracy": round(found.accuracy, 4),
            "agreement": round(found.agreement, 4),
            "bytes": found.size,
            "gzipped": zipped,
            "milliseconds": round(found.milliseconds, 4),
        }
