"""Everything private of Keras and TensorFlow that the package relies on, in one place.

Each function says what it relies on, and `tests/keras_internals` has a test for each that
fails when Keras changes it. All of it was seen in Keras 3.15.1 and TensorFlow 2.21.0. Other
modules touch nothing private, which ruff's rule SLF001 enforces. What is private in TensorFlow's
converter is in `export/tensorflow_internals.py`, as this module imports Keras alone.
"""

import contextlib
import functools
import inspect
import sys
import threading
from collections.abc import Callable, Iterator
from types import CodeType, FrameType
from typing import Any, NamedTuple

import keras
from keras.src.backend import get_keras_mask, set_keras_mask

# Layers


def flatten_layers(
    layer: keras.layers.Layer, *, include_self: bool = True, recursive: bool = True
) -> list[keras.layers.Layer]:
    """Returns the layers inside a layer, at any depth or one level down.

    Relies on `Layer._flatten_layers`; the public `Model.layers` is one level deep, of models alone.
    """
    return layer._flatten_layers(include_self=include_self, recursive=recursive)


def own_losses(layer: keras.layers.Layer) -> list[Any]:
    """Returns what a layer itself has added by `add_loss`, without the layers inside it.

    Relies on `Layer._get_own_losses`, which `Layer.losses` sums up over all layers.
    """
    return layer._get_own_losses()


def constructor_arguments(layer: keras.layers.Layer) -> dict[str, Any] | None:
    """Returns what a layer was constructed with, or `None` where that is no plain values.

    The name and the precision are those that the layer has, where its constructor takes them.

    Relies on `Operation._auto_config`, from which Keras writes configs of classes that have no
    `get_config`. It is there for those that have one, too, and knows what theirs may have wrong.
    """
    kept = getattr(layer, "_auto_config", None)
    if kept is None:
        return None
    taken = inspect.signature(type(layer)).parameters.values()
    takes_more = any(one.kind == one.VAR_KEYWORD for one in taken)
    has = {"name": layer.name, "dtype": keras.dtype_policies.serialize(layer.dtype_policy)}
    names = {one.name for one in taken}
    return kept.config | {k: v for k, v in has.items() if takes_more or k in names}


def set_unnoticed(layer: keras.layers.Layer, name: str, value: Any) -> None:
    """Sets an attribute so that Keras neither tracks the value nor wraps it.

    Relies on Keras hooking `__setattr__` alone, and on calls looking up `layer.call` each time.
    """
    vars(layer)[name] = value


def delete_unnoticed(layer: keras.layers.Layer, name: str) -> None:
    """Deletes what `set_unnoticed` has set; the attribute of the class shows again.

    Relies on Keras hooking `__delattr__` alone.
    """
    del vars(layer)[name]


def call_showing_scores(
    layer: keras.layers.Layer, call: Callable[..., Any], args: Any, kwargs: Any
) -> Any:
    """Returns what a layer's `call` does; attention of Keras computes its scores, and unfused.

    Asked for its scores, it takes the way through its softmax layer and not a fused kernel. Relies
    on `_flash_attention`, for which it would refuse to.
    """
    signature = inspect.signature(type(layer).call)
    asked = "return_attention_scores"
    if asked not in signature.parameters or signature.bind(layer, *args, **kwargs).arguments.get(
        asked
    ):
        return call(*args, **kwargs)
    flash = vars(layer).get("_flash_attention")
    if flash:
        set_unnoticed(layer, "_flash_attention", False)
    try:
        output, _, *rest = call(*args, **{**kwargs, asked: True})
    finally:
        if flash:
            set_unnoticed(layer, "_flash_attention", flash)
    return (output, *rest) if rest else output


# Graphs of functional models


class History(NamedTuple):
    """Where a symbolic tensor comes from.

    Attributes:
        operation: What computes it.
        call: Index of the call of the operation.
        output: Index among the outputs of the call.
    """

    operation: keras.Operation
    call: int
    output: int


