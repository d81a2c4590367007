"""StepModel: a model whose training step is a forward pass, an objective and a gradient policy."""

import contextlib
from typing import Any

import keras

from modreduce_keras.distillers.backend import tensorflow as backend
from modreduce_keras.distillers.batch import Batch
from modreduce_keras.distillers.first_batch import FirstBatch
from modreduce_keras.distillers.forward import Outputs
from modreduce_keras.distillers.gradients import GradientPolicy
from modreduce_keras.distillers.objective import Objective, Result
from modreduce_keras.distillers.statistics import average_statistics
from modreduce_keras.distribute import batch_of_this_replica, reducible_logs
from modreduce_keras.keras_internals import builds_on_local_batch, flatten_layers, loss_tracker


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
        self.policy = GradientPolicy({})

    def forward_pass(self, batch: Batch, training: bool, with_teacher: bool) -> Outputs:
        """Runs every network once, and the teacher where it is wanted."""
        raise NotImplementedError

    def objective(self) -> Objective:
        """Returns the loss."""
        raise NotImplementedError

    def check_labels(self, labels: Any) -> Any:
        """Returns the labels to train on, or raises if they do not fit the outputs."""
        return labels

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
        batch = Batch.from_data(data, self.check_labels)
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

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """The metrics that `fit` resets: the loss, every term, the compiled metrics."""
        return super().metrics + (self.objective().metrics if self.compiled else [])

    # The first batch

    def awaits_batch(self) -> bool:
        """Returns whether the model is to see the first batch, before the step is traced."""
        return False

    def look_at(self, data: Any) -> None:
        """Sees the first batch, if it is awaited."""

    def traced_for(self) -> Any:
        """Returns what was chosen for the step, which is traced anew where it changes."""
        return ()

    def make_train_function(self, force: bool = False) -> Any:
        """Makes the compiled training step."""
        made = self.train_function
        super().make_train_function(force=force)
        if self.train_function is not made:
            self.train_function = FirstBatch(self, self.train_function)
        return self.train_function

    def batch_to_build_on(self, iterator: Any) -> Any:
        """Returns a batch of this replica, where there are several and Keras would take a mean."""
        awaited = self.awaits_batch()
        batch = batch_of_this_replica(self.distribute_strategy, iterator, awaited=awaited)
        if awaited and batch is not None:
            self.look_at(batch)
        return batch
