"""Methods that save and load a distiller: what its file holds, and how it comes back from it."""

import inspect
from typing import Any, NoReturn

import keras

from modreduce_keras import knobs
from modreduce_keras.copying import make_runnable
from modreduce_keras.distillers.teachers import files
from modreduce_keras.distillers.teachers.base import models_of
from modreduce_keras.registry import deserialized

_HDF5 = (".h5", ".hdf5")
_STUDENTS = ("model", "student", "students", "generator")
"""Arguments of distillers that are models to train."""


def save(self: Any, filepath: Any, *args: Any, **kwargs: Any) -> None:
    """Saves the distiller with its teacher in a `.keras` file, as `keras.Model.save` does.

    Raises:
        ValueError: If the file would be an HDF5 one, which cannot hold a teacher, or a layer
            of the teacher is such that no file can.
    """
    if str(filepath).endswith(_HDF5):
        raise _hdf5(filepath)
    keras.Model.save(self, filepath, *args, **kwargs)


def export(self: Any, *args: Any, **kwargs: Any) -> NoReturn:
    """Raises a `ValueError`: what is deployed is a student, which is plain Keras."""
    student = "student"
    if not hasattr(type(self), student):
        student = f"students[{next(iter(self.students))!r}]"
    raise ValueError(
        "A distiller trains; what is deployed is its student, a plain Keras model: "
        f"distiller.{student}.export(path), or mr.export.to_tflite(distiller.{student}, path). "
        f"Received: export of the distiller {self.name!r}"
    )


def get_compile_config(self: Any) -> Any:
    """Returns the arguments of `compile`, serialized."""
    if not self.compiled:
        return {}
    return keras.saving.serialize_keras_object(self.compilation.arguments)


def compile_from_config(self: Any, config: Any) -> None:
    """Compiles from what `get_compile_config` returned."""
    self.compile(**keras.saving.deserialize_keras_object(config))


def get_config(self: Any) -> dict[str, Any]:
    """Returns the constructor arguments that all distillers share, serialized."""
    if _writes_hdf5():
        raise _hdf5()
    serialize = keras.saving.serialize_keras_object
    return {
        **keras.Model.get_config(self),
        "teacher": self.teacher and serialize(self.teacher),
        "teacher_input": self._teacher_input and serialize(self._teacher_input),
        "teacher_dtype": self.teacher_dtype,
        **knobs.config(self),
    }


def from_config(cls: Any, config: Any, custom_objects: Any = None) -> Any:
    """Returns the distiller that `get_config` describes, with fresh weights."""
    distiller = cls(**_arguments(cls, config, custom_objects))
    distiller.await_teacher()
    return distiller


def await_teacher(self: Any) -> None:
    """Makes loading raise unless the file has the teacher, if there is one, and `fit` as well."""
    if self.teacher is not None:
        self._arrival.await_weights(self._forward.teachers)


def require_teacher_weights(self: Any) -> None:
    """Raises if the distiller was made from a config and its teacher has been given no weights."""
    self._arrival.require_weights()


def save_assets(self: Any, inner_path: Any) -> None:
    """Saves the teacher's whole state in `.keras` files (weight files leave it out)."""
    teacher = self._forward.teacher
    if teacher is not None:
        files.save(teacher.model, inner_path)


def load_assets(self: Any, inner_path: Any) -> None:
    """Loads what `save_assets` saved."""
    teacher = self._forward.teacher
    if teacher is not None:
        # It has come in any case: what is wrong with it is said here.
        self._arrival.is_awaited = False
        files.load(teacher.model, inner_path)
        teacher.follow()


def _arguments(cls: type, config: dict[str, Any], custom_objects: Any) -> dict[str, Any]:
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
