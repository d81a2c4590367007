"""What of a distiller is saved: its config, how it was compiled, and the teacher's weights."""

from typing import Any, ClassVar

import keras

from modreduce_keras import knobs
from modreduce_keras.copying import make_runnable
from modreduce_keras.distillers import teacher_files
from modreduce_keras.distillers.guarded import GuardedModel
from modreduce_keras.distillers.teacher import models_of
from modreduce_keras.keras_internals import is_asked_by_saver
from modreduce_keras.registry import deserialized

_HDF5 = (".h5", ".hdf5")
_STUDENTS = ("model", "student", "students")
"""Arguments of distillers that are models to train."""


class SavedModel(GuardedModel):
    """Base class of the distillers: `.keras` files bring back everything, the teacher included."""

    _model_views: ClassVar[tuple[str, ...]] = ("teacher", "student", "best_student")
    """Properties that return a model which is held elsewhere."""

    def __dir__(self) -> list[str]:
        # Keras saves the weights of every model that dir() shows, where it shows it first. The
        # teacher's are not ours, and the students' belong under `layers`.
        hidden = self._model_views if is_asked_by_saver() else ()
        return [name for name in super().__dir__() if name not in hidden]

    def save(self, filepath: Any, *args: Any, **kwargs: Any) -> None:
        """Saves the distiller with its teacher in a `.keras` file, as `keras.Model.save` does.

        Raises:
            ValueError: If the file would be an HDF5 one, which cannot hold a teacher, or a layer
                of the teacher is such that no file can.
        """
        if str(filepath).endswith(_HDF5):
            raise _hdf5(filepath)
        super().save(filepath, *args, **kwargs)

    def get_compile_config(self):
        """Returns the arguments of `compile`, serialized."""
        if not self.compiled:
            return {}
        return keras.saving.serialize_keras_object(self._compile_arguments())

    def compile_from_config(self, config):
        """Compiles from what `get_compile_config` returned."""
        self.compile(**keras.saving.deserialize_keras_object(config))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments that all distillers share, serialized."""
        if _writes_hdf5():
            raise _hdf5()
        serialize = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            "teacher": self.teacher and serialize(self.teacher),
            "teacher_input": self._teacher_input and serialize(self._teacher_input),
            "teacher_dtype": self.teacher_dtype,
            **knobs.config(self),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Returns the distiller that `get_config` describes, with fresh weights."""
        arguments = deserialized(config, custom_objects)
        students = keras.tree.flatten([arguments.get(name) for name in _STUDENTS])
        for model in [*models_of(arguments.get("teacher")), *students]:
            if isinstance(model, keras.Model):
                make_runnable(model)
        distiller = cls(**arguments)
        distiller._arrival.is_awaited = distiller.teacher is not None
        return distiller

    def save_assets(self, inner_path):
        """Saves the teacher's whole state in `.keras` files (weight files leave it out)."""
        if self.teacher is not None:
            teacher_files.save(self._wiring.teacher.model, inner_path)

    def load_assets(self, inner_path):
        """Loads what `save_assets` saved."""
        if self.teacher is not None:
            # It has come in any case: what is wrong with it is said here.
            self._arrival.is_awaited = False
            teacher_files.load(self._wiring.teacher.model, inner_path)
            self._wiring.teacher.follow()


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
