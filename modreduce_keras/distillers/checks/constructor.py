"""Checks of what a user hands to a distiller, made before anything is trained."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

import keras

from modreduce_keras.arguments import is_number, require_choice
from modreduce_keras.calls import did_you_mean, shown
from modreduce_keras.data import TeacherCache, TeacherOutputs
from modreduce_keras.distillers.teachers.forms import AS_GIVEN, AUTO
from modreduce_keras.losses.base import fits
from modreduce_keras.models.folding import DTYPES
from modreduce_keras.models.function_model import FunctionModel
from modreduce_keras.models.graph import input_specs, own_inputs, to_float
from modreduce_keras.symbolic import plain_errors


def require_model(model: Any, role: str) -> None:
    """Raises unless a Keras model came, and says how others are used."""
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"The {role} must be a keras.Model.{_remedy(model, role)} Received: {shown(model)}"
        )


def require_teacher(teacher: Any) -> None:
    """Raises unless what came as a teacher is one: models, a cache, outputs alone or `None`."""
    if teacher is None or isinstance(teacher, (TeacherCache, TeacherOutputs)):
        return
    if isinstance(teacher, (list, tuple)) and any(isinstance(t, TeacherOutputs) for t in teacher):
        raise TypeError(
            "Several teachers of which there are outputs are one TeacherOutputs: "
            "mr.data.TeacherOutputs(logits=[first, second]). A model joins them by its outputs, "
            "logits=[model.predict(x), second]. Received: a list with TeacherOutputs"
        )
    if isinstance(teacher, (list, tuple)) and any(isinstance(t, keras.Model) for t in teacher):
        for one in teacher:
            require_model(one, "teacher")
    elif not (isinstance(teacher, (list, tuple)) and not teacher):
        require_model(teacher, "teacher")


def require_running_teacher(teacher: Any, why: str, instead: str) -> None:
    """Raises unless one model came as a teacher, where stored outputs or a function do not do.

    Args:
        teacher: What came.
        why: Why they do not.
        instead: The call that takes them.
    """
    if isinstance(teacher, (TeacherCache, TeacherOutputs)):
        raise TypeError(
            f"The teacher must be a keras.Model here, as {why}: {instead}. "
            f"Received: a {type(teacher).__name__}"
        )
    require_model(teacher, "teacher")


def _remedy(model: Any, role: str) -> str:
    """Returns a sentence on how something other than a Keras model is used; `""` if unknown."""
    if isinstance(model, (str, os.PathLike)):
        if role.startswith("teacher") and os.fspath(model).endswith(".onnx"):
            return f" Load it: teacher=mr.models.from_onnx({os.fspath(model)!r})."
        if os.fspath(model).endswith((".tflite", ".onnx")):
            return " It is an exported file: mr.export.verify(path, student, data) compares them."
        return f" Load it: {role.split()[0]}=keras.saving.load_model({os.fspath(model)!r})."
    if isinstance(model, type):
        return f" Make one of the class: {role.split()[0]}={model.__name__}(...)."
    if hasattr(model, "load_state_dict"):
        return (
            " Weights of a PyTorch network go into a Keras model of the same layers: "
            "mr.models.import_torch_weights(model, network.state_dict())."
        )
    if isinstance(model, keras.layers.Layer):
        return " Make the layer a model: keras.Sequential([keras.Input(shape), layer])."
    if not role.startswith("teacher"):
        return ""
    if hasattr(model, "predict_proba"):
        return (
            " Its outputs are a teacher: teacher=mr.data.TeacherOutputs(probabilities="
            "model.predict_proba, shape=(len(model.classes_),))."
        )
    if hasattr(model, "predict"):
        return (
            " Its outputs are a teacher: teacher=mr.data.TeacherOutputs(logits=model.predict, "
            "shape=(1,)), of a regression for knowledge='logit_mse'."
        )
    leaves = keras.tree.flatten(model)
    if leaves and all(hasattr(leaf, "shape") or is_number(leaf) for leaf in leaves):
        return (
            " Stored logits are a teacher: teacher=mr.data.TeacherOutputs(logits=array), and "
            "teacher.attach(x) brings them to the batches. mr.data.TeacherCache(folder, teacher, "
            "taps=[...]) stores logits and features of a model."
        )
    return ""


def ensure_built(model: keras.Model, specs: Any, role: str) -> None:
    """Builds an unbuilt model for the inputs of another one, or says what the user has to do."""
    if input_specs(model) is not None or isinstance(model, FunctionModel):
        return
    remedy = (
        f"The {role} {model.name!r} is not built, and its inputs cannot be told from the other "
        "models. Start it with keras.Input(shape), or call it once on a batch."
    )
    if specs is None:
        raise ValueError(remedy)
    try:
        with plain_errors():
            model(specs)
    except Exception as error:
        raise ValueError(f"{remedy} Building it failed with: {error}") from error


def require_single_output(spec: Any, model: keras.Model, role: str) -> None:
    """Raises unless a model's symbolic output is one tensor (batch, ..., classes)."""
    if keras.tree.is_nested(spec) or len(spec.shape) < 2 or spec.shape[-1] is None:
        received = keras.tree.map_structure(lambda tensor: tuple(tensor.shape), spec)
        raise ValueError(
            f"The {role} {model.name!r} must have one output (batch, ..., classes) with a known "
            "number of classes; of several, mr.Response(..., at='NAME') reads the one of that "
            f"name. Received: output of shape {received}"
        )


