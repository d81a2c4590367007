"""The distiller: one training step for any number of students, with or without a teacher."""

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import keras
import tensorflow as tf
from keras import ops

from modreduce_keras import knobs
from modreduce_keras.distillers import checks, optimizers, student_metrics
from modreduce_keras.distillers.supervision import Supervision
from modreduce_keras.distillers.trackers import Trackers
from modreduce_keras.distillers.wiring import connect
from modreduce_keras.distribute import num_replicas, sum_over_replicas
from modreduce_keras.knobs import Knob
from modreduce_keras.knowledge import Knowledge
from modreduce_keras.taps import ModelOutput

_ENSEMBLE = "ensemble"


class Forward(NamedTuple):
    """What one forward pass of every network gave.

    Attributes:
        students: The students' outputs, by name.
        lesson: The teacher's output; `None` without a teacher and in evaluation.
        group: What the aggregator returned; empty without one.
    """

    students: dict[str, ModelOutput]
    lesson: ModelOutput | None
    group: dict[str, Any]

    def logits(self) -> dict[str, Any]:
        """Returns the logits of every student, and of the ensemble where there is one."""
        logits = {name: output.logits for name, output in self.students.items()}
        if _ENSEMBLE in self.group:
            logits[_ENSEMBLE] = self.group[_ENSEMBLE]
        return logits


