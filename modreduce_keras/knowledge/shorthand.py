"""Shorthand: what may be given as knowledge, and the knowledge that it stands for."""

import inspect
from collections.abc import Mapping
from typing import Any

import keras

from modreduce_keras import knobs, registry
from modreduce_keras.arguments import is_number
from modreduce_keras.calls import shown
from modreduce_keras.knobs import Schedule
from modreduce_keras.knowledge.base import AUTO, Knowledge
from modreduce_keras.knowledge.feature import Feature
from modreduce_keras.knowledge.relation import Relation
from modreduce_keras.knowledge.response import Response
from modreduce_keras.losses.base import Loss
from modreduce_keras.losses.keras_loss import of_function
from modreduce_keras.models.function_model import is_only_outputs, no_layers_inside
from modreduce_keras.models.graph import output_shape
from modreduce_keras.models.pairs import default_pair, pair
from modreduce_keras.models.stages import EMBEDDING, LOGITS

KINDS: dict[str, type[Knowledge]] = {
    "response": Response,
    "feature": Feature,
    "relation": Relation,
}
_FORMS = (
    "knowledge must be mr.Response, mr.Feature, mr.Relation, a loss or its name ('kd'), a list of "
    "those, or a dict from name to weight ({'kd': 0.9, 'hint': 100})"
)


def resolved(given: Any, student: Any, teacher: Any) -> list[Knowledge]:
    """Returns the knowledge that an argument stands for, each ready for one distiller.

    Args:
        given: A knowledge, a loss, its name, a list of those, a dict from the name of a loss to a
            weight, or a config. Losses on features, and `at="auto"`, read what
            `mr.models.pair` proposes.
        student: The student.
        teacher: The teacher, as given to the distiller.

    Raises:
        TypeError: If it has another type.
        ValueError: If the name of a loss is unknown, or a loss needs taps that only the user knows.
    """
    knowledge = [unused(one) for one in _made(given, student, teacher)]
    for one in knowledge:
        if one.auto_taps:
            feature = LOGITS if isinstance(one, Response) else one.loss.default_feature
            found = _taps(one.loss, student, teacher, feature, given="at='auto'")
            if len(one.auto_taps) == 1 and feature not in (LOGITS, EMBEDDING):
                found = _facing(one, student, teacher)
            one.set_auto_taps({role: found[role] for role in one.auto_taps})
    return knowledge


def default_knowledge(student: Any) -> list[Knowledge]:
    """Returns the default knowledge: DIST for classes, KD where DIST is not the better one.

    Correlations need at least three classes, and one logit is compared by `"binary_kd"`. Outputs
    at positions (tokens, pixels) learn more from KD in our measurements: see docs/evidence.md.
    """
    shape = output_shape(student) or ()
    units = shape[-1] if shape else None
    has_positions = len(shape) > 2
    one = Response({1: "binary_kd", 2: "kd"}.get(units or 0, "kd" if has_positions else "dist"))
    one.by_default = True
    return [one]


def _made(given: Any, student: Any, teacher: Any) -> list[Knowledge]:
    if given is None:
        return []
    if isinstance(given, (list, tuple)):
        return [one for each in given for one in _made(each, student, teacher)]
    if isinstance(given, Mapping):
        return _from_mapping(given, student, teacher)
    return [_one(given, {}, student, teacher)]


def _from_mapping(given: Mapping[Any, Any], student: Any, teacher: Any) -> list[Knowledge]:
    if "class_name" in given:
        return [_one(keras.saving.deserialize_keras_object(given), {}, student, teacher)]
    made = []
    for name, weight in given.items():
        valid = is_number(weight) or isinstance(weight, (Schedule, str))
        if not isinstance(name, str) or not valid:
            raise TypeError(f"{_FORMS}. Received: {shown(given)}")
        made.append(_one(name, {"weight": weight}, student, teacher))
    return made


def _one(given: Any, arguments: dict[str, Any], student: Any, teacher: Any) -> Knowledge:
    if isinstance(given, Knowledge):
        return given
    loss = registry.lookup("loss", given)() if isinstance(given, str) else given
    if not isinstance(loss, keras.losses.Loss):
        is_function = inspect.isroutine(loss)
        raise TypeError(of_function(loss) if is_function else f"{_FORMS}. Received: {shown(given)}")
    kind = loss.kind if isinstance(loss, Loss) else "response"
    if kind != "response":
        arguments = {**arguments, **_taps(loss, student, teacher)}
    return KINDS[kind](loss, **arguments)


def _taps(
    loss: Loss, student: Any, teacher: Any, feature: str | None = None, given: str = ""
) -> dict[str, str]:
    """Returns the default taps of a loss on features."""
    feature = loss.default_feature if feature is None else feature
    if feature is None and loss.kind == "response":  # a loss of Keras, on any features
        feature = "last feature maps"
    reason, teacher = "it has no default for them", getattr(teacher, "teacher", teacher)
    if is_only_outputs(teacher):
        raise ValueError(no_layers_inside(f"the loss {loss.name!r}, which compares features"))
    if feature is not None:
        try:
            found = default_pair(teacher, student, feature)
            return {"student": found.student, "teacher": found.teacher}
        except (TypeError, ValueError) as error:
            reason = f"the {feature} cannot be told for each model ({str(error).rstrip('.')})"
    raise ValueError(
        f"The loss {loss.name!r} needs the layers that it compares, as {reason}. Give a list with "
        f"knowledge=[..., mr.{KINDS[loss.kind].__name__}({loss.name!r}, student='LAYER', "
        f"teacher='LAYER', weight={loss.default_weight:g})], or at='LAYER' where both have the "
        f"name; help(mr.losses.{type(loss).__name__}) says which layers. Received: "
        f"{given or f'knowledge={loss.name!r}'}"
    )


def _facing(knowledge: Knowledge, student: Any, teacher: Any) -> dict[str, str]:
    """Returns the pair of layers that contains the layer named by the user."""
    (side,) = {"student", "teacher"} - set(knowledge.auto_taps)
    named = getattr(knowledge, side)
    rows = list(pair(getattr(teacher, "teacher", teacher), student))
    for row in rows:
        if getattr(row, side) == named:
            return {"student": row.student, "teacher": row.teacher}
    raise ValueError(
        f"'auto' pairs the ends of stages, of the {side} {[getattr(row, side) for row in rows]} "
        "(mr.models.pair shows them): name both layers, or one of these. Received: "
        f"{side}={named!r}"
    )


def unused(component: Any) -> Any:
    """Returns a knowledge or an aggregator, or a copy if it is already part of a distiller.

    What cannot be copied from its config is returned unchanged; the distiller then raises an error.
    """
    parts = [component, getattr(component, "loss", None), getattr(component, "adapter", None)]
    if all(part is None or knobs.is_free(part) for part in parts):
        return component
    try:
        config = keras.saving.serialize_keras_object(component)
        for role in getattr(component, "auto_taps", ()):
            config["config"][role] = AUTO
        return keras.saving.deserialize_keras_object(_unbuilt(config))
    except (TypeError, ValueError, NotImplementedError):
        return component


def _unbuilt(config: Any) -> Any:
    """Returns a config without the shapes of the models that its layers were built for."""
    if isinstance(config, dict):
        return {key: _unbuilt(value) for key, value in config.items() if key != "build_config"}
    return [_unbuilt(one) for one in config] if isinstance(config, list) else config
