"""The distiller: one training step for any number of students, with or without a teacher."""

import contextlib
import inspect
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import keras

from modreduce_keras import knobs
from modreduce_keras.calls import stacklevel_of_user
from modreduce_keras.distillers import (
    checks,
    compiling,
    optimizers,
    pretraining,
    running,
    saving,
)
from modreduce_keras.distillers.checks import compile_and_fit, kind_checks
from modreduce_keras.distillers.checks.augmentation import warn_of_augmentation
from modreduce_keras.distillers.checks.ignored import warn_of_ignored
from modreduce_keras.distillers.gradients import policies
from modreduce_keras.distillers.gradients.base import GradientPolicy
from modreduce_keras.distillers.gradients.loss_scales import LossScales
from modreduce_keras.distillers.metrics import logs, progress
from modreduce_keras.distillers.step import balance as balances
from modreduce_keras.distillers.step.batch import Batch
from modreduce_keras.distillers.step.forward import Outputs, first_output, telling_missing_keys
from modreduce_keras.distillers.step.fused_normalization import fused_normalization
from modreduce_keras.distillers.step.inputs import Inputs
from modreduce_keras.distillers.step.model import StepModel
from modreduce_keras.distillers.step.objective import Objective
from modreduce_keras.distillers.step.supervision import LabelRule
from modreduce_keras.distillers.step.terms import Term, knowledge_term, supervised_terms
from modreduce_keras.distillers.teachers import files
from modreduce_keras.distillers.tracing import TeacherTracing
from modreduce_keras.distillers.wiring import connect
from modreduce_keras.keras_internals import flatten_layers, is_asked_by_saver, wraps_step
from modreduce_keras.knobs import Knob
from modreduce_keras.knowledge import Knowledge
from modreduce_keras.models.graph import own_inputs


