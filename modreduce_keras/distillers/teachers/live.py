"""LiveTeacher: one or several trained models that run forward in each training step."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from modreduce_keras.calls import stacklevel_of_user
from modreduce_keras.copying import copy_state
from modreduce_keras.distillers import checks
from modreduce_keras.distillers.step.inputs import Inputs
from modreduce_keras.distillers.teachers import forms
from modreduce_keras.distillers.teachers.base import fingerprint_of_constants, models_of
from modreduce_keras.distillers.teachers.folded_normalization import foldable, folded_normalization
from modreduce_keras.distillers.teachers.forms import AS_GIVEN, AUTO, FOLDED
from modreduce_keras.fingerprints import fingerprint_of
from modreduce_keras.keras_internals import flatten_layers
from modreduce_keras.models.folding import fold
from modreduce_keras.models.graph import input_specs, own_inputs
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
        dtype: `"as_given"` runs the model itself. `"float32"`, `"bfloat16"` and `"float16"` run a
            folded copy that computes in that dtype; models that cannot be folded run as they are,
            with a warning. `None` and `"auto"` choose on the first batch; see `look_at`.
        specs: Symbolic inputs of models that do not say what they take.

    Attributes:
        awaits_batch: Whether how the models run is to be chosen on the next batch.
        forms: How each model runs; see `teacher_forms`.

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
        self._inputs, self._dtype = inputs, dtype
        self._copies: dict[tuple[int, str], keras.Model] = {}
        self._is_undecided = False
        self._constants = fingerprint_of_constants(self.models)
        tapped = {id(layer) for layer, _ in self.reader.taps.values()}
        chooses = dtype is None or dtype == AUTO
        self._pairs = [foldable(one, tapped) if chooses else [] for one in self.models]
        self.run_as([AS_GIVEN if dtype is None or dtype == AUTO else dtype] * len(self.models))
        self.awaits_batch = dtype == AUTO or any(self._pairs) or self._may_overflow()
        self._weights = self._weights_now() if self._copies else None
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
        return constant(self.with_gradient(seen))

    def with_gradient(self, seen: Any) -> ModelOutput:
        """Returns the same, through which gradients reach what it sees."""
        seen = own_inputs(self.model, seen)
        checks.require_inputs_of_teacher(self.model, seen)
        checks.require_float_inputs(seen, self._declared, self.models)
        with folded_normalization(self._folded_pairs):
            return self._runs(seen, training=False)

    # How it runs

    def run_as(self, forms: Sequence[str]) -> None:
        """Runs each model in a form, in what is traced from now on.

        Raises:
            ValueError: If `"auto"` has chosen a copy of a model and there can be none.
        """
        models = [self._in_form(index, form) for index, form in enumerate(forms)]
        self.forms = [
            AS_GIVEN if model is own and form != FOLDED else form
            for model, own, form in zip(models, self.models, forms, strict=True)
        ]
        pairs = zip(self._pairs, forms, strict=True)
        self._folded_pairs = [pair for own, form in pairs if form == FOLDED for pair in own]
        if all(one is other for one, other in zip(models, self.models, strict=True)):
            self._runs = self.reader
            return
        several = not isinstance(self.given, keras.Model)
        own = self._inputs.views is not None
        model = Together(models, own_inputs=own) if several else models[0]
        taps = [*self.reader.taps, *self.reader.outputs]
        self._runs = TapReader(model, taps, role="teacher")

    def _in_form(self, index: int, form: str) -> keras.Model:
        model = self.models[index]
        if form in (AS_GIVEN, FOLDED):
            return model
        if (index, form) not in self._copies:
            try:
                self._copies[index, form] = fold(model, dtype=form, taps=list(self.reader.taps))
            except ValueError as error:
                if self._dtype == AUTO:
                    raise
                warnings.warn(
                    f"teacher_dtype={self._dtype!r} has no effect on the teacher {model.name!r}, "
                    f"which runs unchanged: {error}",
                    stacklevel=stacklevel_of_user(),
                )
                return model
        return self._copies[index, form]

    def look_at(
        self, x: Any, seen: Mapping[str, Any], *, jit_compile: bool, measures: bool
    ) -> None:
        """Chooses how the models run, by their outputs for a batch.

        Args:
            x: The inputs of the batch.
            seen: What each student sees of them.
            jit_compile: Whether XLA compiles the steps.
            measures: Whether `"auto"` may choose what is fastest here.
        """
        self.awaits_batch, self._weights = False, self._weights_now()
        if self._may_overflow():
            forms.require_finite(self, x, seen, str(self._dtype))
            return
        lower = self._dtype == AUTO and measures
        candidates = self._candidates(lower)
        self._is_undecided = not forms.choose(self, x, seen, candidates, jit_compile=jit_compile)
        kept = dict(enumerate(self.forms))
        self._copies = {key: one for key, one in self._copies.items() if kept[key[0]] == key[1]}

    def _may_overflow(self) -> bool:
        """Returns whether the user has asked for a range smaller than that of float32."""
        return self._dtype == "float16" and bool(self._copies)

    def _candidates(self, lower: bool) -> list[list[str]]:
        others = forms.LOWER if lower else ()
        return [[*([FOLDED] if pairs else []), *others] for pairs in self._pairs]

    def settle(self, forms: Sequence[str]) -> None:
        """Runs each model in a form that was chosen before, as in a training that goes on."""
        known = self._candidates(self._dtype == AUTO)
        if not any(known) or not self._may_be(known, forms):
            return
        self.awaits_batch, self._weights = False, self._weights_now()
        self.run_as(forms)

    @staticmethod
    def _may_be(known: list[list[str]], forms: Sequence[str]) -> bool:
        """Returns whether forms of a training are those of this teacher."""
        return len(known) == len(forms) and all(
            form in (AS_GIVEN, *own) for own, form in zip(known, forms, strict=True)
        )

    def _weights_now(self) -> str:
        """Returns a hash of the weights that copies have, or that a choice was made for."""
        chosen = [bool(pairs) or self._dtype == AUTO for pairs in self._pairs]
        copied = {index for index, _ in self._copies}
        return fingerprint_of(
            variable
            for index, model in enumerate(self.models)
            if index in copied or chosen[index]
            for variable in model.variables
        )

    def follow(self) -> bool:
        """Runs the teacher as it is now: copies and choices are made again for other weights.

        Returns:
            Whether steps have to be traced anew, since statistics or vocabularies have changed.
        """
        before, self._constants = self._constants, fingerprint_of_constants(self.models)
        weights, self._weights = self._weights, self._weights_now()
        only_weights = before == self._constants
        if only_weights and weights in (None, self._weights):
            self.awaits_batch |= self._is_undecided
            return False
        self.awaits_batch = any(self._candidates(self._dtype == AUTO)) or self._may_overflow()
        if self._copies and not (only_weights and self._fold_again()):
            self._copies = {}
            self.run_as(self.forms)
            return True
        return not only_weights

    def _fold_again(self) -> bool:
        """Gives the folded copies the weights of now, and returns whether that could be done."""
        taps = list(self.reader.taps)
        try:
            for (index, form), folded in self._copies.items():
                fresh = fold(self.models[index], dtype=form, taps=taps)
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


def constant(output: ModelOutput) -> ModelOutput:
    """Returns an output that is constant to the gradient."""
    return ModelOutput(*keras.tree.map_structure(ops.stop_gradient, tuple(output)))
