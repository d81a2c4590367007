"""Saving: what a distiller's file holds, and how the distiller comes back from it."""

import inspect
from typing import Any, NoReturn

import keras

from modreduce_keras import knobs
from modreduce_keras.copying import make_runnable
from modreduce_keras.distillers.teachers.base import models_of
from modreduce_keras.registry import deserialized

_HDF5 = (".h5", ".hdf5")
_STUDENTS = ("model", "student", "students", "generator")
"""Arguments of distillers that are models to train."""


def require_format(filepath: Any) -> None:
    """Raises if a file would be an HDF5 one, which cannot hold a teacher."""
    if str(filepath).endswith(_HDF5):
        raise _hdf5(filepath)


def shared_config(distiller: Any, teacher_input: Any) -> dict[str, Any]:
    """Returns the constructor arguments that all distillers share, serialized."""
    if _writes_hdf5():
        raise _hdf5()
    serialize = keras.saving.serialize_keras_object
    return {
        "teacher": distiller.teacher and serialize(distiller.teacher),
        "teacher_input": teacher_input and serialize(teacher_input),
        "teacher_dtype": distiller.teacher_dtype,
        **knobs.config(distiller),
    }


def arguments_from(cls: type, config: dict[str, Any], custom_objects: Any) -> dict[str, Any]:
    """Returns constructor arguments of a class from a config, with models that can run."""
    known = inspect.signature(cls).parameters
    arguments = {
        name: value
        for name, value in deserialized(config, custom_objects).items()
        # Files of earlier versions name arguments of other distillers, as `None`.
        if name in known or value is not None
    }
    students = keras.tree.flatten([arguments.get(name) for name in _STUDENTS])
    for model in [*models_of(arguments.get("teacher")), *students]:
        if isinstance(model, keras.Model):
            make_runnable(model)
    return arguments


def refuse_export(distiller: Any) -> NoReturn:
    """Raises a `ValueError`: what is deployed is a student, which is plain Keras."""
    student = "student"
    if not hasattr(type(distiller), student):
        student = f"students[{next(iter(distiller.students))!r}]"
    raise ValueError(
        "A distiller trains; what is deployed is its student, a plain Keras model: "
        f"distiller.{student}.export(path), or mr.export.to_tflite(distiller.{student}, path). "
        f"Received: export of the distiller {distiller.name!r}"
    )


def _hdf5(filepath: Any = "") -> ValueError:
    received = f" Received: filepath={str(filepath)!r}" if filepath else ""
    return ValueError(
        "HDF5 files (.h5) cannot hold a distiller, its teacher and their vocabularies: call "
        "distiller.save('distiller.keras'), or distiller.student.save('student.keras') for what "
        f"has been trained.{received}"
    )


def _writes_hdf5() -> bool:
    """Returns whether Keras is writing an HDF5 file, whose configs have another form."""
    probe = keras.Sequential([keras.layers.Identity(name="probe")], name="probe")
    return "registered_name" not in probe.get_config()["layers"][0]
