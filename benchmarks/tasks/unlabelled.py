"""No labels: how much a linear classifier finds in what a student has learnt from images alone."""

from typing import ClassVar

import keras

import modreduce_keras as mr
from benchmarks.tasks.task import ALONE, Part, Recipe, Task, class_loss

IMAGES, LABELLED, CLASSES = 5000, 500, 10


class Unlabelled(Task):
    """A student alone learns from the labels that the probe has, with as many updates."""

    measure = "accuracy of a linear probe, %"
    methods: ClassVar[dict[str, str]] = {
        "alone": f"{LABELLED} labels",
        "kd": '`"kd"`',
        "dist": '`"dist"`, the default',
        "cosine": '`"cosine"` of the embedding',
        "dino": '`"dino"` of the embedding',
    }
    teacher_recipe = Recipe(epochs=4, batch=64, rate=3e-3)
    recipe = Recipe(epochs=3, batch=64, rate=1e-2)

    def __init__(self, seed: int) -> None:
        (images, classes), test = mr.data.load_sample()
        self.labelled = Part(images[:LABELLED], classes[:LABELLED])
        self.parts = {
            "teacher": Part(images[:IMAGES], classes[:IMAGES]),
            "train": Part(images[:IMAGES]),
            "validation": Part(images[8500:], classes[8500:]),
            "test": Part(*test),
        }

    def network(self, role: str) -> keras.Model:
        widths = (24, 48, 48) if role == "teacher" else (8, 16, 32)
        return mr.models.convnet(num_classes=CLASSES, widths=widths, name=role)

    def student(self, method: str) -> keras.Model:
        student = self.network("student")
        if method in (ALONE, "kd", "dist"):
            return student
        return keras.Model(student.input, student.get_layer("embedding").output)

    def examples(self, method: str) -> Part:
        return self.labelled if method == ALONE else self.parts["train"]

    def loss(self) -> keras.losses.Loss:
        return class_loss()

    def knowledge(self, method: str) -> list[mr.Knowledge]:
        if method in ("kd", "dist"):
            return [mr.Response(method)]
        adapter = {"adapter": "token_projection"} if method == "cosine" else {}
        return [mr.Feature(method, at="embedding", **adapter)]

    def judge(self, model: keras.Model, part: Part) -> float:
        probe = mr.callbacks.LinearProbe(*self.labelled, validation_data=tuple(part))
        probe.set_model(model)
        probe.on_train_begin()
        (found,) = probe.measure().values()
        return 100 * found
