"""Teacher: what gives a distiller the outputs of a trained model, as constants.

It is a plain object on purpose: Keras neither counts the weights of a model that only a plain
object holds among the distiller's, nor saves them with it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import keras

from modreduce_keras.copying import adapted_variables, fingerprint_of_tables
from modreduce_keras.data.outputs_only import TeacherOutputs
from modreduce_keras.data.teacher_cache import TeacherCache
from modreduce_keras.fingerprints import fingerprint_of
from modreduce_keras.taps import ModelOutput, TapReader


class Teacher(Protocol):
    """One or several trained models, run or read from a cache.

    Attributes:
        given: What the user gave: a model, a list of them, a cache, or outputs alone.
        models: The models.
        model: The one that holds them all.
        reader: Knows the taps.
        specs: Symbolic inputs; `None` where they are not known.
        awaits_batch: Whether it is to see a batch, before a step is traced.
        forms: How each model runs; see `teacher_forms`.
    """

    given: Any
    models: list[keras.Model]
    model: keras.Model
    reader: TapReader
    specs: Any
    awaits_batch: bool
    forms: list[str]

    def specs_of_output(self) -> ModelOutput:
        """Returns the symbolic output, features and masks."""

    def outputs_for(
        self, x: Any, seen: Mapping[str, Any], training: bool = True
    ) -> dict[str, ModelOutput]:
        """Returns the output for each student: one for all, if all see the same.

        Args:
            x: The inputs of a batch.
            seen: What each student sees of them.
            training: Whether any student trains on it. The teacher itself runs in inference in any
                case; layers that make its input augment in training only.
        """

    def look_at(
        self, x: Any, seen: Mapping[str, Any], *, jit_compile: bool, measures: bool
    ) -> None:
        """Chooses how the models run, by the inputs of a batch."""

    def settle(self, forms: Sequence[str]) -> None:
        """Lets the models run as was chosen before."""

    def follow(self) -> bool:
        """Notes changes of the models, and returns whether steps have to be traced anew."""

    def chosen_by(self, taps: list[str]) -> keras.Model:
        """Returns the model that some taps are of; the first where they do not say."""


def fingerprint_of_constants(models: Sequence[keras.layers.Layer]) -> str:
    """Returns a hash of what a traced step has of models as constants.

    These are what `adapt` has found, and which weights there are: `quantize` and `enable_lora`
    replace them or add others.
    """
    adapted = [variable for model in models for variable in adapted_variables(model)]
    weights = [f"{one.path} {one.dtype} {one.shape}" for m in models for one in m.variables]
    tables = [fingerprint_of_tables(model) for model in models]
    return "".join([fingerprint_of(adapted), *tables, *weights])


def models_of(teacher: Any) -> list[keras.Model]:
    """Returns the models of what is given as a teacher.

    Args:
        teacher: A model, several, a cache of one, outputs alone or `None`.
    """
    if teacher is None:
        return []
    if isinstance(teacher, (TeacherCache, TeacherOutputs)):
        teacher = teacher.teacher
    return list(teacher) if isinstance(teacher, (list, tuple)) else [teacher]
