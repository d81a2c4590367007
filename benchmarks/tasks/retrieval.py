"""Embeddings: find the lower half of a piece of clothing by its upper half."""

from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

import modreduce_keras as mr
from benchmarks.tasks.task import Part, Recipe, Task, class_loss

CANDIDATES, TEMPERATURE, WIDTH = 32, 0.07, 32
TEACHER_IMAGES, LABELLED = 6000, 1000
RECALL_AT = 10


@keras.saving.register_keras_serializable(package="benchmarks")
class ScoresInBatch(keras.layers.Layer):
    """Queries and documents, (batch, width) -> scores, (batch, candidates).

    The first candidate of a query is its own document, the others are the next ones of the batch.
    """

    def __init__(self, candidates: int, temperature: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.candidates, self.temperature = candidates, temperature

    def call(self, queries: Any, documents: Any) -> Any:
        batch = ops.shape(queries)[0]
        similar = ops.matmul(ops.normalize(queries), ops.transpose(ops.normalize(documents)))
        places = (ops.arange(batch)[:, None] + ops.arange(self.candidates)[None]) % batch
        return ops.take_along_axis(similar, places, axis=1) / self.temperature

    def get_config(self) -> dict[str, Any]:
        config = {"candidates": self.candidates, "temperature": self.temperature}
        return {**super().get_config(), **config}


def halves(images: np.ndarray) -> Part:
    """Returns the upper and lower halves of images; the right candidate is always the first."""
    middle = images.shape[1] // 2
    parts = {"query": images[:, :middle], "document": images[:, middle:]}
    return Part(parts, np.zeros(len(images), "int32"))


def encoder(widths: tuple[int, ...], name: str) -> keras.Sequential:
    layers = [keras.Input((14, 28, 1))]
    for width in widths:
        layers += [keras.layers.Conv2D(width, 3, 2, "same", activation="relu")]
    return keras.Sequential([*layers, keras.layers.Flatten(), keras.layers.Dense(WIDTH)], name=name)


class Retrieval(Task):
    """Pairs of halves. The students see a sixth of the teacher's pairs."""

    measure = f"recall at {RECALL_AT} of 2,000, %"
    methods: ClassVar[dict[str, str]] = {
        "alone": "pairs",
        "kd": '`"kd"` of the scores, temperature 1',
        "margin_mse": '`"margin_mse"` of the scores, weight 0.07',
        "listwise": '`"listwise"` of the embeddings',
    }
    teacher_recipe = Recipe(epochs=6, batch=64, rate=3e-3)
    recipe = Recipe(epochs=10, batch=32, rate=3e-3)

    def __init__(self, seed: int) -> None:
        (images, _), (test, _) = mr.data.load_sample()
        self.parts = {
            "teacher": halves(images[:TEACHER_IMAGES]),
            "train": halves(images[:LABELLED]),
            "validation": halves(images[8500:]),
            "test": halves(test),
        }

    def network(self, role: str) -> keras.Model:
        widths = (24, 48, 64) if role == "teacher" else (8, 8, 16)
        inputs = {name: keras.Input((14, 28, 1), name=name) for name in ("query", "document")}
        encoded = [encoder(widths, f"{name}_embedding")(one) for name, one in inputs.items()]
        scores = ScoresInBatch(CANDIDATES, TEMPERATURE, name="scores")(*encoded)
        return keras.Model(inputs, scores, name=role)

    def loss(self) -> keras.losses.Loss:
        return class_loss()

    def knowledge(self, method: str) -> list[mr.Knowledge]:
        if method == "listwise":
            return [mr.Relation("listwise", at=["query_embedding", "document_embedding"])]
        if method == "margin_mse":
            # Its scores are cosines over 0.07, so that margins are some 14 times those of cosines.
            return [mr.Response("margin_mse", weight=TEMPERATURE)]
        return [mr.Response(mr.losses.KD(temperature=1.0))]

    def judge(self, model: keras.Model, part: Part) -> float:
        sides = []
        for name in ("query", "document"):
            embedded = model.get_layer(f"{name}_embedding").predict(part.x[name], 250, verbose=0)
            sides.append(embedded / np.linalg.norm(embedded, axis=-1, keepdims=True))
        scores = sides[0] @ sides[1].T
        ranks = (scores > np.diag(scores)[:, None]).sum(axis=1)
        return 100 * float((ranks < RECALL_AT).mean())
