"""Several labels: which clothes lie in a picture that shows three of them over one another."""

from typing import ClassVar

import keras
import numpy as np
from sklearn.metrics import average_precision_score

import modreduce_keras as mr
from benchmarks.tasks.task import Part, Recipe, Task, predicted

SIZE, CLASSES, PIECES = 36, 10, 3
SIZES = {"teacher": 4000, "validation": 500, "test": 1000}
LABELLED = 500
"""Of the teacher's pictures, those that the students see."""
LABEL_WEIGHT = 1 / CLASSES
"""With it a label weighs as much in binary KD as in Keras' binary cross-entropy."""


def pictures(images: np.ndarray, classes: np.ndarray, number: int, seed: int) -> Part:
    """Returns pictures, (number, SIZE, SIZE, 1), and which classes are in them, (number, 10)."""
    random = np.random.default_rng(seed)
    made = np.zeros((number, SIZE, SIZE, 1), "float32")
    labels = np.zeros((number, CLASSES), "float32")
    height, width = images.shape[1:3]
    for picture, label in zip(made, labels, strict=True):
        for piece in random.integers(0, len(images), PIECES):
            y, x = random.integers(0, SIZE - height + 1, 2)
            place = picture[y : y + height, x : x + width]
            np.maximum(place, images[piece] * random.uniform(0.5, 1.0), out=place)
            label[classes[piece]] = 1.0
    return Part(made, labels)


class ManyLabels(Task):
    """Ten labels of a picture. The students see an eighth of the teacher's pictures."""

    measure = "mean average precision, %"
    methods: ClassVar[dict[str, str]] = {
        "alone": "labels",
        "kd": '`"binary_kd"`, temperature 4',
        "binary_kd": '`"binary_kd"`, temperature 1',
    }
    teacher_recipe = Recipe(epochs=6, batch=32, rate=3e-3)
    recipe = Recipe(epochs=15, batch=16, rate=1e-2)

    def __init__(self, seed: int) -> None:
        (images, classes), (test_images, test_classes) = mr.data.load_sample()
        sources = {
            "teacher": (images[:8500], classes[:8500]),
            "validation": (images[8500:], classes[8500:]),
            "test": (test_images, test_classes),
        }
        self.parts = {
            name: pictures(*sources[name], size, seed=place)
            for place, (name, size) in enumerate(SIZES.items())
        }
        self.parts["train"] = self.parts["teacher"].first(LABELLED)

    def network(self, role: str) -> keras.Model:
        widths = (24, 48, 48) if role == "teacher" else (8, 16, 32)
        shape = (SIZE, SIZE, 1)
        return mr.models.convnet(num_classes=CLASSES, widths=widths, input_shape=shape, name=role)

    def loss(self) -> keras.losses.Loss:
        return keras.losses.BinaryCrossentropy(from_logits=True)

    def knowledge(self, method: str) -> list[mr.Knowledge]:
        loss = mr.losses.BinaryKD(temperature=4.0 if method == "kd" else 1.0)
        return [mr.Response(loss, weight=LABEL_WEIGHT)]

    def judge(self, model: keras.Model, part: Part) -> float:
        return 100 * float(average_precision_score(part.y, predicted(model, part)))
