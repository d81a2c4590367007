"""The methods `fit`, `evaluate`, ... of distillers: what is checked, kept and said around them."""

import contextlib
import functools
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import keras

from modreduce_keras.distillers import balanced, saving
from modreduce_keras.distillers.checks import compile_and_fit
from modreduce_keras.distillers.checks.ranges import warn_of_ranges
from modreduce_keras.distillers.metrics import progress
from modreduce_keras.distillers.step import balance, evaluating
from modreduce_keras.distillers.step.forward import ForwardPass
from modreduce_keras.distribute import telling_of_lost_workers
from modreduce_keras.keras_internals import begin_at, flatten_layers
from modreduce_keras.keras_internals.traced_gradients import release_unused_graphs


def fit(self: Any, *args: Any, **kwargs: Any) -> keras.callbacks.History:
    """Trains, as `keras.Model.fit` does.

    With several students, the progress bar shows the total loss and the accuracy of each
    student and of the ensemble (without an accuracy, the first compiled metric, or the
    compiled loss). All logs are in the history, and callbacks see them. To choose which are
    shown, pass `mr.callbacks.ProgressBar(["loss", "val_*"])` in `callbacks`.
    """
    self.tracing.follow()
    call = bound(keras.Model.fit, self, args, kwargs)
    saving.require_teacher_weights(self)
    self.runs.begin_fit(call.arguments)
    with self.runs.fitting(call.arguments):
        history = keras.Model.fit(self, *call.args, **call.kwargs)
    balanced.warn_of_unset(self.objective().terms)
    return history


def evaluate(self: Any, *args: Any, **kwargs: Any) -> Any:
    """Evaluates the students, as `keras.Model.evaluate` does.

    The teacher runs only if knowledge is evaluated; see `compile`.
    """
    call = bound(keras.Model.evaluate, self, args, kwargs)
    self.runs.begin_evaluation(call.arguments)
    with self.runs.evaluating():
        return keras.Model.evaluate(self, *call.args, **call.kwargs)


def predict(self: Any, *args: Any, **kwargs: Any) -> Any:
    """Predicts, as `keras.Model.predict` does."""
    compile_and_fit.require_data(self, bound(keras.Model.predict, self, args, kwargs).arguments)
    self.runs.follow_models(teacher=False)
    return keras.Model.predict(self, *args, **kwargs)


def train_on_batch(self: Any, *args: Any, **kwargs: Any) -> Any:
    """Trains on one batch, as `keras.Model.train_on_batch` does."""
    saving.require_teacher_weights(self)
    call = bound(keras.Model.train_on_batch, self, args, kwargs)
    compile_and_fit.require_batch(self, call.arguments)
    with compile_and_fit.clear_errors():
        return keras.Model.train_on_batch(self, *args, **kwargs)


def test_on_batch(self: Any, *args: Any, **kwargs: Any) -> Any:
    """Evaluates one batch, as `keras.Model.test_on_batch` does."""
    call = bound(keras.Model.test_on_batch, self, args, kwargs)
    compile_and_fit.require_batch(self, call.arguments)
    self.runs.follow_models(teacher=False)
    self.runs.require_weights()
    with compile_and_fit.clear_errors():
        return keras.Model.test_on_batch(self, *args, **kwargs)


