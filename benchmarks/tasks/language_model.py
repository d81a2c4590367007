"""A tiny language model: the next character of the documentation that comes with Python."""

import math
from functools import cache
from typing import ClassVar

import keras
import numpy as np

import modreduce_keras as mr
from benchmarks.tasks.task import Part, Recipe, Task, class_loss

LENGTH, VOCABULARY = 64, 128
DILATIONS = (1, 2, 4, 8)
SHARES = {"teacher": 0.8, "validation": 0.1, "test": 0.1}
SHARE = 0.25
"""Of the teacher's text, what the students read."""


@cache
def characters() -> np.ndarray:
    """Returns the topics of `help()`, each passage once, as codes of characters."""
    from pydoc_data.topics import topics

    passages = "\n\n".join(topics[name] for name in sorted(topics)).split("\n\n")
    text = "\n\n".join(dict.fromkeys(passages))
    return np.frombuffer(text.encode("ascii", "ignore"), "uint8").astype("int32")


def windows(codes: np.ndarray) -> Part:
    """Returns the codes, (windows, LENGTH), and those that come next."""
    cut = codes[: len(codes) // (LENGTH + 1) * (LENGTH + 1)].reshape(-1, LENGTH + 1)
    return Part(cut[:, :-1], cut[:, 1:])


class LanguageModel(Task):
    """A character by those before it. The students read a quarter of what the teacher has read."""

    measure = "perplexity of a character"
    rises = False
    methods: ClassVar[dict[str, str]] = {
        "alone": "labels",
        "kd": '`"kd"`, temperature 1',
        "dist": '`"dist"`',
        "kd_4": '`"kd"`, temperature 4, the default',
        "skew_kl": '`"skew_kl"`',
    }
    teacher_recipe = Recipe(epochs=4, batch=32, rate=4e-3)
    recipe = Recipe(epochs=10, batch=32, rate=8e-3)

    def __init__(self, seed: int) -> None:
        codes = characters()
        bounds = (len(codes) * np.cumsum([*SHARES.values()])[:-1]).astype(int)
        split = zip(SHARES, np.split(codes, bounds), strict=True)
        self.parts = {name: windows(part) for name, part in split}
        teacher = self.parts["teacher"]
        self.parts["train"] = teacher.first(int(SHARE * len(teacher)))

    def network(self, role: str) -> keras.Model:
        width = 80 if role == "teacher" else 24
        inputs = keras.Input((LENGTH,), dtype="int32")
        hidden = keras.layers.Embedding(VOCABULARY, width)(inputs)
        for dilation in DILATIONS:
            settings = {"padding": "causal", "activation": "relu", "dilation_rate": dilation}
            seen = keras.layers.Conv1D(width, 2, **settings)(hidden)
            hidden = keras.layers.LayerNormalization()(hidden + seen)
        return keras.Model(inputs, keras.layers.Dense(VOCABULARY)(hidden), name=role)

    def loss(self) -> keras.losses.Loss:
        return class_loss()

    def knowledge(self, method: str) -> list[mr.Knowledge]:
        if method in ("kd", "kd_4"):
            return [mr.Response(mr.losses.KD(temperature=1.0 if method == "kd" else 4.0))]
        return [mr.Response(method)]

    def judge(self, model: keras.Model, part: Part) -> float:
        model.compile(loss=self.loss())
        return math.exp(model.evaluate(*part, batch_size=64, verbose=0))
