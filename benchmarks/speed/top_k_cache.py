"""Top-k cache: what a step on the largest logits of a language model costs, data included.

The student is a causal language model, by default of the size of DistilGPT-2; the texts are made
up. `labels` is the student alone, on the next token. `top-k` learns by KD from the largest logits
of each token and from the rest as one class, out of a `mr.data.TeacherCache`; `top-k, renormalized`
without the rest; `all logits` from a cache of all of them. A step has everything in it that an
epoch of such steps has: checksums, and what is read from the disk. What the teacher is makes no
difference, so that a small one fills the caches.

Ratios are taken within a round, then summarized: a contender's time over that of the student. At
most 1.05 is wanted of `top-k`, and 400 bytes a token. Run it with nothing else on the machine:

    python -m benchmarks.speed.top_k_cache
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags
from keras import ops

import modreduce_keras as mr
from benchmarks import common

FLAGS = flags.FLAGS
flags.DEFINE_integer("vocabulary", 50_257, "Tokens that there are", lower_bound=2)
flags.DEFINE_integer("width", 768, "Width of the student, a multiple of 64", lower_bound=64)
flags.DEFINE_integer("layers", 6, "Transformer layers of the student", lower_bound=1)
flags.DEFINE_integer("batch", 4, "Texts in a batch", lower_bound=1)
flags.DEFINE_integer("tokens", 64, "Tokens of a text", lower_bound=1)
flags.DEFINE_integer("texts", 16, "Texts in an epoch, at least a batch", lower_bound=1)
flags.DEFINE_integer("top_k", 64, "Logits of a token that are stored", lower_bound=1)
flags.DEFINE_enum("dtype", "float16", ["float16", "float32"], "What they are stored in")
flags.DEFINE_integer("rounds", 10, "Rounds, each with every contender", lower_bound=1)
flags.DEFINE_integer("steps", 2, "Steps of a contender in a round", lower_bound=1)
flags.DEFINE_integer("seed", 0, "Seed of weights and texts")
flags.DEFINE_string("output", str(common.RESULTS / "top_k_cache.jsonl"), "Rows go here")

WANTED, WANTED_BYTES = {"top-k": 1.05}, 400


@keras.saving.register_keras_serializable(package="benchmarks")
class Positions(keras.layers.Layer):
    """Adds a learnt vector to each position."""

    def build(self, shape: Any) -> None:
        self.vectors = self.add_weight(shape=shape[1:], initializer="normal", name="vectors")

    def call(self, hidden: Any) -> Any:
        return hidden + self.vectors


def language_model(width: int, layers: int, name: str) -> keras.Model:
    """Returns a causal language model (pre-normalized, as GPT-2)."""
    tokens = keras.Input((FLAGS.tokens,), dtype="int32")
    hidden = Positions()(keras.layers.Embedding(FLAGS.vocabulary, width)(tokens))
    for _ in range(layers):
        normal = keras.layers.LayerNormalization()(hidden)
        attention = keras.layers.MultiHeadAttention(width // 64, 64)
        hidden += attention(normal, normal, use_causal_mask=True)
        normal = keras.layers.LayerNormalization()(hidden)
        inner = keras.layers.Dense(4 * width, activation="gelu")(normal)
        hidden += keras.layers.Dense(width)(inner)
    hidden = keras.layers.LayerNormalization()(hidden)
    return keras.Model(tokens, keras.layers.Dense(FLAGS.vocabulary)(hidden), name=name)


def data() -> tf.data.Dataset:
    """Returns indexed batches of made-up texts with the next token of each."""
    random = np.random.default_rng(FLAGS.seed)
    texts = random.integers(FLAGS.vocabulary, size=(FLAGS.texts, FLAGS.tokens + 1), dtype="int32")
    samples = tf.data.Dataset.from_tensor_slices((texts[:, :-1], texts[:, 1:]))
    return mr.data.with_index(samples).batch(FLAGS.batch, drop_remainder=True)


def training(model: keras.Model, train: tf.data.Dataset) -> Callable[[], Any]:
    """Returns a function that takes a batch and runs one training step."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), loss)
    model.make_train_function()
    iterator = iter(train.repeat().prefetch(2))
    return lambda: {name: float(v) for name, v in model.train_function(iterator).items()}


