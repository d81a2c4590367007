"""Foreign: calls of other distillation libraries, answered with the call of this one."""

import math
from collections.abc import Mapping
from typing import Any

import keras

from modreduce_keras import registry
from modreduce_keras.calls import shown
from modreduce_keras.knowledge.base import Knowledge
from modreduce_keras.losses.base import Loss

_KERAS_IO = ("alpha", "temperature", "distillation_loss_fn", "student_loss_fn")
_MODELS = "student=student, teacher=teacher"


def meant_by_constructor(given: Mapping[str, Any]) -> str | None:
    """Returns the call of `mr.Distiller` that other arguments of a constructor stand for.

    Known are those of `keras.distillation.Distiller`, and hyperparameters of a loss: `T=4`,
    `alpha=0.1`.
    """
    if {"distillation_losses", "distillation_loss_weights", "student_loss_weight"} & set(given):
        return _of_keras(given)
    loss = _loss_of(given.get("knowledge"))
    names = {name: loss.argument_named(name) for name in given}
    own = {str(names[name]): value for name, value in given.items() if names[name] is not None}
    share = given.get("alpha") if names.get("alpha") is None else None
    if not own and share is None:
        return None
    return _distiller(loss, own, share)


def meant_by_compile(given: Mapping[str, Any]) -> str | None:
    """Returns the calls that arguments of `compile` in keras.io's example stand for."""
    if not set(_KERAS_IO) & set(given):
        return None
    loss = _loss_of(None)
    own = {"temperature": given["temperature"]} if "temperature" in given else {}
    made = f"distiller = {_distiller(loss, own, given.get('alpha'))}"
    named = {"optimizer": given.get("optimizer"), "loss": given.get("student_loss_fn")}
    arguments = [f"{name}={_written(value)}" for name, value in named.items() if value is not None]
    arguments += [f"metrics={_written(given['metrics'])}"] if given.get("metrics") else []
    return f"{made}, then distiller.compile({', '.join(arguments) or '...'})"


def _of_keras(given: Mapping[str, Any]) -> str:
    losses = given.get("distillation_losses") or []
    losses = list(losses) if isinstance(losses, (list, tuple)) else [losses]
    weights = given.get("distillation_loss_weights") or [1.0] * len(losses)
    labels = given.get("student_loss_weight", 0.5)
    weights = [weight * (1 - labels) for weight in weights]
    parts = [_knowledge_of_keras(*pair) for pair in zip(losses, weights, strict=False)]
    knowledge = ", ".join(parts) or _response(_loss_of(None), {}, 1 - labels)
    return f"mr.Distiller({_MODELS}, knowledge=[{knowledge}], supervised_weight={labels:g})"


def _knowledge_of_keras(loss: Any, weight: float) -> str:
    if hasattr(loss, "student_layer_name"):
        compared = keras.tree.flatten(loss.loss)[0]
        words = getattr(compared, "__name__", "").split("_")
        name = "".join(word.capitalize() for word in words) or type(compared).__name__
        made = f"keras.losses.{name}()" if hasattr(keras.losses, name) else "'hint'"
        taps = f"student={loss.student_layer_name!r}, teacher={loss.teacher_layer_name!r}"
        return f"mr.Feature({made}, {taps}, weight={weight:g})"
    temperature = getattr(loss, "temperature", None)
    own = {} if temperature is None else {"temperature": temperature}
    return _response(_loss_of(None), own, weight)


def _distiller(loss: type[Loss], own: Mapping[str, Any], share: Any) -> str:
    weight = 1 - share if isinstance(share, (int, float)) else None
    labels = "" if weight is None else f", supervised_weight={share:g}"
    return f"mr.Distiller({_MODELS}, knowledge=[{_response(loss, own, weight)}]{labels})"


def _response(loss: type[Loss], own: Mapping[str, Any], weight: float | None) -> str:
    arguments = ", ".join(f"{name}={shown(value)}" for name, value in own.items())
    of_term = "" if weight is None else f", weight={weight:g}"
    taps = "" if loss.kind == "response" else ", at=..."
    kind = loss.kind.capitalize()
    return f"mr.{kind}(mr.losses.{loss.__name__}({arguments}){taps}{of_term})"


def _loss_of(knowledge: Any) -> type[Loss]:
    """Returns the loss whose hyperparameters are meant: the first one given, else KD."""
    first = knowledge[0] if isinstance(knowledge, (list, tuple)) and knowledge else knowledge
    if isinstance(first, str):
        return registry.lookup("loss", first)
    loss = getattr(first, "loss", first)
    return type(loss) if isinstance(loss, Loss) else registry.lookup("loss", "kd")


def _written(value: Any) -> str:
    """Returns the expression of a value, as far as it is known."""
    if isinstance(value, (keras.optimizers.Optimizer, keras.losses.Loss, keras.metrics.Metric)):
        module = next(
            name
            for name, base in (
                ("optimizers", keras.optimizers.Optimizer),
                ("metrics", keras.metrics.Metric),
                ("losses", keras.losses.Loss),
            )
            if isinstance(value, base)
        )
        is_of_logits = value.get_config().get("from_logits")
        logits = "from_logits=True" if is_of_logits else ""
        return f"keras.{module}.{type(value).__name__}({logits})"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_written, value))}]"
    return shown(value)


def former_constructor(given: tuple[Any, ...]) -> dict[str, Any] | None:
    """Returns the arguments of a `Distiller` by position, as version 0.1 had them.

    That took (student, teacher, knowledge), with a list of knowledge. Other libraries begin with
    the teacher: a first model that is larger than the second may be one.

    Raises:
        ValueError: If the arguments are those of version 0.1, and the first model is the larger.
    """
    if len(given) != 3:
        return None
    student, teacher, knowledge = given
    several = knowledge if isinstance(knowledge, (list, tuple)) else [knowledge]
    if not several or not all(isinstance(one, Knowledge) for one in several):
        return None
    sizes = _size(student), _size(getattr(teacher, "teacher", teacher))
    if sizes[0] > sizes[1]:
        raise ValueError(
            "Distiller takes its arguments by name, so that student and teacher are not swapped. "
            f"By position, the first model would be the student, and it has {sizes[0]:,} weights, "
            f"the second, the teacher, {sizes[1]:,}. Write which is which: "
            "mr.Distiller(student=..., teacher=..., knowledge=...). "
            f"Received by position: {', '.join(map(shown, given))}"
        )
    return {"student": student, "teacher": teacher, "knowledge": knowledge}


def former_modreduce(given: tuple[Any, ...]) -> dict[str, Any] | None:
    """Returns the arguments of a `ModReduce` by position: a teacher and a dict of students."""
    is_former = len(given) == 2 and isinstance(given[1], Mapping)
    return {"teacher": given[0], "students": given[1]} if is_former else None


def _size(models: Any) -> int:
    """Returns the number of parameters of a model, or of several."""
    several = [one for one in keras.tree.flatten(models) if isinstance(one, keras.Model)]
    return sum(math.prod(v.shape) for model in several for v in model.variables)