class Call(NamedTuple):
    """One symbolic call of an operation, a node of the graph.

    Attributes:
        key: Equal for the same call, whoever asks.
        operation: What is called.
        inputs: Symbolic tensors that it is given.
        outputs: Symbolic tensors that it returns.
    """

    key: int
    operation: keras.Operation
    inputs: list[keras.KerasTensor]
    outputs: list[keras.KerasTensor]


def history_of(tensor: keras.KerasTensor) -> History:
    """Returns where a symbolic tensor comes from.

    Relies on `KerasTensor._keras_history`, of (operation, node_index, tensor_index).
    """
    operation, call, output = tensor._keras_history
    return History(operation, call, output)


def operation_of(tensor: keras.KerasTensor) -> keras.Operation:
    """Returns the operation that computes a symbolic tensor; relies on what `history_of` does."""
    return history_of(tensor).operation


def calls_of(operation: keras.Operation) -> list[Call]:
    """Returns the symbolic calls of an operation, in all models that it is part of, in order.

    Relies on `Operation._inbound_nodes`, and on a node's `operation`, `input_tensors`, `outputs`.
    """
    return [_call(node) for node in operation._inbound_nodes]


def readers_of(operation: keras.Operation) -> list[Call]:
    """Returns the symbolic calls that are given a result of an operation, in all models.

    Relies on `Operation._outbound_nodes`.
    """
    return [_call(node) for node in operation._outbound_nodes]


def calls_in(model: keras.Model) -> set[int]:
    """Returns the keys of the calls that make up a functional or a built Sequential model.

    Relies on `Function._nodes_by_depth`, and on `Sequential._functional`, which has the graph.
    """
    graph = model._functional if isinstance(model, keras.Sequential) else model
    return {id(node) for level in graph._nodes_by_depth.values() for node in level}


def calls_in_order(model: keras.Model) -> list[Call]:
    """Returns the calls that make up a functional model, each after those whose results it takes.

    Those of the inputs are left out. Relies on `Function._nodes_by_depth`, of lists whose depths
    fall towards the outputs, and on `Node.is_input`.
    """
    levels = sorted(model._nodes_by_depth.items(), reverse=True)
    return [_call(node) for _, level in levels for node in level if not node.is_input]


def operations_in(model: keras.Model) -> list[keras.Operation]:
    """Returns the operations of a functional or a built Sequential model.

    Relies on `Sequential._functional`; the operations of a functional model are public.
    """
    graph = model._functional if isinstance(model, keras.Sequential) else model
    return graph.operations


def _call(node: Any) -> Call:
    return Call(id(node), node.operation, node.input_tensors, node.outputs)


# Tensors


def mask_of(tensor: Any) -> Any:
    """Returns the mask that Keras has attached to a tensor, or `None`.

    Relies on `keras.src.backend.get_keras_mask`; the public API attaches and reads none.
    """
    return get_keras_mask(tensor)


def set_mask(tensor: Any, mask: Any) -> None:
    """Attaches a mask to a tensor, as layers do.

    Relies on `keras.src.backend.set_keras_mask`.
    """
    set_keras_mask(tensor, mask)


# Metrics


def direction_of(metric: keras.metrics.Metric) -> str | None:
    """Returns `"up"` or `"down"`, as a metric gets better; `None` where it does not say.

    Relies on `Metric._direction`, by which callbacks resolve `mode="auto"`.
    """
    return getattr(metric, "_direction", None)


def set_direction(metric: keras.metrics.Metric, direction: str | None) -> None:
    """Tells Keras' callbacks which way a metric gets better.

    Relies on `Metric._direction`, which a metric lacks if it does not say.
    """
    if direction is not None:
        metric._direction = direction


def takes_logits(metric: keras.metrics.Metric) -> bool:
    """Returns whether a metric with the argument `from_logits` was given `True`.

    Relies on `AUC._from_logits`; of other metrics the attribute is public.
    """
    return bool(getattr(metric, "from_logits", getattr(metric, "_from_logits", False)))