class BaseDistiller(keras.Model):
    """Base class of all distillers: which models run and which terms make up the loss.

    The total loss of a training step is

        Σ_examples sample_weight · Σ_terms weight · term / number of examples on all replicas
        + the students' regularizers and `add_loss`

    A subclass says which models it runs (`forward`), which terms there are (`compute_terms`) and
    what they weigh (`term_weights`); the step itself is written once, here.

    Logs name every term: with one student `loss`, `ce` (the compiled loss on the labels), each
    knowledge by its name, and the compiled metrics; with several, each of them behind the
    student's name (`response/ce`, `response/accuracy`). `loss` is the weighted total, each term is
    the unweighted mean. `evaluate` runs the students only: its `loss` is the sum of the students'
    compiled losses and regularizers.

    Args:
        students: Models to train, by name.
        teacher: A trained model, or `None`. It is run forward only and never changed; its weights
            are not among the distiller's and not in weight files.
        knowledge: What each student is taught, by the student's name.
        supervised_weight: Weight of the compiled loss on the labels: a number that is not
            negative, or a schedule. Defaults to 1.
        **kwargs: `name` and `dtype`, as for every Keras model.
    """

    supervised_weight = Knob()
    _model_views: ClassVar[tuple[str, ...]] = ("teacher", "student", "best_student")
    """Properties that return a model which is held elsewhere."""

    def __init__(
        self,
        students: Mapping[str, keras.Model],
        *,
        teacher: keras.Model | None,
        knowledge: Mapping[str, list[Knowledge]],
        supervised_weight: Any = 1.0,
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
        self._supervision: Supervision | None = None
        self._check_numerics = False
        self._evaluating = False
        taught = [one for several in self.knowledge.values() for one in several]
        with knobs.bound([self, *taught, *(one.loss for one in taught)], lambda: self.step):
            self._wiring = connect(students, teacher, self.knowledge)
        self.built = True

    @property
    def teacher(self) -> keras.Model | None:
        """The teacher as the user gave it, or `None`."""
        return self._wiring.teacher and self._wiring.teacher.model

    def __dir__(self):
        # Keras saves the weights of every model that dir() shows, where it shows it first. The
        # teacher's are not ours, and the students' belong under `students`.
        return [name for name in super().__dir__() if name not in self._model_views]

    # The step

    def call(self, inputs, training=None):
        """Returns the logits of the student that `predict` uses."""
        checks.require_float_inputs(inputs, self._wiring.inputs)
        return self._deployed()(inputs, training=training)

    def _deployed(self) -> keras.Model:
        return next(iter(self.students.values()))

    def forward(self, inputs, training: bool) -> Forward:
        """Runs every student once, and in training the teacher."""
        checks.require_float_inputs(inputs, self._wiring.inputs)
        teacher, readers = self._wiring.teacher, self._wiring.readers
        lesson = teacher(inputs) if training and teacher is not None else None
        outputs = {name: reader(inputs, training) for name, reader in readers.items()}
        return Forward(outputs, lesson, {})

    def term(self, student: str, name: str) -> str:
        """Returns the name of a student's term in the logs."""
        return f"{student}/{name}" if self._several else name

    def supervised_terms(self, labels, logits: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the compiled loss on the labels, (batch,), for each of some logits."""
        if self._supervision is None:
            return {}
        if labels is None:
            raise ValueError("A loss is compiled, but the data have no labels y.")
        name = self._supervision.name
        return {self.term(s, name): self._supervision(labels, z) for s, z in logits.items()}

    def compute_terms(self, labels, outputs: Forward) -> dict[str, Any]:
        """Returns every term of a training step, (batch,) each, unweighted."""
        logits = {name: output.logits for name, output in outputs.students.items()}
        terms = self.supervised_terms(labels, logits)
        for name, several in self.knowledge.items():
            for knowledge in several:
                terms[self.term(name, knowledge.name)] = knowledge(
                    knowledge.read("student", outputs.students[name]),
                    knowledge.read("teacher", outputs.lesson),
                    labels=labels,
                    training=True,
                )
        return terms

    def term_weights(self) -> dict[str, Any]:
        """Returns the weight of every term, scalars in the graph."""
        weights = {}
        for name, several in self.knowledge.items():
            if self._supervision is not None:
                weights[self.term(name, self._supervision.name)] = self.supervised_weight
            weights.update({self.term(name, k.name): k.weight for k in several})
        return weights

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Returns the scalar loss of one step on this replica, and updates the logged means.

        Args:
            x: The inputs.
            y: The labels, or `None` where no loss is compiled.
            y_pred: What `forward` returned.
            sample_weight: (batch,) or `None`.
            training: Whether this is a training step (all terms) or an evaluation (the compiled
                loss only).
        """
        if training:
            terms, weights = self.compute_terms(y, y_pred), self.term_weights()
        else:
            terms = self.supervised_terms(y, y_pred.logits())
            weights = {name: 1.0 for name in terms if not name.startswith(f"{_ENSEMBLE}/")}
        if self._check_numerics:
            terms = {
                name: tf.debugging.check_numerics(values, f"Term {name!r} of the loss")
                for name, values in terms.items()
            }
        examples = ops.shape(keras.tree.flatten(x)[0])[0]
        sample_weight = self._per_example(sample_weight)
        terms = {name: values * sample_weight for name, values in terms.items()}
        per_example = sum(weights[name] * terms[name] for name in weights) + ops.zeros((examples,))
        additional = sum((ops.sum(ops.cast(v, "float32")) for v in self.losses), 0.0)
        self._trackers.update({**terms, **self._logged_values(y_pred)})
        self._loss_tracker.update_state(per_example + additional)
        count = ops.cast(sum_over_replicas(examples), "float32")
        return ops.sum(per_example) / ops.maximum(count, 1.0) + additional / num_replicas()

    @staticmethod
    def _per_example(sample_weight):
        if sample_weight is None:
            return 1.0
        shape = tuple(sample_weight.shape)
        if len(shape) == 2 and shape[1] == 1:
            sample_weight = ops.squeeze(sample_weight, axis=1)
        elif len(shape) != 1:
            raise ValueError(
                f"sample_weight must have one value per example, (batch,). Received: shape {shape}"
            )
        return ops.cast(sample_weight, "float32")

    def _logged_values(self, outputs: Forward) -> dict[str, Any]:
        """Returns further values for the logs, by name."""
        return {}

    def train_step(self, data):
        """Runs one training step on a batch, as `fit` and `train_on_batch` call it."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            outputs = self.forward(x, training=True)
            loss = self.compute_loss(x, y, outputs, sample_weight, training=True)
            loss = self.optimizer.scale_loss(loss)
        variables = self.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        self.step.assign_add(1)
        return self.compute_metrics(x, y, outputs, sample_weight)

    def test_step(self, data):
        """Evaluates one batch: students only, no teacher, no update."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        outputs = self.forward(x, training=False)
        self.compute_loss(x, y, outputs, sample_weight, training=False)
        return self._evaluated(self.compute_metrics(x, y, outputs, sample_weight))

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluates the students, as `keras.Model.evaluate` does, without running the teacher."""
        self._evaluating = True
        try:
            return super().evaluate(*args, **kwargs)
        finally:
            self._evaluating = False

    # Metrics

    @property
    def metrics(self):
        """The metrics that `fit` resets: the loss, every term, the compiled metrics."""
        return super().metrics + (self._trackers.metrics if self.compiled else [])

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Updates the compiled metrics for every student and returns all logs."""
        if self._compile_metrics is not None:
            if isinstance(y_pred, Forward):
                logits = y_pred.logits()
            else:
                # Keras sizes up the metrics with the output of `call`, which stands for every one.
                logits = dict.fromkeys(self._metric_names(), y_pred)
            outputs = student_metrics.as_outputs(logits)
            self._compile_metrics.update_state(dict.fromkeys(outputs, y), outputs, sample_weight)
        return self.get_metrics_result()

    def get_metrics_result(self):
        """Returns all logs by name, `STUDENT/METRIC` where there are several students."""
        results = student_metrics.log_names(super().get_metrics_result())
        return self._evaluated(results) if self._evaluating else results

    def _evaluated(self, results: dict[str, Any]) -> dict[str, Any]:
        """Returns the results without the terms that only training computes."""
        kept = set()
        if self._supervision is not None:
            kept = {self.term(name, self._supervision.name) for name in self._metric_names()}
        trained_only = self._trackers.names - kept
        return {name: value for name, value in results.items() if name not in trained_only}

    def _metric_names(self) -> list[str]:
        """Returns whose logits the compiled metrics are computed on."""
        return list(self.students)

    # Compilation and serialization

    def variable_groups(self) -> dict[str, list[keras.Variable]]:
        """Returns the trainable variables by group: a student with its adapters is one."""
        return {
            name: student.trainable_variables
            + [v for knowledge in self.knowledge[name] for v in knowledge.trainable_variables]
            for name, student in self.students.items()
        }

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        metrics: Any = None,
        weighted_metrics: Any = None,
        *,
        check_numerics: bool = False,
        **kwargs: Any,
    ) -> None:
        """Configures training, as `keras.Model.compile` does.

        Args:
            optimizer: One optimizer for everything that trains, or a dict with one for each
                group: the students by name, and `"aggregator"` where there is one that learns.
            loss: Loss on the labels, the same for every student, or `None` to train on the
                teacher alone.
            metrics: List of metrics; each student gets a copy of its own. With several students
                also a dict from student (or `"ensemble"`) to list.
            weighted_metrics: The same, weighted by `sample_weight`.
            check_numerics: Whether a step with a value that is not finite fails with the name of
                the term. Defaults to `False`: the check reads every term.
            **kwargs: `run_eagerly`, `steps_per_execution`, `jit_compile` and `auto_scale_loss`, as
                in Keras.

        Raises:
            ValueError: If the loss expects probabilities and the students give logits, or the
                optimizers do not fit the groups.
        """
        if kwargs.pop("loss_weights", None) is not None:
            raise ValueError(
                "Terms are weighted where they are made: supervised_weight=, and weight= of each "
                "knowledge. Received: loss_weights"
            )
        self._compile_arguments = {
            "optimizer": optimizer,
            "loss": loss,
            "metrics": metrics,
            "weighted_metrics": weighted_metrics,
            "check_numerics": check_numerics,
            **kwargs,
        }
        self._supervision = None if loss is None else Supervision(loss)
        if self._supervision is not None:
            for student in self.students.values():
                self._supervision.require_fitting_head(
                    checks.ends_in_probabilities(student), student
                )
        self._check_numerics = check_numerics
        self._compile_metrics = None  # Keras would keep those of an earlier compile.
        super().compile(
            optimizer=optimizers.resolve(optimizer, self.variable_groups()),
            metrics=self._metrics_for_keras(metrics),
            weighted_metrics=self._metrics_for_keras(weighted_metrics),
            **kwargs,
        )
        self._trackers = Trackers([*self.term_weights(), *self._logged_names()])
        self.loss = loss
        self.optimizer.build(self.trainable_variables)

    def _logged_names(self) -> list[str]:
        return []

    def _metrics_for_keras(self, given: Any) -> Any:
        if not self._several:
            return given
        return student_metrics.for_each_student(given, self._metric_names())

    def get_compile_config(self):
        """Returns the arguments of `compile`, serialized."""
        return keras.saving.serialize_keras_object(self._compile_arguments) if self.compiled else {}

    def compile_from_config(self, config):
        """Compiles from what `get_compile_config` returned."""
        self.compile(**keras.saving.deserialize_keras_object(config))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments that all distillers share, serialized."""
        serialize = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            "teacher": self.teacher and serialize(self.teacher),
            **knobs.config(self),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Returns the distiller that `get_config` describes, with fresh weights."""
        return cls(**keras.saving.deserialize_keras_object(config, custom_objects=custom_objects))

    def save_assets(self, inner_path):
        """Saves the teacher's weights in `.keras` files (weight files leave them out)."""
        if self.teacher is not None:
            self.teacher.save_weights(tf.io.gfile.join(inner_path, "teacher.weights.h5"))

    def load_assets(self, inner_path):
        """Loads what `save_assets` saved."""
        if self.teacher is not None:
            self.teacher.load_weights(tf.io.gfile.join(inner_path, "teacher.weights.h5"))