def divergence(teacher: keras.Model, student: keras.Model) -> float:
    """Returns what the first step of `top-k` has to log: the divergence, worked out in NumPy."""
    tokens = next(iter(data()))[0]["inputs"]
    logs = [
        np.asarray(ops.log_softmax(model(tokens), axis=-1), "float64")
        for model in (teacher, student)
    ]
    order = np.argsort(-logs[0], axis=-1)
    few = [np.exp(np.take_along_axis(side, order, axis=-1)) for side in logs]
    few = [
        np.concatenate([p[..., : FLAGS.top_k], p[..., FLAGS.top_k :].sum(-1, keepdims=True)], -1)
        for p in few
    ]
    return float((few[0] * np.log(few[0] / few[1])).sum(axis=-1).mean())


def measure() -> list[dict[str, Any]]:
    """Returns the rows, one for each contender."""
    keras.utils.set_random_seed(FLAGS.seed)
    teacher = language_model(64, 1, name="teacher")
    student = language_model(FLAGS.width, FLAGS.layers, name="student")
    knowledge = mr.losses.KD(temperature=1.0)

    def learning(cache: mr.data.TeacherCache) -> Callable[[], Any]:
        copy = mr.models.copy_model(student)
        distiller = mr.Distiller(student=copy, teacher=cache, knowledge=[mr.Response(knowledge)])
        return training(distiller, cache.attach(data()))

    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        options = {"dtype": FLAGS.dtype}
        caches = {
            "top-k": mr.data.TeacherCache(first, teacher, top_k=FLAGS.top_k, **options),
            "top-k, renormalized": mr.data.TeacherCache(
                first, teacher, top_k=FLAGS.top_k, rest="renormalized", **options
            ),
            "all logits": mr.data.TeacherCache(second, teacher, **options),
        }
        for cache in caches.values():
            cache.fill(data())
        plain = data().map(lambda x, y: (x["inputs"], y))
        expected = divergence(teacher, student)
        contenders = {"labels": training(mr.models.copy_model(student), plain)}
        contenders |= {name: learning(cache) for name, cache in caches.items()}
        logs = {name: step() for name, step in contenders.items()}
        if not np.isclose(logs["top-k"]["kd"], expected, rtol=1e-2):
            raise RuntimeError(f"'top-k' logs {logs['top-k']}, and NumPy gives {expected}")
        times = common.interleave(contenders, rounds=FLAGS.rounds, steps=FLAGS.steps)
        taken = {name: cache.bytes_per_token for name, cache in caches.items()}
    rows = []
    for name, own in times.items():
        row = {"contender": name, **common.spread(own, "ms")}
        if name != "labels":
            ratios = common.paired_ratios(own, times["labels"])
            row |= {"ratio_to": "labels", **common.spread(ratios, "ratio")}
            row |= {"bytes_per_token": round(taken[name], 1)}
        if name in WANTED:
            row |= {"wanted": WANTED[name], "wanted_bytes": WANTED_BYTES}
        rows.append(row)
    return rows


def main(_) -> None:
    rows = measure()
    names = ("vocabulary", "width", "layers", "batch", "tokens", "texts", "top_k", "dtype")
    settings = {name: FLAGS[name].value for name in (*names, "rounds", "steps")}
    about = common.metadata(FLAGS.seed)
    common.append_rows(Path(FLAGS.output), [{**row, **settings, **about} for row in rows])
    for row in rows:
        line = f"{row['contender']:20} {row['ms_median']:8.1f} ms"
        if "ratio_median" in row:
            line += f" {row['ratio_median']:6.2f} x {row['ratio_to']}"
            line += f" {row['bytes_per_token']:10,.0f} bytes a token"
        print(line)


if __name__ == "__main__":
    app.run(main)
