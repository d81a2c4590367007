"""What of a distiller is saved: its config, how it was compiled, and the teacher's weights."""

from typing import Any, ClassVar

import keras

from modreduce_keras import knobs
from modreduce_keras.distillers.guarded import GuardedModel
from modreduce_keras.registry import rebuild


class SavedModel(GuardedModel):
    """Base class of the distillers: `.keras` files bring back everything, the teacher included."""

    _model_views: ClassVar[tuple[str, ...]] = ("teacher", "student", "best_student")
    """Properties that return a model which is held elsewhere."""

    def __dir__(self):
        # Keras saves the weights of every model that dir() shows, where it shows it first. The
        # teacher's are not ours, and the students' belong under `students`.
        return [name for name in super().__dir__() if name not in self._model_views]

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
        return rebuild(cls, config, custom_objects)

    def save_assets(self, inner_path):
        """Saves the teacher's weights in `.keras` files (weight files leave them out)."""
        if self.teacher is not None:
            self._wiring.teacher.save(inner_path)

    def load_assets(self, inner_path):
        """Loads what `save_assets` saved."""
        if self.teacher is not None:
            self._wiring.teacher.load(inner_path)
