"""StepModel: a model whose steps are a forward pass, an objective and a gradient policy."""

import contextlib
from typing import Any

import keras

from modreduce_keras.distillers.backend import tensorflow as backend
from modreduce_keras.distillers.checks.statistics import average_statistics
from modreduce_keras.distillers.gradients.base import GradientPolicy, Gradients
from modreduce_keras.distillers.metrics import logs, student_metrics
from modreduce_keras.distillers.step.batch import Batch
from modreduce_keras.distillers.step.first_batch import FirstBatch
from modreduce_keras.distillers.step.forward import Outputs
from modreduce_keras.distillers.step.objective import Objective, Result
from modreduce_keras.distillers.step.trackers import result_of
from modreduce_keras.distillers.tracing import Tracing
from modreduce_keras.distribute import batch_of_this_replica, reducible_logs
from modreduce_keras.keras_internals import (
    builds_on_local_batch,
    compiled_metrics,
    flatten_layers,
    loss_tracker,
)


@builds_on_local_batch
class StepModel(keras.Model):
    """Base class of what `fit` trains: a distiller, and a stage before it.

    A subclass says what runs (`forward_pass`) and what is minimized (`objective`), and may say the
    rest. The step itself is written once, here.
    """

    train_function: Any

    def __init__(self, *, name: str | None = None, dtype: Any = None, trainable: bool = True):
        super().__init__(name=name, dtype=dtype, trainable=trainable)
        self.step = keras.Variable(
            0, trainable=False, dtype="int64", name="step", aggregation="only_first_replica"
        )
        self.policy, self.tracing = GradientPolicy({}), Tracing()

    def forward_pass(self, batch: Batch, training: bool, with_teacher: bool) -> Outputs:
        """Runs every network once, and the teacher where it is wanted."""
        raise NotImplementedError

    def objective(self) -> Objective:
        """Returns the loss."""
        raise NotImplementedError

    def check_labels(self, labels: Any) -> Any:
        """Returns the labels to train on, or raises if they do not fit the outputs."""
        return labels

    def split(self, data: Any) -> Any:
        """Returns the data of a training step by student, where each has a part of its own."""
        return data

    def kernels(self) -> contextlib.AbstractContextManager[None]:
        """Returns the context that a training step's pass runs in."""
        return contextlib.nullcontext()

    def logged_values(self, outputs: Outputs) -> dict[str, Any]:
        """Returns values for the logs beside the terms of the objective, by name.

        Called in evaluation as well, where the teacher may not run. To log values of training
        alone, make a `Term` without a weight.
        """
        return {}

    def layers_that_run(self) -> list[keras.layers.Layer]:
        """Returns the layers of a training step."""
        return flatten_layers(self)

    def penalized(self) -> keras.Model | None:
        """Returns the model whose regularizers and added losses count, or `None`."""
        return None

    def watched(self) -> list[keras.Variable]:
        """Returns variables that are trained here, though they do not count as trainable."""
        return []

    def applicable(self, gradients: list[Any]) -> list[tuple[Any, keras.Variable]]:
        """Returns the gradients to apply, with their variables."""
        return list(zip(gradients, self.updated_variables(), strict=True))

    def transform_gradients(self, gradients: Gradients) -> Gradients:
        """Returns the gradients to apply, each with its variable; to be overridden.

        Called with the true gradients of the loss on this replica: without loss scales, and zero
        for networks whose step is skipped. `self.policy.by_network(gradients)` groups them by
        student. To clip by student, an optimizer for each with `global_clipnorm=` will do.

        Args:
            gradients: (gradient, variable) of each trained variable; the gradient is `None` where
                the loss does not depend on the variable, and sparse for embeddings.
        """
        return gradients

    def updated_variables(self) -> list[keras.Variable]:
        """Returns the variables that this step updates: all that `fit` trains."""
        return self.trainable_variables

    def updater(self) -> Any:
        """Returns what updates them: the optimizer, or something else with `apply_gradients`."""
        return self.optimizer

    def after_step(self) -> None:
        """Runs at the end of a training step, after the update."""

    def train_step(self, data: Any) -> dict[str, Any]:
        """Runs one training step on a batch, as `fit` and `train_on_batch` call it."""
        batch = Batch.from_data(self.split(data), self.check_labels)
        with self.policy.keeping() as before, backend.gradient_tape() as tape, self.kernels():
            tape.watch([variable.value for variable in self.watched()])
            outputs = self.forward_pass(batch, training=True, with_teacher=True)
            result = self.computed(outputs, training=True)
            loss = self.optimizer.scale_loss(result.loss)
        gradients = self.applicable(tape.gradient(loss, self.updated_variables()))
        self.policy.apply(self.updater(), gradients, result.terms, before)
        average_statistics(self.layers_that_run())
        self.step.assign_add(1)
        self.after_step()
        return self.step_logs(outputs)

    def test_step(self, data: Any) -> Any:
        """Evaluates one batch: no update, and no teacher unless its terms are evaluated."""
        whole = self.objective().evaluates_all
        outputs = self.forward_pass(Batch.from_data(data), training=False, with_teacher=whole)
        self.computed(outputs, training=False)
        return self.evaluated(self.step_logs(outputs))

    def computed(self, outputs: Outputs, training: bool) -> Result:
        """Returns the loss of a forward pass, and updates the logged means."""
        return self.objective()(
            outputs,
            self.policy,
            training=training,
            loss_tracker=loss_tracker(self),
            model=self.penalized(),
            logs=self.logged_values(outputs),
        )

    def step_logs(self, outputs: Outputs) -> dict[str, Any]:
        """Returns the logs of a step as Keras reduces them over replicas."""
        batch = outputs.batch
        results = self.compute_metrics(batch.x, batch.y, outputs, batch.sample_weight)
        return reducible_logs(self.distribute_strategy, results)

    def evaluated(self, results: dict[str, Any]) -> dict[str, Any]:
        """Returns logs without those that only training computes."""
        trained_only = self.objective().trained_only
        return {name: value for name, value in results.items() if name not in trained_only}

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Updates the compiled metrics for every student and returns all logs."""
        compiled = compiled_metrics(self)
        if compiled is not None:
            # Keras sizes up the metrics with the output of `call`, which stands for every one.
            whole = isinstance(y_pred, Outputs)
            logits = y_pred.logits() if whole else dict.fromkeys(self.measured(), y_pred)
            labels = {name: self.part_of(name, y) for name in logits}
            weights = {name: self.part_of(name, sample_weight) for name in logits}
            logs.update_metrics(compiled, labels, logits, weights)
        return self.get_metrics_result()

    def part_of(self, student: str, values: Any) -> Any:
        """Returns what is a student's of labels or weights; to be overridden."""
        return values

    def measured(self) -> list[str]:
        """Returns the names of the students that the compiled metrics are computed for."""
        return []

    def get_metrics_result(self) -> Any:
        """Returns all logs by name, `STUDENT/METRIC` where there are several students."""
        results = super().get_metrics_result()
        return student_metrics.log_names(results | self.means() if self.policy.skips else results)

    def means(self) -> dict[str, Any]:
        """Returns the means of the loss and of its terms by name, NaN without a finite value."""
        return {
            mean.name: result_of(mean, finite_only=self.policy.skips)
            for mean in (loss_tracker(self), *self.objective().metrics)
        }

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """The metrics that `fit` resets: the loss, every term, the compiled metrics."""
        return super().metrics + (self.objective().metrics if self.compiled else [])

    @property
    def training_record(self) -> list[keras.Variable]:
        """Records of the training that are no part of the model; `Resume` restores them too."""
        guard = self.policy.guard
        return [guard.record] if guard else []

    @property
    def loss_scales(self) -> dict[str, float]:
        """The current loss scale of each student that computes in float16, by name.

        Students that share a trunk have one, `"trunk"`.
        """
        return self.policy.present_scales()

    @property
    def skipped_steps(self) -> dict[str, int]:
        """How many steps of each student, and of the aggregator, were skipped since `compile`.

        Empty without float16 and without `on_nonfinite`: no step is then skipped.
        """
        return self.policy.skipped_steps()

    @property
    def nonfinite_steps(self) -> dict[str, int]:
        """In how many steps a term of the loss was not finite, by the term's name.

        A gradient that is not finite although every term is finite counts as
        `"STUDENT/gradient"`. Steps are counted with `compile(on_nonfinite="skip")`.
        """
        guard = self.policy.guard
        return guard.counts() if guard else {}

    # Parts of a step, to look at

    def forward(
        self, x: Any, training: bool, with_teacher: bool | None = None, labels: Any = None
    ) -> Outputs:
        """Runs every network once on the inputs of a batch.

        Args:
            x: The inputs.
            training: Whether it is a training step.
            with_teacher: Whether the teacher runs. Defaults to `None`: in training only.
            labels: For aggregators that need them.
        """
        wanted = training if with_teacher is None else with_teacher
        return self.forward_pass(Batch(x, labels), training, wanted)

    def compute_terms(self, labels: Any, outputs: Outputs) -> dict[str, Any]:
        """Returns every term of a training step, unweighted: (batch,) or (batch, positions...)."""
        values = self.objective().values(outputs.with_labels(labels))
        return {term.log_name: value for term, value in values.items()}

    def term_weights(self) -> dict[str, Any]:
        """Returns the weight of every term, scalars in the graph.

        A weight that is `"balanced"` is 0 until a training step has set it.
        """
        return self.objective().weights()

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: Any = True,
    ) -> Any:
        """Returns the loss of one step on this replica, and updates the logged means.

        Args:
            x: The inputs.
            y: The labels, or `None` where no loss is compiled.
            y_pred: The result of `forward`.
            sample_weight: (batch,), or (batch, positions...), or a dict of those by output, or
                `None`.
            training: Whether this is a training step (all terms) or an evaluation (the compiled
                loss only, unless knowledge is evaluated).
        """
        return self.computed(y_pred.replace(batch=Batch(x, y, sample_weight)), training).loss

    # The first batch

    def make_train_function(self, force: bool = False) -> Any:
        """Makes the compiled training step."""
        made = self.train_function
        super().make_train_function(force=force)
        if self.train_function is not made:
            self.train_function = FirstBatch(self, self.train_function)
        return self.train_function

    def batch_to_build_on(self, iterator: Any) -> Any:
        """Returns a batch of this replica, where there are several and Keras would take a mean."""
        awaited = self.tracing.awaits_batch()
        batch = batch_of_this_replica(self.distribute_strategy, iterator, awaited=awaited)
        if awaited and batch is not None:
            self.tracing.look_at(batch)
        return batch
