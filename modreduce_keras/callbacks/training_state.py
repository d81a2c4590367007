"""The state of a training: its variables, a check of stored ones, and a hash of its teachers."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from modreduce_keras.copying import fingerprint_of_tables
from modreduce_keras.distillers.teachers.base import models_of
from modreduce_keras.fingerprints import fingerprint_of

MODEL, OPTIMIZER, METRIC, RECORD = "model", "optimizer", "metric", "record"


def optimizers(model: keras.Model) -> list[Any]:
    """Returns a compiled model's optimizer and those inside of it, each once."""
    found: list[Any] = []
    waiting = [model.optimizer]
    while waiting:
        optimizer = waiting.pop(0)
        if optimizer is None or any(optimizer is other for other in found):
            continue
        found.append(optimizer)
        waiting += [getattr(optimizer, "inner_optimizer", None)]
        waiting += getattr(optimizer, "optimizers", ())
    return found


def variables(model: keras.Model, *, metrics: bool) -> dict[str, list[keras.Variable]]:
    """Returns a model's variables by kind, each once, in an order that every process finds.

    Args:
        model: A compiled model.
        metrics: Whether to return the states of the metrics too.

    Raises:
        ValueError: If the model trains variables that are not its own.
    """
    own = {id(v): v for v in model.variables}
    foreign = [v.path for v in model.trainable_variables if id(v) not in own]
    if foreign:
        raise ValueError(
            "Resume stores the variables of the model that fit trains, and a stage of pretraining "
            "trains those of another. Pretrain without Resume; what it wrote is in the checkpoints "
            f"of fit. Received: the model {model.name!r}, which trains {foreign[:3]}"
        )
    measured = {id(v): v for metric in model.metrics for v in metric.variables}
    kinds = {
        MODEL: {key: v for key, v in own.items() if key not in measured},
        OPTIMIZER: {id(v): v for one in optimizers(model) for v in one.variables},
        METRIC: measured if metrics else {},
        RECORD: {id(v): v for v in getattr(model, "training_record", ())},
    }
    return {kind: list(found.values()) for kind, found in kinds.items()}


def _named(by_kind: Mapping[str, list[keras.Variable]]) -> Iterator[tuple[str, keras.Variable]]:
    for kind, several in by_kind.items():
        for index, variable in enumerate(several):
            yield f"{kind}/{index}/{variable.path}", variable


def arrays(model: keras.Model, *, metrics: bool) -> list[tuple[str, np.ndarray]]:
    """Returns the present values of a model's variables, (name, array) each."""
    return [(name, _value(v)) for name, v in _named(variables(model, metrics=metrics))]


def _value(variable: keras.Variable) -> np.ndarray:
    return np.asarray(tf.convert_to_tensor(variable.value).numpy())


def assign(model: keras.Model, stored: Mapping[str, memoryview], *, metrics: bool) -> None:
    """Writes stored values, which have been found to fit, into a model's variables."""
    values = {tuple(name.split("/")[:2]): content for name, content in stored.items()}
    with model.distribute_strategy.scope():
        for kind, several in variables(model, metrics=metrics).items():
            for index, variable in enumerate(several):
                dtype = tf.as_dtype(variable.value.dtype).as_numpy_dtype
                array = np.frombuffer(values[kind, str(index)], dtype)
                variable.value.assign(array.reshape(tuple(variable.shape)))


def differences(
    model: keras.Model, described: list[Mapping[str, Any]], *, metrics: bool
) -> str | None:
    """Returns what differs between a model's variables and stored ones; `None` where they fit.

    Names are compared without the numbers that Keras appends to tell objects of one process apart.

    Args:
        model: A compiled model.
        described: Name, dtype and shape of each stored variable.
        metrics: Whether the states of metrics are among what is to fit.
    """
    kinds = {MODEL, OPTIMIZER, RECORD, *([METRIC] if metrics else [])}
    own = [
        (_bare(name), tuple(variable.shape), tf.as_dtype(variable.value.dtype).name)
        for name, variable in _named(variables(model, metrics=metrics))
    ]
    stored = [
        (_bare(one["name"]), tuple(one["shape"]), one["dtype"])
        for one in described
        if one["name"].split("/")[0] in kinds
    ]
    if own == stored:
        return None
    only_stored, only_own = Counter(stored) - Counter(own), Counter(own) - Counter(stored)
    if not only_stored and not only_own:
        index = next(i for i, pair in enumerate(zip(own, stored, strict=True)) if len({*pair}) > 1)
        return f"the same variables in another order, from {_described(own[index])} on"
    return (
        f"{len(stored)} variables in the checkpoint, {len(own)} in the model; "
        f"only in the checkpoint: {_listed(only_stored)}; only in the model: {_listed(only_own)}"
    )


def _bare(name: str) -> str:
    kind, _, path = name.split("/", 2)
    # Where optimizers and metrics are built, in a step or before, changes the scopes around them.
    path = path if kind == MODEL else path.rsplit("/", 1)[-1]
    return f"{kind} " + re.sub(r"_\d+(?=[_/]|$)", "", path)


def _described(variable: tuple[str, tuple[int, ...], str]) -> str:
    name, shape, dtype = variable
    return f"{name} {shape} {dtype}"


def _listed(found: Counter) -> str:
    described = [_described(variable) for variable in found.elements()]
    more = f" and {len(described) - 4} more" if len(described) > 4 else ""
    return ", ".join(described[:4]) + more or "none"


def teacher_fingerprint(model: keras.Model) -> str | None:
    """Returns a hash of the state of a model's teachers; `None` where they have none of their own.

    That is the weights and what is in no variable: vocabularies, boundaries and assets.

    A teacher that is trained along (an average of the student) is part of the model's state.
    """
    own = {id(variable) for variable in model.variables}
    given = models_of(getattr(model, "teacher", None))
    teachers = [teacher for teacher in given if isinstance(teacher, keras.Model)]
    constant = [v for teacher in teachers for v in teacher.weights if id(v) not in own]
    tables = "".join(fingerprint_of_tables(teacher) for teacher in teachers)
    return fingerprint_of(constant) + tables if constant or tables else None
