"""Segmentation: discs, squares and triangles over two photographs, cut out of the other one."""

from functools import cache
from typing import ClassVar

import keras
import numpy as np

import modreduce_keras as mr
from benchmarks.tasks.task import Part, Recipe, Task, class_loss

SIZE, CLASSES, IGNORED = 32, 4, 255
SIZES = {"teacher": 2000, "validation": 300, "test": 500}
LABELLED = 500
"""Of the teacher's pictures, those that the students see."""
BORDERS = {"teacher": (0.0, 0.6), "validation": (0.6, 0.75), "test": (0.75, 1.0)}
"""From where to where, along its width, a photograph serves a part."""


def distances(kind: int, y: float, x: float) -> np.ndarray:
    """Returns how far each pixel is from a place, (SIZE, SIZE), as a shape of a kind has it."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    down, right = rows - y, columns - x
    if kind == 1:
        return np.hypot(down, right)
    if kind == 2:
        return np.maximum(np.abs(down), np.abs(right))
    return np.maximum(down, 0.87 * np.abs(right) - 0.5 * down)


@cache
def pictures(name: str) -> Part:
    """Returns pictures, (number, SIZE, SIZE, 3), and the class of each pixel; 255 at edges."""
    from sklearn.datasets import load_sample_images

    random = np.random.default_rng(list(SIZES).index(name))
    photographs = [image.astype("float32") / 255 for image in load_sample_images().images]
    low, high = (int(share * photographs[0].shape[1]) for share in BORDERS[name])
    photographs = [image[:, low:high] for image in photographs]

    def crop(photograph: int) -> np.ndarray:
        image = photographs[photograph]
        y, x = (random.integers(0, size - SIZE + 1) for size in image.shape[:2])
        return image[y : y + SIZE, x : x + SIZE]

    images = np.zeros((SIZES[name], SIZE, SIZE, 3), "float32")
    labels = np.zeros((SIZES[name], SIZE, SIZE), "int32")
    for image, label in zip(images, labels, strict=True):
        ground = random.integers(2)
        image[:] = crop(ground)
        for kind in random.permutation([1, 2, 3, random.integers(1, 4)]):
            distance = distances(kind, *random.uniform(4, SIZE - 4, 2)) - random.uniform(3, 8)
            image[distance < 0] = crop(1 - ground)[distance < 0] + random.normal(0, 0.15, 3)
            label[distance < 0] = kind
            label[np.abs(distance) < 0.5] = IGNORED
    return Part(images, labels)


class Segmentation(Task):
    """Four classes of pixels. The students see a quarter of the teacher's pictures."""

    measure = "mean IoU, %"
    methods: ClassVar[dict[str, str]] = {
        "alone": "labels",
        "kd": '`"kd"` of each pixel, the default',
        "dist": '`"dist"` of each pixel',
        "cwd": '`"cwd"` of the logits, weight 3',
    }
    teacher_recipe = Recipe(epochs=6, batch=16, rate=4e-3)
    recipe = Recipe(epochs=12, batch=16, rate=1e-2)

    def __init__(self, seed: int) -> None:
        self.parts = {name: pictures(name) for name in SIZES}
        self.parts["train"] = self.parts["teacher"].first(LABELLED)

    def network(self, role: str) -> keras.Model:
        width = 12 if role == "teacher" else 4
        image = keras.Input((SIZE, SIZE, 3))

        def block(maps, width, strides=1):
            maps = keras.layers.Conv2D(width, 3, strides, "same", use_bias=False)(maps)
            return keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.9)(maps))

        def joined(deep, shallow):
            return keras.layers.Concatenate()([keras.layers.UpSampling2D()(deep), shallow])

        fine = block(image, width)
        half = block(block(fine, 2 * width, 2), 2 * width)
        deep = block(block(half, 4 * width, 2), 4 * width)
        maps = block(joined(block(joined(deep, half), 2 * width), fine), width)
        return keras.Model(image, keras.layers.Dense(CLASSES)(maps), name=role)

    def loss(self) -> keras.losses.Loss:
        return class_loss(IGNORED)

    def knowledge(self, method: str) -> list[mr.Knowledge]:
        weight = 3.0 if method == "cwd" else 1.0
        return [mr.Response(method, ignore_class=IGNORED, weight=weight)]

    def judge(self, model: keras.Model, part: Part) -> float:
        iou = keras.metrics.MeanIoU(CLASSES, ignore_class=IGNORED, sparse_y_pred=False)
        iou.update_state(part.y, model.predict(part.x, batch_size=100, verbose=0))
        return 100 * float(iou.result())