def require_float_inputs(inputs: Any, specs: Any, models: Iterable[keras.Model] = ()) -> None:
    """Raises if integers come where the models take floats (Keras would convert in silence).

    `specs` is `None` where the models do not declare the dtype of their inputs.
    """
    if specs is None:
        return
    received, expected = keras.tree.flatten(inputs), keras.tree.flatten(specs)
    if len(received) != len(expected):
        return
    for tensor, spec in zip(received, expected, strict=True):
        dtype = keras.backend.standardize_dtype(tensor.dtype)
        if "int" in dtype and "float" in keras.backend.standardize_dtype(spec.dtype):
            raise ValueError(
                f"The models take float inputs. Received: x of dtype {dtype}. {to_float(models)}"
            )


def require_equal_inputs(student: keras.Model, teacher: keras.Model) -> None:
    """Raises if a student and its teacher, who see the same, declare inputs of unequal sizes."""
    given, own = input_specs(student), input_specs(teacher)
    own, given = own_inputs(student, own), own_inputs(teacher, given)
    sides = [keras.tree.flatten(side) for side in (given, own)]
    by_name = isinstance(given, Mapping) and isinstance(own, Mapping) and set(given) != set(own)
    if None in (given, own) or by_name or len(sides[0]) != len(sides[1]):
        return
    for seen, spec in zip(*sides, strict=True):
        # Keras adds or takes away a last axis of size one.
        if len(seen.shape) != len(spec.shape) or fits(seen.shape, spec.shape):
            continue
        shape = tuple(spec.shape)
        is_image = len(shape) == 4 and shape[-1] == seen.shape[-1] and None not in shape[1:3]
        view = f"keras.layers.Resizing{shape[1:3]}" if is_image else "a function of the inputs"
        raise ValueError(
            f"The student {student.name!r} takes inputs of shape {tuple(seen.shape)}, and the "
            f"teacher {teacher.name!r} of shape {shape}: say what the teacher sees, "
            f"teacher_input={view}, or the key of the inputs that are the teacher's"
        )


def require_inputs_of_teacher(teacher: keras.Model, seen: Any) -> None:
    """Raises if a functional teacher cannot take what it sees, which its students can."""
    specs = input_specs(teacher) if getattr(teacher, "inputs", None) else None
    if specs is None:
        return
    needed = keras.tree.flatten(specs)
    if isinstance(seen, Mapping):
        names = list(specs) if isinstance(specs, Mapping) else [one.name for one in needed]
        fits = set(names) <= set(seen)
    else:
        names, fits = [one.name for one in needed], len(keras.tree.flatten(seen)) == len(needed)
    if not fits:
        several = f"{len(keras.tree.flatten(seen))} without names"
        given = f"a dict of {list(seen)}" if isinstance(seen, Mapping) else several
        raise ValueError(
            f"The teacher {teacher.name!r} takes the inputs {names}, which x does not have: say "
            "what the teacher sees, teacher_input=the key of its entry in x, or a function of the "
            f"inputs. Received: {given}"
        )