@wraps_step
class BaseDistiller(StepModel):
    """Base class of all distillers: holds the models and the terms of the loss.

    The total loss of a training step is

        Σ_examples sample_weight · Σ_terms weight · term / number of examples on all replicas
        + the students' regularizers and `add_loss`

    Where examples have positions (tokens, pixels), `sample_weight` may have one weight for each
    position, (batch, ...), or be a dict by output. As in Keras, the value at each position is
    multiplied by its weight, and the sum is divided by the number of unmasked positions. This
    applies to all terms with values at the same positions: the compiled loss, responses, and
    features compared position by position. Other terms, such as relations between samples, are
    multiplied by the mean weight of the example.

    A subclass defines the terms and their weights in `build_terms`, and may run more than the
    students and the teacher in `forward_pass`. The training step itself is implemented here.

    The logs contain every term: with one student `loss`, `ce` (the compiled loss on the labels),
    each knowledge by its name, and the compiled metrics. With several students, each name follows
    the student's (`response/ce`, `response/accuracy`). `loss` is the weighted total, each term is
    the unweighted mean. For evaluation and validation, see `compile`.

    Args:
        students: Models to train, by name. The distiller runs their `call`. A custom `train_step`
            or similar method is not run and gives a warning. So do augmentation layers
            (`RandomFlip`; not dropout) if there is a teacher, which would not see the augmented
            inputs: augment in the dataset instead.
        teacher: A trained model, a list of several with different names, or `None`. It only runs
            forward and is never changed. Its weights are not among the distiller's and not in
            weight files.
        knowledge: The knowledge of each student, by the student's name.
        teacher_input: How to get the teacher's input, if it differs from the students'. A function
            or Keras layer that is called with the inputs `x`, such as
            `keras.layers.Resizing(299, 299)`. Or, if `x` is a dict, the key of the teacher's entry.
            The students get the other entries (the tensor itself if only one is left); an entry
            that is also the name of one of the students' inputs goes to both. With several
            teachers, also a list with one of these or `None` for each.
        teacher_dtype: The precision in which the teacher runs; `distiller.teacher_forms` shows what
            was chosen. `None`, the default: its own precision. Its batch normalizations are folded
            into the layers before them if this changes no output of the first batch by more than
            rounding does: 1e-5 of the largest output, or up to 1e-3 in a deep model, in which
            rounding errors grow. Otherwise the model runs unchanged, as do subclassed models.
            `"as_given"`: the model runs unchanged.

            `"float32"`, `"bfloat16"` or `"float16"`: a folded copy (`mr.models.fold`) in this
            precision. It is made again when `fit` begins and the teacher's weights have changed. A
            teacher that cannot be folded runs unchanged, with a warning. `"auto"`: the fastest on
            this device of `None`, `"bfloat16"` and `"float16"`, among those whose outputs of the
            first batch differ by at most 5 % of the largest one. On several machines, the same as
            `None`.
        supervised_weight: Weight of the compiled loss on the labels: a number that is not
            negative, or a schedule. Defaults to 1.
        student_inputs: The input of each student, by name, if they differ: a function of the
            inputs or a key of them, as for the teacher. A teacher without `teacher_input` then
            runs on the input of each student.
        student_taps: Taps of the students to read in addition to those of the knowledge, by name.
        teacher_taps: Taps of the teacher to read in addition to those of the knowledge.
        branches: The branched model of the students, if they share a trunk.
        name: Name of the model. Defaults to the name of the class.
        dtype: Its dtype policy. Defaults to the global one.
        trainable: As for every Keras model. Defaults to `True`.
    """

    supervised_weight = Knob()
    tracing: TeacherTracing
    _model_views: ClassVar[tuple[str, ...]] = ("teacher", "student", "best_student")
    """Properties that return a model which is stored elsewhere."""

    def __init__(
        self,
        students: Mapping[str, keras.Model],
        *,
        teacher: keras.Model | list[keras.Model] | None,
        knowledge: Mapping[str, list[Knowledge]],
        teacher_input: Any = None,
        teacher_dtype: str | None = None,
        supervised_weight: Any = 1.0,
        student_inputs: Mapping[str, Any] | None = None,
        student_taps: Mapping[str, list[str]] | None = None,
        teacher_taps: Sequence[str] = (),
        branches: Any = None,
        name: str | None = None,
        dtype: Any = None,
        trainable: bool = True,
    ):
        super().__init__(name=name, dtype=dtype, trainable=trainable)
        checks.require_teacher_dtype(teacher_dtype, teacher)
        self.students = dict(students)
        self.knowledge = {name: list(knowledge.get(name, ())) for name in students}
        self.has_several = len(students) > 1
        self.supervised_weight = supervised_weight
        self.teacher_dtype = teacher_dtype
        self._teacher_input, self._student_inputs = teacher_input, dict(student_inputs or {})
        self._loss_scales: LossScales | None = None
        self._arrival = files.Arrival()
        parts = [
            part for one in self.all_knowledge() for part in (one, one.loss, one.adapter) if part
        ]
        with knobs.bound([self, *parts], lambda: self.step):
            self._forward = connect(
                students,
                teacher,
                self.knowledge,
                Inputs(teacher_input, student_inputs),
                teacher_dtype=teacher_dtype,
                taps=student_taps,
                teacher_taps=teacher_taps,
                branches=branches,
            )
        # The teacher is not a layer of this model, so Keras does not ask it.
        layers = [layer for model in self._forward.teachers for layer in flatten_layers(model)]
        self.supports_jit = all(layer.supports_jit for layer in layers)
        self.compilation = compiling.Compilation()
        self.tracing = TeacherTracing(self, self._forward, [teacher_input, self._student_inputs])
        self.runs = running.Runs(self, self._forward)
        warn_of_ignored({f"student {name!r}": student for name, student in students.items()})
        takes_inputs = "student_inputs" in inspect.signature(type(self)).parameters
        warn_of_augmentation(self.students, self.knowledge, takes_inputs)
        self.built = True

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        checks.require_build_terms(cls)
        if "compile" in vars(cls):
            cls.compile = compiling.all_or_nothing(cls.compile)

    # Parts

    @property
    def teacher(self) -> keras.Model | list[keras.Model] | None:
        """The teacher as the user gave it, or `None`."""
        return self._forward.teacher and self._forward.teacher.given

    @property
    def teacher_forms(self) -> dict[str, str]:
        """How each teacher runs, by the model's name; `Resume` restores it.

        `"as_given"`: the model itself, as always before the first batch unless a dtype was given.
        `"folded"`: the same with its batch normalizations folded. A dtype: a folded copy that
        computes in it.
        """
        return self.tracing.forms()

    @teacher_forms.setter
    def teacher_forms(self, forms: Mapping[str, str]) -> None:
        self.tracing.restore(forms)

    def all_knowledge(self) -> list[Knowledge]:
        """Returns the knowledge of all students, in one list."""
        return [one for several in self.knowledge.values() for one in several]

    def taught(self) -> list[Knowledge]:
        """Deprecated: use `all_knowledge`."""
        warnings.warn(
            "distiller.taught() is deprecated: use distiller.all_knowledge()",
            DeprecationWarning,
            stacklevel=stacklevel_of_user(),
        )
        return self.all_knowledge()

    def student_output(self) -> Any:
        """Returns the symbolic output of a student; all students have the same."""
        return first_output(self._forward.outputs)

    def networks(self) -> dict[str, list[keras.layers.Layer]]:
        """Returns the layers of each network. A network is updated or skipped as a whole."""
        networks = {name: [one, *self.knowledge[name]] for name, one in self.students.items()}
        if self._forward.trunk is None:
            return networks
        return {optimizers.TRUNK: [part for parts in networks.values() for part in parts]}

    def log_name(self, student: str, name: str) -> str:
        """Returns the name of a student's value in the logs."""
        return f"{student}/{name}" if self.has_several else name

    def _owner(self, student: str) -> str | None:
        return student if self.has_several else None

    # What a subclass may override

    def build_terms(self) -> list[Term]:
        """Returns the terms of the loss, in their order in the logs."""
        return self.offline_terms()

    def offline_terms(self) -> list[Term]:
        """Returns the terms on the labels and on the teacher's outputs."""
        output = self.student_output()
        outputs = list(output) if isinstance(output, Mapping) else []
        terms = []
        for name, several in self.knowledge.items():
            terms += self.supervised_terms(name, lambda: self.supervised_weight)
            terms += [
                knowledge_term(name, one, owner=self._owner(name), outputs=outputs)
                for one in several
                if not one.staged
            ]
        return terms

    def supervised_terms(self, student: str, weight: Any, network: str | None = None) -> list[Term]:
        """Returns the terms of the compiled loss on labels, of a student or of the ensemble.

        Args:
            student: Name of the student, or `"ensemble"`.
            weight: Returns the weight, a scalar in the graph; `None` for what is only logged.
            network: What they train. Defaults to the student's network.
        """
        owner = self._owner(student)
        made = self.compilation.supervision
        return supervised_terms(made, student, weight, owner=owner, network=network)

    def forward_pass(self, batch: Batch, training: bool, with_teacher: bool) -> Outputs:
        with telling_missing_keys(self.all_knowledge() if with_teacher else (), batch.inputs):
            return self._forward(batch, training, with_teacher)

    def build_gradient_policy(
        self, schedules: Mapping[str, Any] | None, on_nonfinite: str | None
    ) -> GradientPolicy:
        """Returns how gradients are applied. Called when the optimizer is built.

        Args:
            schedules: How loss scales begin and grow, where not as by default; `None` for none.
            on_nonfinite: See `compile`.
        """
        return policies.gradient_policy(self, schedules, on_nonfinite)

    def loss_scale_layer(self, networks: Sequence[str]) -> LossScales:
        """Returns the layer with the loss scales. It is created once: Keras keeps every layer."""
        self._loss_scales = self._loss_scales or LossScales(networks)
        return self._loss_scales

    def logged_names(self) -> list[str]:
        """Returns the names of further values for the logs."""
        return []

    def names_in_logs(self) -> list[str]:
        """Returns names in the logs that the compiled loss uses and no knowledge can have."""
        made = self.compilation.supervision
        return [] if made is None else list(made.names)

    def measured(self) -> list[str]:
        return list(self.students)

    def parts_on_outputs(self) -> list[kind_checks.Part]:
        """Returns the parts that compare outputs and must suit the compiled loss."""
        return kind_checks.parts_of(self.knowledge)

    def shown_measures(self) -> list[str]:
        """Returns measures of a student; the progress bar shows the first one that is logged.

        These are the accuracy, the other compiled metrics, and the compiled loss.
        """
        return progress.measures(self, self.compilation.supervision)

    def label_rules(self) -> list[LabelRule]:
        """Returns the parts that need class indices as labels."""
        made = self.compilation.supervision
        return logs.label_rules(made, self.all_knowledge(), None, self.student_output())

    def deployed_name(self) -> str:
        """Returns the name of the student that `predict` and calls use."""
        return next(iter(self.students))

    # The step

    def call(self, inputs: Any, training: Any = None) -> Any:
        """Returns the logits of the student that `predict` uses."""
        name = self.deployed_name()
        seen = self._forward.seen_by(name, inputs, bool(training))
        student = self.students[name]
        return student(own_inputs(student, seen), training=training)

    def objective(self) -> Objective:
        if self.compilation.objective is None:
            self.compilation.objective = compiling.objective(self, self.build_terms())
        return self.compilation.objective

    def penalized(self) -> keras.Model:
        return self

    def kernels(self) -> contextlib.AbstractContextManager[None]:
        """Returns the context for the forward pass of a training step; see `compile`."""
        if not self.compilation.fuses_normalization:
            return contextlib.nullcontext()
        return fused_normalization(self.layers_that_run())

    def check_labels(self, labels: Any) -> Any:
        """Returns labels, after a check where only they tell the kind of the outputs."""
        rules, output = self.compilation.label_checks, self.student_output()
        return self._forward.views.each_part(
            lambda own: kind_checks.checked_labels(rules, own, output), labels
        )

    def part_of(self, student: str, values: Any) -> Any:
        return self._forward.views.part(student, values)

    # Logs

    def get_metrics_result(self) -> Any:
        """Returns all logs by name, in evaluation without those that only training computes."""
        results = super().get_metrics_result()
        return self.evaluated(results) if self.runs.is_evaluating else results

    # Compilation

    def make_train_function(self, force: bool = False) -> Any:
        """Makes the compiled training step, and with a guard the report after each call."""
        pretraining.require_pretrained(self.all_knowledge())
        compile_and_fit.require_parts_in_scope(self, ("The optimizer", self.optimizer.variables))
        made = self.train_function
        with self.runs.checking_labels():
            super().make_train_function(force=force)
        if self.train_function is not made:
            self.train_function = self.runs.watched(self.train_function)
        return self.train_function

    def around_step(self, step: Any) -> Any:
        """Checks batches before a step that XLA compiles, because XLA drops checks in the graph."""
        return self.runs.checked(step)

    @property
    def trainable_variables(self) -> list[keras.Variable]:
        """What `fit` trains: everything except the adapters of staged knowledge."""
        return self._trained_here(super().trainable_variables)

    @property
    def trainable_weights(self) -> list[keras.Variable]:
        """The same, as Keras calls it elsewhere."""
        return self._trained_here(super().trainable_weights)

    def _trained_here(self, variables: list[keras.Variable]) -> list[keras.Variable]:
        staged = [one for one in self.all_knowledge() if one.staged]
        return optimizers.without(variables, [*staged, self._teacher_input])

    # Methods that are written where the rest of their job is

    compile = compiling.compile
    variable_groups = optimizers.variable_groups
    fit, evaluate, predict = running.fit, running.evaluate, running.predict
    train_on_batch, test_on_batch = running.train_on_batch, running.test_on_batch
    pretrain = pretraining.pretrain
    balance = balances.balance
    save, export = saving.save, saving.export
    save_assets, load_assets = saving.save_assets, saving.load_assets
    get_config, from_config = saving.get_config, classmethod(saving.from_config)
    await_teacher, get_compile_config = saving.await_teacher, saving.get_compile_config
    compile_from_config = saving.compile_from_config

    def __dir__(self) -> list[str]:
        # Keras saves the weights of every model that dir() shows, where it shows it first. The
        # teacher's are not ours, and the students' belong under `layers`.
        hidden = self._model_views if is_asked_by_saver() else ()
        return [name for name in super().__dir__() if name not in hidden]