def wrapped_by(metric: keras.metrics.Metric) -> tuple[Callable[..., Any] | None, dict[str, Any]]:
    """Returns the function that a metric takes the mean of, and its arguments; else `None, {}`.

    Relies on `MeanMetricWrapper._fn` and `_fn_kwargs`.
    """
    return getattr(metric, "_fn", None), getattr(metric, "_fn_kwargs", {})


# Optimizers


def own_variables(optimizer: Any) -> list[keras.Variable]:
    """Returns the variables of an optimizer without those of optimizers inside it.

    Relies on `Optimizer._variables`; `variables` has those inside too.
    """
    return list(optimizer._variables)


def slots(optimizer: Any) -> Iterator[tuple[keras.Variable, keras.Variable]]:
    """Yields (slot, variable that it belongs to) of a built optimizer.

    Relies on optimizers keeping their slots in lists in the order of `_trainable_variables`.
    """
    trained = optimizer._trainable_variables
    for name, several in vars(optimizer).items():
        is_list = isinstance(several, (list, tuple)) and len(several) == len(trained)
        if is_list and name not in _NO_SLOTS:
            yield from zip(several, trained, strict=True)


_NO_SLOTS = ("_variables", "_trainable_variables", "_inner_optimizers")


def trained_by(optimizer: Any) -> list[keras.Variable]:
    """Returns the variables that a built optimizer trains.

    Relies on `Optimizer._trainable_variables`.
    """
    return list(optimizer._trainable_variables)


def completes_update() -> Any:
    """Returns whether the optimizer that calls updates weights now; to be asked in a constraint.

    One that accumulates gradients calls constraints on each of its batches. Relies on
    `BaseOptimizer.apply` calling them before it counts in `_iterations`, and on
    `gradient_accumulation_steps`.

    Returns:
        A bool, or a scalar in the graph; `True` where no optimizer of Keras calls.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        optimizer = frame.f_locals.get("self")
        if frame.f_code.co_name == "apply" and isinstance(optimizer, keras.optimizers.Optimizer):
            steps = optimizer.gradient_accumulation_steps
            return True if not steps else (optimizer._iterations + 1) % steps == 0
        frame = frame.f_back
    return True


# Models in training


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
    depends on data, and begins anew. The method returns another batch to build it from, or `None`
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


# Callbacks


_MONITORING = (
    keras.callbacks.EarlyStopping,
    keras.callbacks.ModelCheckpoint,
    keras.callbacks.ReduceLROnPlateau,
)
_MADE_ANEW = (
    (keras.callbacks.Callback, {"_model", "params"}),
    (_MONITORING, {"monitor_op", "min_delta"}),  # the first gives the second its sign
    (keras.callbacks.ProgbarLogger, {"progbar", "seen", "target", "epochs", "_called_in_fit"}),
    (keras.callbacks.CSVLogger, {"csv_file", "writer", "append_header"}),
)


def made_anew(callback: keras.callbacks.Callback) -> set[str]:
    """Returns the attributes of a callback that Keras makes anew in each `fit`.

    Relies on the names of the attributes of Keras' own callbacks.
    """
    return set().union(*(names for kind, names in _MADE_ANEW if isinstance(callback, kind)))


# `fit`


class RunningFit(NamedTuple):
    """A call of `fit` that has not ended.

    Attributes:
        first: The epoch that it began with.
        epoch: The epoch that it is in; `None` before the first one.
        batches: Goes through its data; an object of this call alone, `None` before it is made.
        callbacks: Its callbacks in their order, Keras' own among them; empty before they are known.
        data: What it was given to train on and to validate with.
    """

    first: int
    epoch: int | None
    batches: Any
    callbacks: list[keras.callbacks.Callback]
    data: tuple[Any, Any]

    @property
    def goes_on(self) -> bool:
        """Whether an epoch goes on in the data where the last one ended (`steps_per_epoch`)."""
        return getattr(self.batches, "steps_per_epoch", None) is not None


def running_fit() -> RunningFit | None:
    """Returns the innermost `fit` of this thread, `None` where none runs.

    Keras tells the epoch to callbacks alone, and nobody that a `fit` was broken off. A pipeline has
    no callbacks, and what is announced to it would outlive an error or Ctrl-C. Relies on the names
    of the local variables of `Model.fit`: `initial_epoch`, `epoch`, `epoch_iterator`, `callbacks`,
    `x` and `validation_data`.
    """
    return next(_fits(sys._getframe()), None)


def running_fits() -> tuple[list[RunningFit], list[list[RunningFit]]]:
    """Returns the calls of `fit` of this thread, the innermost first, and those of each other.

    Relies on what `running_fit` does, and on CPython's `sys._current_frames`.
    """
    every = sys._current_frames()
    own = list(_fits(every.pop(threading.get_ident())))
    return own, [fits for fits in (list(_fits(frame)) for frame in every.values()) if fits]


def _fits(frame: FrameType | None) -> Iterator[RunningFit]:
    code = _code_of_fit()
    while frame is not None:
        if frame.f_code is code:
            yield _read(frame)
        frame = frame.f_back


@functools.cache
def _code_of_fit() -> CodeType:
    return inspect.unwrap(keras.Model.fit).__code__


def _read(frame: FrameType) -> RunningFit:
    found = frame.f_locals
    callbacks = getattr(found.get("callbacks"), "callbacks", ())
    return RunningFit(
        first=found.get("initial_epoch", 0),
        epoch=found.get("epoch"),
        batches=found.get("epoch_iterator"),
        callbacks=list(callbacks),
        data=(found.get("x"), found.get("validation_data")),
    )


# Saving


def is_asked_by_saver() -> bool:
    """Returns whether it is Keras' saver that has called `dir()`; to be asked in a `__dir__`.

    Relies on the saver walking the attributes that `dir()` shows, in `keras.src.saving.saving_lib`.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_name == "__dir__":
        frame = frame.f_back
    return frame is not None and frame.f_globals.get("__name__") == _SAVER


