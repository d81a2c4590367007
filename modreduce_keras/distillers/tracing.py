"""Tracing: what a compiled step is traced for, and when it has to be traced anew."""

from collections.abc import Callable
from typing import Any

import keras

from modreduce_keras.distillers.step.forward import ForwardPass
from modreduce_keras.distillers.teachers import forms
from modreduce_keras.distillers.teachers.base import fingerprint_of_constants
from modreduce_keras.distribute import is_multi_worker


class Tracing:
    """What the step of a model is traced for: of this one, nothing that is chosen or changes."""

    def awaits_batch(self) -> bool:
        """Returns whether the first batch is to be seen, before the step is traced."""
        return False

    def look_at(self, data: Any) -> None:
        """Sees that batch."""

    def traced_for(self) -> Any:
        """Returns what was chosen; the step is traced anew where it changes."""
        return ()


class TeacherTracing(Tracing):
    """How the teacher of a distiller runs, and what of its models is a constant in a step.

    Args:
        distiller: The distiller.
        forward: Its forward pass.
        views: What prepares the inputs of its models: layers, functions and keys.

    Attributes:
        inputs_of: Returns the inputs of a batch by which the teacher chooses; may be replaced.
    """

    def __init__(self, distiller: Any, forward: ForwardPass, views: Any):
        self._distiller, self._teacher = distiller, forward.teacher
        self._forward = forward
        self.inputs_of: Callable[[Any], Any] = _inputs_of
        layers = [one for one in keras.tree.flatten(views) if isinstance(one, keras.layers.Layer)]
        self._models = [*distiller.students.values(), *layers]
        self._constants = fingerprint_of_constants(self._models)

    def awaits_batch(self) -> bool:
        return self._teacher is not None and self._teacher.awaits_batch

    def look_at(self, data: Any) -> None:
        distiller, before = self._distiller, self.traced_for()
        strategy, x = distiller.distribute_strategy, self.inputs_of(data)
        with strategy.scope():
            measures = not is_multi_worker(strategy)
            self._forward.look_at(x, jit_compile=distiller.jit_compile, measures=measures)
        if before != self.traced_for():
            distiller.test_function = None
        if distiller.runs.speaks and distiller.teacher_dtype == forms.AUTO:
            print(forms.described(self.forms()))

    def traced_for(self) -> Any:
        return tuple(self.forms().values())

    def forms(self) -> dict[str, str]:
        """Returns how each teacher runs, by the model's name."""
        teacher = self._teacher
        forms = zip(teacher.models, teacher.forms, strict=True) if teacher else ()
        return {model.name: form for model, form in forms}

    def restore(self, forms: Any) -> None:
        """Lets the teachers run as they did, if these are their names."""
        if self._teacher is not None and set(forms) == set(self.forms()):
            self._teacher.settle([forms[model.name] for model in self._teacher.models])
            self._distiller.test_function = None

    def follow(self, *, teacher: bool = True) -> None:
        """Drops traced functions whose constants or weights are no longer those of the models.

        Args:
            teacher: Whether the functions that are called next run the teacher.
        """
        before, distiller = self._constants, self._distiller
        self._constants = fingerprint_of_constants(self._models)
        follows = teacher and self._teacher is not None and self._teacher.follow()
        if follows or before != self._constants:
            distiller.train_function = distiller.test_function = distiller.predict_function = None


def _inputs_of(data: Any) -> Any:
    return keras.utils.unpack_x_y_sample_weight(data)[0]
