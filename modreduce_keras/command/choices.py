"""Choices: knowledge and optimizers as flags name them."""

import inspect
import re
from collections.abc import Sequence
from typing import Any

import keras

from modreduce_keras import losses
from modreduce_keras.command import methods
from modreduce_keras.command.mistakes import MistakeError, did_you_mean
from modreduce_keras.knowledge.shorthand import KINDS, default_knowledge
from modreduce_keras.knowledge.weight import BALANCED
from modreduce_keras.output_kind import CLASSES, LOGIT, REGRESSION
from modreduce_keras.registry import components

OF_NUMBERS = "logit_mse"
"""The method for a regression, where none is named."""
RATES = {"adam": 1e-3, "adamw": 1e-3, "sgd": 0.05}
_FORM = re.compile(r"(?P<name>[^@=]+)(@(?P<at>[^@=]+))?(@(?P<teacher>[^@=]+))?(=(?P<weight>.+))?")


def knowledge(
    named: Sequence[str] | None, temperature: float | None, kind: str, student: keras.Model
) -> list[Any]:
    """Returns the knowledge that is named, `dist`, `kd=0.9` or `hint@LAYER=100`, for a distiller.

    Args:
        named: What the flag holds; `None` or nothing for the library's default.
        temperature: Temperature of the losses that have one.
        kind: Kind of the outputs.
        student: The student.

    Raises:
        MistakeError: If a method is not known, or does not fit.
    """
    if not named and kind == REGRESSION:
        named = [OF_NUMBERS]
    elif not named:
        named = [one.loss.identifier for one in default_knowledge(student)]
    parts = parsed(named)
    taking = [one["name"] for one in parts if _takes_temperature(one["name"])]
    if temperature is not None and not taking:
        raise MistakeError(f"--temperature is for methods that have one, and {named} have none.")
    return [_one(one, temperature) for one in parts]


def parsed(named: Sequence[str] | None) -> list[dict[str, Any]]:
    """Returns methods with their layers and weights, taken apart.

    Raises:
        MistakeError: If a method is not known, or does not fit.
    """
    return [_parts(one) for one in named or ()]


def _parts(text: str) -> dict[str, Any]:
    """Returns a method with its layers and weight, taken apart."""
    match = _FORM.fullmatch(text.strip())
    if match is None:
        raise MistakeError(
            "--knowledge must be NAME, NAME=WEIGHT or NAME@LAYER=WEIGHT, with commas between "
            f"several. Received: {text!r}."
        )
    by_name = {one["name"]: one for one in methods.load()}
    name = match["name"].lower()
    if name not in by_name:
        raise MistakeError(
            f"--knowledge must name methods. Received: {match['name']!r}."
            f"{did_you_mean(name, by_name)} modreduce methods lists them."
        )
    method = by_name[name]
    more = methods.needs_python(method)
    if more:
        raise MistakeError(
            f"--knowledge={name} needs {' and '.join(more)}, which takes a program of a few lines: "
            f"help(mr.losses.{method['class']})."
        )
    if method["kind"] == "response" and match["at"]:
        raise MistakeError(f"--knowledge must be {name} without a layer. Received: {text!r}.")
    weight = match["weight"]
    try:
        weight = weight if weight in (None, BALANCED) else float(weight)
    except ValueError:
        raise MistakeError(
            f"The weight in --knowledge={name}=WEIGHT must be a number or balanced. "
            f"Received: {text!r}."
        ) from None
    return {**match.groupdict(), "name": name, "kind": method["kind"], "weight": weight}


def _one(parts: dict[str, Any], temperature: float | None) -> Any:
    name, weight = parts["name"], parts["weight"]
    options: dict[str, Any] = {} if weight is None else {"weight": weight}
    if parts["at"]:
        options["student"] = _layers(parts["at"])
        options["teacher"] = _layers(parts["teacher"] or parts["at"])
    elif parts["kind"] != "response":
        return name if weight is None else {name: weight}  # the distiller finds the layers
    has = temperature is not None and _takes_temperature(name)
    loss = losses.get(name, temperature=temperature) if has else name
    return KINDS[parts["kind"]](loss, **options)


def _layers(text: str) -> str | list[str]:
    names = text.split("+")
    return names[0] if len(names) == 1 else names


def _takes_temperature(name: str) -> bool:
    return "temperature" in inspect.signature(components("loss")[name].__init__).parameters


def optimizer(name: str, rate: float | None, steps: int) -> keras.optimizers.Optimizer:
    """Returns an optimizer whose learning rate falls to 0 along a cosine."""
    schedule = keras.optimizers.schedules.CosineDecay(RATES[name] if rate is None else rate, steps)
    if name == "sgd":
        return keras.optimizers.SGD(schedule, momentum=0.9, nesterov=True)
    return keras.optimizers.AdamW(schedule) if name == "adamw" else keras.optimizers.Adam(schedule)


def supervision(kind: str) -> tuple[keras.losses.Loss, keras.metrics.Metric, str]:
    """Returns the loss on labels, a metric, and the metric's log, for a kind of outputs."""
    if kind == CLASSES:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        return loss, keras.metrics.SparseCategoricalAccuracy(name="accuracy"), "val_accuracy"
    if kind == LOGIT:
        loss = keras.losses.BinaryCrossentropy(from_logits=True)
        return loss, keras.metrics.BinaryAccuracy("accuracy", threshold=0.0), "val_accuracy"
    return keras.losses.MeanSquaredError(), keras.metrics.MeanAbsoluteError(name="mae"), "val_mae"
