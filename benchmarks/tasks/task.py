"""What a task is: its data, its two networks, what a student learns by, and how it is judged."""

import abc
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import keras
import numpy as np
import tensorflow as tf

import modreduce_keras as mr

ALONE = "alone"


class Recipe(NamedTuple):
    """How a network is trained: by Adam, whose rate falls to 0 along a cosine."""

    epochs: int
    batch: int
    rate: float


class Part(NamedTuple):
    """Examples: inputs, an array or a dict of them, and labels; `None` where there are none."""

    x: Any
    y: Any = None

    def __len__(self) -> int:
        return len(keras.tree.flatten(self.x)[0])

    def first(self, number: int) -> "Part":
        return Part(*keras.tree.map_structure(lambda array: array[:number], tuple(self)))


class Task(abc.ABC):
    """A task with the data of one seed.

    Attributes:
        measure: Name of the figure, with its unit.
        rises: Whether more is better.
        methods: What a student learns by, with what the table says of it.
        teacher_recipe, recipe: How the teacher and the students are trained.
        parts: `"teacher"`, what the teacher is trained on; `"train"`, what the students are trained
            on; `"validation"`, for choices; `"test"`.
    """

    measure: ClassVar[str]
    rises: ClassVar[bool] = True
    methods: ClassVar[Mapping[str, str]]
    teacher_recipe: ClassVar[Recipe]
    recipe: ClassVar[Recipe]
    parts: Mapping[str, Part]

    @abc.abstractmethod
    def network(self, role: str) -> keras.Model:
        """Returns an untrained `"teacher"` or `"student"`."""

    @abc.abstractmethod
    def loss(self) -> keras.losses.Loss:
        """Returns the loss on labels."""

    @abc.abstractmethod
    def knowledge(self, method: str) -> list[mr.Knowledge]:
        """Returns what a student learns from the teacher by a method other than alone."""

    @abc.abstractmethod
    def judge(self, model: keras.Model, part: Part) -> float:
        """Returns the figure of a model."""

    def student(self, method: str) -> keras.Model:
        """Returns what a method trains, with the same weights at the start for all methods."""
        return self.network("student")

    def examples(self, method: str) -> Part:
        """Returns what a method trains a student on."""
        return self.parts["train"]

    def make_teacher(self, path: Path, recipe: Recipe, seed: int) -> dict[str, Any]:
        """Trains a teacher and stores it.

        Returns:
            `"parameters"`, and by the part its figure; under a method's name other ones, where it
            has a teacher of its own.
        """
        teacher = self.network("teacher")
        train(teacher, self.parts["teacher"], recipe, seed, loss=self.loss())
        teacher.save(path.with_suffix(".keras"))
        return {"parameters": teacher.count_params(), **self.judged(teacher)}

    def teacher(self, path: Path, method: str) -> Any:
        """Returns the stored teacher of a method."""
        return keras.saving.load_model(path.with_suffix(".keras"))

    def judged(self, model: keras.Model) -> dict[str, float]:
        """Returns the figures of a model in validation and test."""
        return {name: self.judge(model, self.parts[name]) for name in ("validation", "test")}


def train(
    model: keras.Model,
    part: Part,
    recipe: Recipe,
    seed: int,
    *,
    loss: Any,
    outputs: mr.data.TeacherOutputs | None = None,
) -> tf.data.Dataset:
    """Trains a model or a distiller, in an order that the seed and the epoch alone decide.

    The `outputs` of a teacher come with the data, if there are some. Returns the data of an epoch.
    """
    data = tf.data.Dataset.from_tensor_slices((part.x,) if part.y is None else tuple(part))
    if outputs is not None:
        data = mr.data.with_index(data)
    data = mr.data.epoch_shuffle(data, seed=seed).batch(recipe.batch, drop_remainder=len(part) > 1)
    if outputs is not None:
        data = outputs.attach(data)
    steps = recipe.epochs * data.cardinality().numpy()
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(recipe.rate, steps)), loss
    )
    model.fit(data, epochs=recipe.epochs, shuffle=False, verbose=0)
    return data


def epochs_of_as_many_updates(recipe: Recipe, wanted: Part, part: Part) -> Recipe:
    """Returns a recipe for a part of another size, with the updates that `wanted` would have."""
    batches = [max(1, len(one) // recipe.batch) for one in (wanted, part)]
    return recipe._replace(epochs=math.ceil(recipe.epochs * batches[0] / batches[1]))


def predicted(model: keras.Model, part: Part, batch: int = 250) -> np.ndarray:
    return model.predict(part.x, batch_size=batch, verbose=0)


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Returns the share of right classes, in percent, among labels that are not -1."""
    right = logits.argmax(axis=-1) == labels
    return 100 * float(right[labels >= 0].mean())


def class_loss(ignore_class: int | None = None) -> keras.losses.Loss:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=ignore_class)
