"""The distiller: one training step for any number of students, with or without a teacher."""

import contextlib
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import tensorflow as tf

from modreduce_keras import knobs
from modreduce_keras.arguments import require_bool, require_choice
from modreduce_keras.distillers import checks, fitting, optimizers
from modreduce_keras.distillers.fused_normalization import fused_normalization
from modreduce_keras.distillers.guard import SKIP, STOP
from modreduce_keras.distillers.ignored import warn_of_ignored
from modreduce_keras.distillers.inputs import Inputs
from modreduce_keras.distillers.loss_scales import taken_apart
from modreduce_keras.distillers.pretraining import pretrain, require_pretrained
from modreduce_keras.distillers.reduction import (
    mean_over_replicas,
    number_of_examples,
    weighted_sum,
)
from modreduce_keras.distillers.replicated import average_statistics
from modreduce_keras.distillers.sample_weights import (
    by_sample_weight,
    have_positions,
    require_known_rank,
)
from modreduce_keras.distillers.saved import SavedModel
from modreduce_keras.distillers.supervision import supervision
from modreduce_keras.distillers.teacher import fingerprint_of_constants
from modreduce_keras.distillers.teacher_files import Arrival
from modreduce_keras.distillers.trackers import Trackers, update
from modreduce_keras.distillers.wiring import ENSEMBLE, Forward, connect
from modreduce_keras.distribute import num_replicas, require_in_scope
from modreduce_keras.held import Held
from modreduce_keras.knobs import Knob
from modreduce_keras.knowledge import Knowledge
from modreduce_keras.output_kind import output_kinds


