"""LiveTeacher: one or several trained models that run forward in each training step."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from modreduce_keras.copying import copy_state
from modreduce_keras.distillers import checks
from modreduce_keras.distillers.inputs import Inputs
from modreduce_keras.distillers.teacher import fingerprint_of_constants, models_of
from modreduce_keras.fingerprints import fingerprint_of
from modreduce_keras.keras_internals import flatten_layers
from modreduce_keras.models.folding import fold
from modreduce_keras.models.graph import input_specs
from modreduce_keras.models.same_outputs import require_same_outputs
from modreduce_keras.taps import ModelOutput, TapReader


class Together(keras.Model):
    """Several teachers that run side by side; each is a part of that name to the taps.

    Args:
        teachers: At least one model; their names differ.
        own_inputs: Whether every teacher has inputs of its own, a list, or all the same.

    Raises:
        ValueError: If two have one name, or there is none.
    """

    def __init__(self, teachers: Sequence[keras.Model], own_inputs: bool):
        # Each teacher casts its inputs as its own policy says.
        super().__init__(name="teachers", dtype="float32", autocast=False)
        twice = checks.repeated([teacher.name for teacher in teachers])
        if twice or not teachers:
            raise ValueError(
                "Several teachers are told apart by their models' names: give at least one, and "
                f"name them differently. Received: {[teacher.name for teacher in teachers]}"
            )
        self.teachers = list(teachers)
        self.own_inputs = own_inputs
        self.built = True

    def specs(self) -> Any:
        """Returns the symbolic inputs that `call` takes."""
        specs = [input_specs(teacher) for teacher in self.teachers]
        return specs if self.own_inputs else specs[0]

    def call(self, inputs: Any, training: Any = None) -> Any:
        """Returns the list of the teachers' outputs."""
        each = inputs if self.own_inputs else [inputs] * len(self.teachers)
        pairs = zip(self.teachers, each, strict=True)
        return [teacher(seen, training=training) for teacher, seen in pairs]


class LiveTeacher:
    """Runs a trained model forward, in inference mode, behind stopped gradients.

    Args:
        given: The trained model, or a list of them. They are not changed.
        taps: Names of the taps to read.
        inputs: Tells what of a batch the teacher sees.
        dtype: What a folded copy of the teacher computes in, which then runs in its place; `None`
            runs the teacher itself. Models that cannot be folded run as they are, with a warning.
        specs: Symbolic inputs of models that do not say what they take.

    Raises:
        ValueError: If there are views for another number of teachers.
    """

    def __init__(
        self,
        given: Any,
        taps: list[str],
        inputs: Inputs,
        dtype: str | None = None,
        *,
        specs: Any = None,
    ):
        self.given = given
        self.models = models_of(given)
        if inputs.views is not None and len(inputs.views) != len(self.models):
            raise ValueError(
                f"teacher_input must have one entry for each of {len(self.models)} teachers. "
                f"Received: {len(inputs.views)}"
            )
        if isinstance(given, keras.Model):
            self.model, own = given, input_specs(given)
        else:
            self.model = Together(self.models, own_inputs=inputs.views is not None)
            own = self.model.specs()
        self.specs = specs if own is None else own
        self.reader = TapReader(self.model, taps, role="teacher")
        self._inputs = inputs
        self._dtype: Any = dtype
        self._folded: dict[int, keras.Model] = {}
        self._runs = self.reader if dtype is None else self._folded_reader(taps)
        self._state = self._state_now()
        # Only functional models declare the dtype of their inputs.
        functional = all(getattr(model, "inputs", None) for model in self.models)
        self._declared = own if functional else None

    def specs_of_output(self) -> ModelOutput:
        """Returns the teacher's symbolic output, features and masks."""
        return self.reader.specs(self.specs)

    def outputs_for(
        self, x: Any, seen: Mapping[str, Any], training: bool = True
    ) -> dict[str, ModelOutput]:
        """Returns the teacher's output for each student; see `Teacher`."""
        if self._inputs.teacher_follows_students:
            of = self._inputs.teacher_of
            return {name: self(of(name, x, own, training)) for name, own in seen.items()}
        return dict.fromkeys(seen, self(self._inputs.teacher(x, training)))

    def __call__(self, seen: Any) -> ModelOutput:
        """Returns the teacher's output and features for what it sees, constants to the gradient."""
        checks.require_float_inputs(seen, self._declared, self.models)
        output = self._runs(seen, training=False)
        return ModelOutput(*keras.tree.map_structure(ops.stop_gradient, tuple(output)))

    def _folded_reader(self, taps: list[str]) -> TapReader:
        for index, model in enumerate(self.models):
            try:
                self._folded[index] = fold(model, dtype=self._dtype, taps=taps)
            except ValueError as error:
                warnings.warn(
                    f"teacher_dtype={self._dtype!r} does nothing for the teacher {model.name!r}, "
                    f"which runs as it was given: {error}",
                    stacklevel=2,
                )
        models = [self._folded.get(index, model) for index, model in enumerate(self.models)]
        if isinstance(self.given, keras.Model):
            return TapReader(models[0], taps, role="teacher")
        together = Together(models, own_inputs=self._inputs.views is not None)
        return TapReader(together, taps, role="teacher")

    def _state_now(self) -> tuple[str, str]:
        """Returns hashes of what was folded, and of what is a constant in a traced step."""
        weights = [v for index in self._folded for v in self.models[index].variables]
        return fingerprint_of(weights), fingerprint_of_constants(self.models)

    def follow(self) -> bool:
        """Runs the teacher as it is now: folds it anew, if its state is not that of before.

        Returns:
            Whether steps have to be traced anew, since statistics or vocabularies have changed.
        """
        before, self._state = self._state, self._state_now()
        if before == self._state:
            return False
        taps, only_weights = list(self.reader.taps), before[1] == self._state[1]
        if self._dtype is not None and not (only_weights and self._fold_again(taps)):
            self._folded = {}
            self._runs = self._folded_reader(taps)
            return True
        return not only_weights

    def _fold_again(self, taps: list[str]) -> bool:
        """Gives the folded copies the weights of now, and returns whether that could be done."""
        try:
            for index, folded in self._folded.items():
                fresh = fold(self.models[index], dtype=self._dtype, taps=taps)
                copy_state(fresh, folded)
                require_same_outputs(fresh, folded)
        except ValueError:
            return False
        return True

    def chosen_by(self, taps: list[str]) -> keras.Model:
        """Returns the teacher that some taps are of; the first where they do not say."""
        tapped = {id(self.reader.taps[tap][0]) for tap in taps if tap in self.reader.taps}
        for model in self.models:
            layers = flatten_layers(model)
            if tapped & {id(layer) for layer in layers}:
                return model
        return self.models[0]
