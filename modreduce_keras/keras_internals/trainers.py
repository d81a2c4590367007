"""Models in training: their logs, their first batch, their compiled steps."""

import contextlib
from typing import Any

import keras


def begin_at(model: keras.Model, epoch: int | None) -> None:
    """Sets the epoch that the next `fit` begins with, before its argument; `None` is no such epoch.

    Relies on `Trainer._initial_epoch`, which `fit` reads after `on_train_begin`, once, in
    `_initial_epoch or initial_epoch`.
    """
    model._initial_epoch = epoch


def begins_at(model: keras.Model) -> int | None:
    """Returns what `begin_at` has set; relies on the same."""
    return model._initial_epoch


def loss_tracker(model: keras.Model) -> keras.metrics.Mean:
    """Returns the metric that is logged as `"loss"`.

    Relies on `Trainer._loss_tracker`, which `compile` makes.
    """
    return model._loss_tracker


def compiled_metrics(model: keras.Model) -> Any:
    """Returns what updates the metrics that `compile` was given, `None` where there are none.

    Relies on `Trainer._compile_metrics`, whose `update_state(y, y_pred, sample_weight)` it is.
    """
    return model._compile_metrics


def forget_compiled_metrics(model: keras.Model) -> None:
    """Makes a model forget the metrics of an earlier `compile`, which a later one would keep.

    Relies on `Trainer._compile_metrics`.
    """
    model._compile_metrics = None


def builds_on_local_batch(cls: Any) -> Any:
    """Decorates a model class that has a method `batch_to_build_on(iterator)`.

    Before training under a strategy, Keras draws the first batch of an iterator, to build what
    depends on data, and starts again. The method returns another batch to build it from, or `None`
    for Keras' own way. Relies on `Trainer._maybe_symbolic_build(iterator=None, data_batch=None)`,
    which `fit` and others call, and on `TensorFlowTrainer._distribute_strategy`.
    """

    def _maybe_symbolic_build(self: Any, iterator: Any = None, data_batch: Any = None) -> None:
        draws = iterator is not None and self._distribute_strategy is not None
        batch = self.batch_to_build_on(iterator) if draws else None
        if batch is not None:
            iterator, data_batch = None, batch
        super(cls, self)._maybe_symbolic_build(iterator, data_batch)
        _build_metrics(self, iterator, data_batch)

    cls._maybe_symbolic_build = _maybe_symbolic_build
    return cls


def _build_metrics(model: Any, iterator: Any, data_batch: Any) -> None:
    """Builds compiled metrics, whose variables would have the step traced twice.

    Without a strategy, Keras leaves them to the first step. What is wrong with data is left to the
    step as well. Relies on `Trainer._symbolic_build(data_batch=...)`, which takes whatever has a
    shape and a dtype, and on `TFEpochIterator._get_iterator`, which returns a dataset.
    """
    metrics = model._compile_metrics
    if metrics is None or metrics.built or model.run_eagerly:
        return
    with contextlib.suppress(Exception):
        if data_batch is None:
            data_batch = iterator._get_iterator().element_spec
        model._symbolic_build(data_batch=data_batch)


def wraps_step(cls: Any) -> Any:
    """Decorates a model class that has a method `around_step(step)`.

    The method is given each compiled step, a function of a batch, and returns what to run instead;
    it runs outside of what XLA compiles. Relies on `TensorFlowTrainer._autoconvert_optionals`,
    through which `make_train_function` and its siblings pass each step.
    """

    def _autoconvert_optionals(self: Any, step_func: Any) -> Any:
        return self.around_step(super(cls, self)._autoconvert_optionals(step_func))

    cls._autoconvert_optionals = _autoconvert_optionals
    return cls