class BaseDistiller(SavedModel):
    """Base class of all distillers: which models run and which terms make up the loss.

    The total loss of a training step is

        Σ_examples sample_weight · Σ_terms weight · term / number of examples on all replicas
        + the students' regularizers and `add_loss`

    Where examples have positions (tokens, pixels), `sample_weight` may have one weight for each of
    them, (batch, ...), and by the name of the output where there are several. As in Keras, the
    value at each position is multiplied by its weight, and the sum divided by the number of all
    positions that no mask leaves out. So are all terms that have values at the same positions: the
    compiled loss, responses, and features compared position by position. Other terms, such as
    relations between samples, are multiplied by the mean weight of the example.

    A subclass says which models it runs (`forward`), which terms there are (`compute_terms`) and
    what they weigh (`term_weights`); the step itself is written once, here.

    Logs name every term: with one student `loss`, `ce` (the compiled loss on the labels), each
    knowledge by its name, and the compiled metrics; with several, each of them behind the
    student's name (`response/ce`, `response/accuracy`). `loss` is the weighted total, each term is
    the unweighted mean. `evaluate` runs the students only: its `loss` is the sum of the students'
    compiled losses and regularizers.

    Args:
        students: Models to train, by name. The distiller's step runs their `call`; methods such as
            a `train_step` of their own never run, which a warning says.
        teacher: A trained model, a list of several with different names, or `None`. It is run
            forward only and never changed; its weights are not among the distiller's and not in
            weight files.
        knowledge: What each student is taught, by the student's name.
        teacher_input: What the teacher sees, if not what the students see (another resolution,
            normalization or modality): a function of the inputs `x`, such as a Keras layer; or
            the key of a dict `x` that is the teacher's alone, and the students get the rest (a
            single other entry by itself). With several teachers also a list with one of those or
            `None` for each. Defaults to `None`.
        teacher_dtype: `"float32"`, `"bfloat16"` or `"float16"` runs a folded copy of the teacher
            (`mr.models.fold`) that computes in that dtype; a teacher that cannot be folded, as it
            is subclassed, runs as given, with a warning. `None`, the default, runs the teacher
            itself.
        supervised_weight: Weight of the compiled loss on the labels: a number that is not
            negative, or a schedule. Defaults to 1.
        student_inputs: What each student sees, by name, if not all the same: a function of the
            inputs or a key of them, as for the teacher. A teacher without an input of its own then
            runs on what each student sees.
        student_taps: Taps of the students to read beside those of the knowledge, by name.
        branches: The branched model that the students are of, if they share a trunk.
        **kwargs: `name` and `dtype`, as for every Keras model.
    """

    supervised_weight = Knob()

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
        branches: Any = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.students = dict(students)
        self.knowledge = {name: list(knowledge.get(name, ())) for name in students}
        self._several = len(students) > 1
        self.step = keras.Variable(
            0, trainable=False, dtype="int64", name="step", aggregation="only_first_replica"
        )
        self.supervised_weight = supervised_weight
        self._supervision = None
        self._fuses_normalization = True
        self._begin_unguarded()
        self._arrival = Arrival()
        self._teacher_input, self._student_inputs = teacher_input, dict(student_inputs or {})
        self.teacher_dtype = teacher_dtype
        checks.require_teacher_dtype(teacher_dtype, teacher)
        parts = [part for one in self.taught() for part in (one, one.loss, one.adapter) if part]
        with knobs.bound([self, *parts], lambda: self.step):
            self._wiring = connect(
                students,
                teacher,
                self.knowledge,
                Inputs(teacher_input, student_inputs),
                teacher_dtype=teacher_dtype,
                taps=student_taps,
                branches=branches,
            )
        self._constants = fingerprint_of_constants(self._models_with_constants())
        warn_of_ignored({f"student {name!r}": student for name, student in students.items()})
        self.built = True

    def taught(self) -> list[Knowledge]:
        """Returns all knowledge, of every student."""
        return [one for several in self.knowledge.values() for one in several]

    @property
    def teacher(self) -> keras.Model | list[keras.Model] | None:
        """The teacher as the user gave it, or `None`."""
        return self._wiring.teacher and self._wiring.teacher.given

    # The step

    def call(self, inputs, training=None):
        """Returns the logits of the student that `predict` uses."""
        name = self._deployed_name()
        seen = self._wiring.seen_by(name, inputs, bool(training))
        return self.students[name](seen, training=training)

    def _deployed_name(self) -> str:
        return next(iter(self.students))

    def forward(
        self, x, training: bool, with_teacher: bool | None = None, labels: Any = None
    ) -> Forward:
        """Runs every student once, and the teacher: in training only, unless it is asked for.

        Labels are for aggregators that need them.
        """
        return self._wiring.run(x, training, training if with_teacher is None else with_teacher)

    def term(self, student: str, name: str) -> str:
        """Returns the name of a student's term in the logs."""
        return f"{student}/{name}" if self._several else name

    def _supervised(self, students) -> list[str]:
        """Returns the names of the terms on labels in the logs."""
        names = self._supervision.names if self._supervision else []
        return [self.term(student, name) for student in students for name in names]

    def supervised_terms(self, labels, logits: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the compiled loss on the labels for each of some logits.

        Of logits with positions, (batch, positions...) each, whose mean is that of the example.
        """
        if self._supervision is None:
            return {}
        if labels is None:
            raise ValueError("A loss is compiled, but the data have no labels y.")
        return {
            self.term(student, name): values
            for student, own in logits.items()
            for name, values in self._supervision.by_position(labels, own).items()
        }

    def compute_terms(self, labels, outputs: Forward) -> dict[str, Any]:
        """Returns every term of a training step, unweighted: (batch,) or (batch, positions...)."""
        logits = {name: output.logits for name, output in outputs.students.items()}
        terms = self.supervised_terms(labels, logits)
        for name, knowledge in self._joint():
            pair, context = outputs.lesson_of(name, knowledge, labels)
            terms[self.term(name, knowledge.name)] = knowledge(*pair, **context, training=True)
        return terms

    def _joint(self) -> list[tuple[str, Knowledge]]:
        """Returns (student, knowledge) for what `fit` trains, not a stage of its own."""
        pairs = ((name, one) for name, several in self.knowledge.items() for one in several)
        return [(name, one) for name, one in pairs if not one.staged]

    def term_weights(self) -> dict[str, Any]:
        """Returns the weight of every term, scalars in the graph."""
        weights = {}
        for name, several in self.knowledge.items():
            weights |= dict.fromkeys(self._supervised([name]), self.supervised_weight)
            weights |= {self.term(name, one.name): one.weight for one in several if not one.staged}
        return weights

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Returns the scalar loss of one step on this replica, and updates the logged means.

        Args:
            x: The inputs.
            y: The labels, or `None` where no loss is compiled.
            y_pred: What `forward` returned.
            sample_weight: (batch,), or (batch, positions...), or a dict of those by output, or
                `None`.
            training: Whether this is a training step (all terms) or an evaluation (the compiled
                loss only).
        """
        require_known_rank("y", y)
        y_pred = y_pred._replace(by_position=have_positions(sample_weight))
        if training:
            y = self.check_labels(y)
            terms, weights = self.compute_terms(y, y_pred), self.term_weights()
        else:
            terms = self.supervised_terms(y, y_pred.logits())
            weights = {name: 1.0 for name in terms if not name.startswith(f"{ENSEMBLE}/")}
        named = y if isinstance(y, Mapping) else ()
        terms = by_sample_weight(terms, sample_weight, *self._weighed_as(y_pred.students), named)
        examples = number_of_examples(x)
        values = {**terms, **self._logged_values(y_pred)}
        self._trackers.update(values, examples, finite_only=self._updates.skips)
        terms = self._updates.scaled_terms({name: terms[name] for name in weights})
        y_pred.terms.update(terms)
        per_example = weighted_sum(terms, weights, examples)
        additional = self._updates.additional_loss(self)
        update(self._loss_tracker, per_example + additional, finite_only=self._updates.skips)
        return mean_over_replicas(per_example) + additional / num_replicas()

    def _weighed_as(self, students) -> tuple[dict[str, str], list[str]]:
        """Returns the output that a term is of, where there are several, and those on labels."""
        supervised = self._supervised([*students, ENSEMBLE])
        outputs = {} if self._supervision is None else dict(self._supervision.outputs)
        of_term = {
            self.term(student, name): output
            for student in students
            for name, output in outputs.items()
        }
        of_term |= self.read_outputs(self._joint(), outputs.values())
        return of_term, supervised

    def read_outputs(
        self, pairs: Iterable[tuple[str, Knowledge]], outputs: Iterable[str]
    ) -> dict[str, str]:
        """Returns the named output that a term reads, of terms that read one of some outputs."""
        outputs = set(outputs)
        return {
            self.term(student, one.name): one.student
            for student, one in pairs
            if isinstance(one.student, str) and one.student in outputs
        }

    def train_step(self, data):
        """Runs one training step on a batch, as `fit` and `train_on_batch` call it."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        with self._updates.keeping() as before, tf.GradientTape() as tape, self.fused_kernels():
            outputs = self.forward(x, training=True, labels=y)
            loss = self.compute_loss(x, y, outputs, sample_weight, training=True)
            loss = self.optimizer.scale_loss(loss)
        variables = self.trainable_variables
        gradients = tape.gradient(loss, variables)
        self._updates.apply(
            self.optimizer, gradients, variables, terms=outputs.terms, before=before, step=self.step
        )
        average_statistics(self)
        self.step.assign_add(1)
        self.after_step()
        return self._step_logs(self.compute_metrics(x, y, outputs, sample_weight))

    def fused_kernels(self) -> contextlib.AbstractContextManager[None]:
        """Returns the context that a training step's pass runs in; see `compile`."""
        if not self._fuses_normalization:
            return contextlib.nullcontext()
        return fused_normalization(self._flatten_layers())

    def after_step(self) -> None:
        """Runs after the variables have moved, at the end of a training step."""

    def test_step(self, data):
        """Evaluates one batch: students only, no teacher, no update."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        outputs = self.forward(x, training=False, labels=y)
        self.compute_loss(x, y, outputs, sample_weight, training=False)
        logs = self.compute_metrics(x, y, outputs, sample_weight)
        return self._step_logs(self._evaluated(logs))

    def fit(self, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """Trains, as `keras.Model.fit` does."""
        self._follow()
        # What an earlier fit that was broken off has left behind.
        self._initial_epoch = None
        if self._updates.guard is not None:
            self._updates.guard.begin()
        return super().fit(*args, **kwargs)

    def _follow(self) -> None:
        """Drops what was traced with statistics or vocabularies that have changed since."""
        before = self._constants
        self._constants = fingerprint_of_constants(self._models_with_constants())
        teacher = self._wiring.teacher
        if (teacher is not None and teacher.follow()) or before != self._constants:
            self.train_function = self.test_function = self.predict_function = None

    def _models_with_constants(self) -> list[keras.layers.Layer]:
        """Returns the students, and the layers that make what models see."""
        views = keras.tree.flatten([self._teacher_input, self._student_inputs])
        layers = [view for view in views if isinstance(view, keras.layers.Layer)]
        return [*self.students.values(), *layers]

    def make_train_function(self, force: bool = False):
        """Makes the compiled training step, as Keras does."""
        require_pretrained(self.taught())
        optimizer = [("The optimizer", self.optimizer.variables)]
        require_in_scope(self.distribute_strategy, [*self._parts_to_train(), *optimizer])
        return super().make_train_function(force=force)

    def _parts_to_train(self) -> list[tuple[str, list[keras.Variable]]]:
        """Returns all variables of a training step by what they are of, for messages."""
        students = [(f"Student {n!r}", s.variables) for n, s in self.students.items()]
        return [*students, ("The distiller", self.variables)]

    def pretrain(self, x: Any = None, y: Any = None, *, optimizer: Any = "adam", **arguments: Any):
        """Runs the stage that some methods train before the rest; then `fit` does the rest.

        Staged knowledge (FSP, AB) trains the student (and its adapters) by that term alone;
        adapters that learn beforehand (the paraphraser of factor transfer) train by their own
        loss. Nothing else learns: not from labels, regularizers or other knowledge. What has been
        pretrained is noted and saved, and `fit` refuses to begin without it.

        Args:
            x: The data, as for `fit`.
            y: The labels, where `x` does not hold them; needed only by losses on labels.
            optimizer: What trains this stage. Defaults to `"adam"`.
            **arguments: `epochs`, `batch_size`, `callbacks`, ..., as for `fit`.

        Returns:
            The history of the stage: the weighted sum `loss`, and each term.

        Raises:
            ValueError: If no knowledge has such a stage.
        """
        self._require_data({"x": x, "y": y, **arguments}, steps="steps_per_epoch")
        self._follow()
        return pretrain(self, self._wiring.run, optimizer, x, y, arguments)

    def export(self, *args: Any, **kwargs: Any) -> None:
        """Raises a `ValueError`: what is deployed is a student, which is plain Keras."""
        student = "student"
        if not hasattr(type(self), student):
            student = f"students[{next(iter(self.students))!r}]"
        raise ValueError(
            "A distiller trains; what is deployed is its student, a plain Keras model: "
            f"distiller.{student}.export(path), or mr.export.to_tflite(distiller.{student}, path). "
            f"Received: export of the distiller {self.name!r}"
        )

    # Compilation

    @property
    def trainable_variables(self) -> list[keras.Variable]:
        """What `fit` trains: all but the adapters of knowledge that has a stage of its own."""
        return self._trained_here(super().trainable_variables)

    @property
    def trainable_weights(self) -> list[keras.Variable]:
        """The same, as Keras calls it elsewhere."""
        return self._trained_here(super().trainable_weights)

    def _trained_here(self, variables):
        views = keras.tree.flatten(self._teacher_input)  # a part of the teacher
        others = [view for view in views if isinstance(view, keras.layers.Layer)]
        others += [one for one in self.taught() if one.staged]
        constant = {id(v) for one in others for v in one.trainable_variables}
        return [variable for variable in variables if id(variable) not in constant]

    def variable_groups(self) -> dict[str, list[keras.Variable]]:
        """Returns the trainable variables by group: a student with its adapters is one.

        What students share is a group of its own, `"trunk"`.
        """
        return optimizers.groups(self.students, self._joint())

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        metrics: Any = None,
        weighted_metrics: Any = None,
        *,
        on_nonfinite: str | None = None,
        fused_normalization: bool = True,
        **kwargs: Any,
    ) -> None:
        """Configures training, as `keras.Model.compile` does.

        Args:
            optimizer: One optimizer for everything that trains, or a dict with one for each
                group: the students by name, and `"aggregator"` where there is one that learns.
            loss: Loss on the labels, the same for every student, or `None` to train on the
                teacher alone. For a student that returns a dict, a dict by the name of the output.
            metrics: List of metrics; each student gets a copy of its own. With several students
                also a dict from student (or `"ensemble"`) to list. Names are right for logits:
                `"accuracy"` of one logit, or of several independent labels, counts those above 0.
                Metrics of Keras that take probabilities (`AUC()`, `Precision()`,
                `BinaryAccuracy()`, `"auc"`, ...) are given them: sigmoids where the loss is
                binary, else a softmax. Those that are set to logits (`AUC(from_logits=True)`,
                `Precision(thresholds=0)`, `BinaryAccuracy(threshold=0)`), and metrics of your own,
                get the logits.
            weighted_metrics: The same, weighted by `sample_weight`.
            on_nonfinite: What happens where a term of the loss, or a gradient, is not finite on
                any replica. `"stop"`: `fit` ends with a `NonFiniteError` that names student, term
                and step, before any callback could save; the weights are those before the step.
                `"skip"`: the step of that student is left out and counted (`nonfinite_steps`,
                `skipped_steps`), the first time with a warning. Schedules count such a step, and
                EMA weights move towards the weights that stayed. `None`, the default: nothing is
                looked at, except where float16 is trained with loss scales.
            fused_normalization: Whether training steps compute batch normalizations by one fused
                kernel instead of Keras' dozen operations, wherever it can stand for them: the
                same up to rounding, and faster. The models themselves are not changed. Defaults
                to `True`.
            **kwargs: `run_eagerly`, `steps_per_execution`, `jit_compile` and `auto_scale_loss`, as
                in Keras. Each student that computes in float16 gets a loss scale of its own; a
                `keras.optimizers.LossScaleOptimizer` only says how it begins and grows.

        Raises:
            ValueError: If the loss expects probabilities and the students give logits, knowledge
                compares the outputs as something else than what the loss says they are (`"kd"`
                the independent labels of a binary cross-entropy: `"binary_kd"` does), or the
                optimizers do not fit the groups.
        """
        if kwargs.pop("loss_weights", None) is not None:
            raise ValueError(
                "Terms are weighted where they are made: supervised_weight=, and weight= of each "
                "knowledge. Received: loss_weights"
            )
        require_in_scope(self.distribute_strategy, self._parts_to_train())
        given = {
            "optimizer": optimizer,
            "loss": loss,
            "metrics": metrics,
            "weighted_metrics": weighted_metrics,
            "on_nonfinite": on_nonfinite,
            "fused_normalization": fused_normalization,
        }
        self._compile_arguments = Held({**given, **kwargs})
        self._supervision = loss and supervision(loss, self._student_output())
        for student in self.students.values() if loss else ():
            self._supervision.require_fitting_head(student)
        self._label_checks = fitting.require_fitting(
            self._parts_on_outputs(), output_kinds(loss, self._student_output()), loss
        )
        if on_nonfinite is not None:
            require_choice("on_nonfinite", on_nonfinite, (STOP, SKIP))
        self._fuses_normalization = require_bool("fused_normalization", fused_normalization)
        self._scales_loss = kwargs.pop("auto_scale_loss", True)
        self._compile_metrics = None  # Keras would keep those of an earlier compile.
        groups = self.variable_groups()
        optimizer, schedules = taken_apart(optimizer, groups)
        super().compile(
            optimizer=optimizers.resolve(optimizer, groups),
            metrics=self._metrics_for_keras(metrics, loss),
            weighted_metrics=self._metrics_for_keras(weighted_metrics, loss),
            auto_scale_loss=False,
            **kwargs,
        )
        self._trackers = Trackers([*self.term_weights(), *self._logged_names()])
        vars(self)["loss"] = loss  # Keras too tracks nothing of a loss
        self.optimizer.build(self.trainable_variables)
        self._guard(schedules if self._scales_loss else None, on_nonfinite)

    def _parts_on_outputs(self) -> list[fitting.Part]:
        """Returns what compares outputs, which has to suit the compiled loss."""
        return fitting.parts_of(self.knowledge)

    def check_labels(self, labels: Any) -> Any:
        """Returns labels, after a check where only they say what the outputs are."""
        checks = self._label_checks if self.compiled else []
        return fitting.checked_labels(checks, labels, self._student_output())

    def _student_output(self) -> Any:
        """Returns the symbolic output of a student; those of several are alike."""
        return next(iter(self._wiring.outputs.values())).logits