def require_knowledge_and_teacher(teacher: Any, knowledge: list[Any]) -> None:
    """Raises if a teacher comes without knowledge that needs it, or the other way round."""
    needing = [one.name for one in knowledge if one.loss.needs_teacher]
    given = teacher is not None and teacher != []
    if given == bool(needing):
        return
    names = [model.name for model in keras.tree.flatten(teacher)] if given else None
    raise ValueError(
        "A teacher and what it teaches come together: give teacher= and knowledge that compares "
        f"with it, such as mr.Response('kd'), or neither. Received: teacher={names}, and "
        f"knowledge that needs a teacher: {needing}"
    )


def require_teacher_dtype(dtype: Any, teacher: Any) -> None:
    """Raises unless a teacher is there to run in a dtype, and can."""
    if dtype is None:
        return
    require_choice("teacher_dtype", dtype, (AUTO, *DTYPES, AS_GIVEN))
    if not teacher:
        raise ValueError(
            "teacher_dtype is what a teacher computes in, and there is none. Received: "
            f"teacher_dtype={dtype!r}, teacher={teacher!r}"
        )


def require_students(students: Any) -> None:
    """Raises unless students came as a dict from name to model, or as a list of models."""
    expected = "students must be a dict from name to model, or a list of models"
    if isinstance(students, Mapping):
        strange = [name for name in students if not isinstance(name, str)]
        if strange:
            raise TypeError(f"{expected}; names are strings. Received: the names {strange}")
        return
    if not isinstance(students, (list, tuple)):
        raise TypeError(f"{expected}. Received: {students!r}")
    for student in students:
        if not isinstance(student, keras.Model):
            raise TypeError(f"{expected}. Received: a list with {student!r}")


def require_by_student(argument: str, given: Any, example: str) -> None:
    """Raises unless an argument is a dict from student, or `None`."""
    if given is not None and not isinstance(given, Mapping):
        raise TypeError(
            f"{argument} must be a dict from student, such as {argument}={example}. "
            f"Received: {given!r}"
        )


def require_online_loss(loss: Any) -> None:
    """Raises unless a loss compares one vector of logits with another, and nothing else."""
    plain = not loss.student_extras
    if loss.kind == "response" and plain and loss.needs_teacher and not loss.needs_labels:
        return
    raise ValueError(
        "online_loss must be a loss of logits against logits, such as 'kd', 'dist' or "
        f"'logit_mse'. Received: online_loss={loss.name!r} (kind {loss.kind!r}"
        + (", needs labels" if loss.needs_labels else "")
        + ("" if loss.needs_teacher else ", needs no teacher")
        + ")"
    )


def require_networks(terms: Iterable[Any], networks: list[str], students: list[str]) -> None:
    """Raises if a weighted term trains a network that there is not.

    Args:
        terms: The terms.
        networks: Names of the networks; of students that share a trunk, there is one for all.
        students: Names of the students.
    """
    known = list(dict.fromkeys([*students, *networks]))
    for term in terms:
        # The exits of one network count as students in the logs.
        unknown = term.network not in (None, term.student, *known)
        if term.weight is not None and unknown:
            raise ValueError(
                f"network of the {term.described} must be one of {known}."
                f"{did_you_mean(str(term.network), known)} Received: network={term.network!r}"
            )


def require_build_terms(cls: type) -> None:
    """Raises if a class of distillers defines its loss where the step would never look."""
    replaced = sorted({"compute_terms", "term_weights", "compute_loss"} & set(vars(cls)))
    if replaced:
        raise TypeError(
            "A distiller defines its loss in build_terms, which returns a list of "
            f"modreduce_keras.distillers.Term. Received: {cls.__name__} with {replaced}"
        )


def repeated(names: list[str]) -> list[str]:
    """Returns the names that come more than once."""
    return sorted({name for name in names if names.count(name) > 1})


def require_distinct(models: dict[str, keras.Model]) -> None:
    """Raises if the same model object is given twice."""
    seen: dict[int, str] = {}
    for role, model in models.items():
        if id(model) in seen:
            raise ValueError(
                f"{seen[id(model)]} and {role} are the same model object {model.name!r}. Each "
                "needs a model of its own: build it anew, or mr.models.copy_model(model) copies "
                "it with its weights."
            )
        seen[id(model)] = role