_SAVER = "keras.src.saving.saving_lib"


# Datasets of `tf.data`


def inputs_of(dataset: Any) -> list[Any]:
    """Returns the datasets that a `tf.data.Dataset` is made of; none of anything else.

    Relies on `DatasetV2._inputs()`, which distributed datasets lack or raise for.
    """
    try:
        return list(dataset._inputs())
    except (AttributeError, NotImplementedError, TypeError):
        return []


def set_reshuffles(dataset: Any) -> None:
    """Marks a dataset as one whose order is another in each epoch.

    Relies on the attribute `_reshuffle_each_iteration` of what `Dataset.shuffle` returns.
    """
    dataset._reshuffle_each_iteration = True


def reshuffles(dataset: Any) -> bool:
    """Returns whether a dataset itself is known to have another order in each epoch.

    Relies on the same attribute; that of a shuffle by default is `None`, and it has a meaning.
    """
    return getattr(dataset, "_reshuffle_each_iteration", False) is not False


# KerasTuner


def retry_queue(oracle: Any) -> list[str]:
    """Returns the list of the trials that a search runs again, which may be changed.

    Relies on `Oracle._retry_queue`, as seen in KerasTuner 1.4.8.
    """
    return oracle._retry_queue


def is_compiled_by_xla(tensor: Any) -> bool:
    """Returns whether the graph in which a tensor of TensorFlow is computed is compiled by XLA.

    Relies on `Graph._get_control_flow_context`, in which `tf.function(jit_compile=True)` is, and on
    `FuncGraph.outer_graph`. False for eager tensors.
    """
    graph = getattr(tensor, "graph", None)
    while graph is not None:
        context = graph._get_control_flow_context()
        while context is not None:
            if context.IsXLAContext():
                return True
            context = context.outer_context
        graph = getattr(graph, "outer_graph", None)
    return False