def bound(
    method: Any, model: keras.Model, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> inspect.BoundArguments:
    """Returns the arguments of a call of a model's method, which can be changed before it."""
    return inspect.signature(functools.partial(method, model)).bind(*args, **kwargs)


class Runs:
    """The calls of `fit` and `evaluate` of a distiller: what comes before them, and what runs now.

    Args:
        distiller: The distiller.
        forward: Its forward pass.

    Attributes:
        is_evaluating: Whether `evaluate` runs, be it the validation of `fit`.
        speaks: Whether a `fit` runs that may print.
        tells_left_out: Whether it says which terms an evaluation leaves out.
    """

    def __init__(self, distiller: Any, forward: ForwardPass):
        self._distiller, self._forward = distiller, forward
        self.is_evaluating, self.speaks, self.tells_left_out = False, False, True
        self._is_fitting = self._has_looked = self._checks_labels = False

    def begin_fit(self, given: dict[str, Any]) -> None:
        """Checks the arguments of a `fit`, and gives it a progress bar."""
        distiller = self._distiller
        begin_at(distiller, None)  # an interrupted fit may have left an epoch behind
        if distiller.policy.guard is not None:
            distiller.policy.guard.begin()
        compile_and_fit.require_fit(distiller, given)
        if not self._has_looked:
            self._has_looked = True
            warn_of_ranges(self._forward, given.get("x"))
        given["callbacks"] = progress.with_bar(given.get("callbacks"), given.get("verbose", "auto"))
        if given.get("validation_data") is not None or given.get("validation_split"):
            self._warn_of_left_out()

    @contextlib.contextmanager
    def fitting(self, given: Mapping[str, Any]) -> Iterator[None]:
        """Returns the context that a `fit` of these arguments runs in."""
        lost = telling_of_lost_workers(self._distiller.distribute_strategy)
        self._is_fitting, self.speaks = True, given.get("verbose", "auto") not in (0, "0")
        try:
            with (
                lost,
                compile_and_fit.clear_errors(),
                compile_and_fit.telling_callbacks(given["callbacks"]),
            ):
                yield
        finally:
            self._is_fitting = self.speaks = False
            release_unused_graphs()

    def begin_evaluation(self, given: dict[str, Any]) -> None:
        """Checks the arguments of an `evaluate`, and gives it a progress bar."""
        compile_and_fit.require_data(self._distiller, given)
        self.require_weights()
        evaluates_knowledge = self._distiller.compilation.evaluates_knowledge
        self.follow_models(teacher=evaluates_knowledge)
        if evaluates_knowledge and not self._is_fitting:
            self._warn_of_left_out()
        given["callbacks"] = progress.with_bar(given.get("callbacks"), given.get("verbose", "auto"))

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Returns the context that an `evaluate` runs in."""
        self.is_evaluating = True
        try:
            with compile_and_fit.clear_errors():
                yield
        finally:
            self.is_evaluating = False
            if not self._is_fitting:
                release_unused_graphs()

    def follow_models(self, *, teacher: bool) -> None:
        """Has functions traced anew if models have changed; `fit` has done so for its own."""
        if not self._is_fitting:
            self._distiller.tracing.follow(teacher=teacher)

    def require_weights(self) -> None:
        """Raises if an evaluation, other than that of `fit`, needs a weight that is not set."""
        if self._distiller.compilation.evaluates_knowledge and not self._is_fitting:
            balanced.require_set(self._distiller.objective().terms)

    def _warn_of_left_out(self) -> None:
        """Says once for each `compile` which terms the loss of an evaluation is without."""
        if self.tells_left_out and not self._distiller.compilation.has_warned:
            self._distiller.compilation.has_warned = True
            evaluating.warn_of_left_out(self._distiller.objective())

    # Compiled steps

    @contextlib.contextmanager
    def checking_labels(self) -> Iterator[None]:
        """Returns the context in which steps of training are made: they check labels."""
        self._checks_labels = True
        try:
            yield
        finally:
            self._checks_labels = False

    def checked(self, step: Any) -> Any:
        """Returns a step with checks of its batches, if XLA compiles it and drops those inside."""
        distiller = self._distiller
        if distiller.run_eagerly or not distiller.jit_compile:
            return step
        owners = [one for one in flatten_layers(distiller) if getattr(one, "needs_index", False)]
        # Evaluation and prediction do not check labels.
        check = distiller.check_labels if self._checks_labels else lambda labels: labels
        return lambda data: step(compile_and_fit.checked_batch(data, owners, check))

    def watched(self, step: Any) -> Any:
        """Returns a training function that reports what the guard, and the first batch, say."""
        distiller = self._distiller
        if distiller.policy.guard is not None:
            step = distiller.policy.guard.watching(step)
        if distiller.compilation.watches_balance:
            distiller.compilation.watches_balance = False
            step = balance.watching(step, distiller)
        return step
