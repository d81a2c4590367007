"""The worker with Keras: the step of KD written by hand, and with this library."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import modreduce_keras as mr
from benchmarks.speed import by_hand
from benchmarks.speed.peers.worker import Prepared, serve


def prepare(
    start: str,
    pair: list[str],
    classes: int,
    rate: float,
    momentum: float,
    weight_decay: float,
    bfloat16: bool,
) -> Prepared:
    """Returns the sizes of the networks and the contenders, for `serve`."""
    with np.load(start) as file:
        given = {name: file[name] for name in file.files}
    batch = given["images"], given["labels"]
    dataset = tf.data.Dataset.from_tensors(batch).repeat()

    def network(role: str, dtype: str = "float32") -> keras.Model:
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(dtype)
        model = mr.models.get(pair[role == "student"], num_classes=classes)
        keras.config.set_dtype_policy(before)
        own = {k: v for k, v in given.items() if k.startswith(f"{role}/")}
        return mr.models.import_torch_weights(model, own)

    def optimizer() -> keras.Optimizer:
        return keras.optimizers.SGD(rate, momentum=momentum, weight_decay=weight_decay)

    def distilled(dtype: str = "float32", **arguments: Any) -> Callable[[], float]:
        distiller = mr.Distiller(
            student=network("student", dtype),
            teacher=network("teacher"),
            knowledge=[mr.Response("kd")],
            **arguments,
        )
        distiller.compile(
            optimizer(),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
        return _loss_of(distiller, dataset)

    teacher, student = network("teacher"), network("student")
    step, iterator = by_hand.kd_step(student, teacher, optimizer()), iter(dataset)
    contenders = {
        "by hand, float32": lambda: float(step(*next(iterator))["loss"]),
        "ours, float32": distilled(),
    }
    if bfloat16:
        contenders["ours, bfloat16"] = distilled("mixed_bfloat16", teacher_dtype="bfloat16")
    models = {"teacher": teacher, "student": student}
    sizes = {
        role: sum(int(np.prod(v.shape)) for v in model.trainable_variables)
        for role, model in models.items()
    }
    return {"parameters": sizes}, contenders


def _loss_of(distiller: mr.Distiller, dataset: tf.data.Dataset) -> Callable[[], float]:
    """Returns a function that trains one step, the first time by `fit`, and returns the loss."""
    iterator = iter(dataset)
    fitted = False

    def step() -> float:
        nonlocal fitted
        if fitted:
            return float(distiller.train_function(iterator)["loss"])
        fitted = True
        return distiller.fit(dataset, steps_per_epoch=1, verbose=0).history["loss"][0]

    return step


if __name__ == "__main__":
    serve(prepare)
