"""Objects with a state: reads it, and restores it in an object that was created again."""

import random
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

# Metrics of Keras that make their variables when they first see labels: (batch, outputs) of them
# give variables whose last axis is the outputs.
_BUILT_BY_LABELS = (keras.metrics.FBetaScore, keras.metrics.R2Score, keras.metrics.AUC)


class Form(NamedTuple):
    """What an object has to be to take a state.

    Attributes:
        class_name: Of the object.
        shapes: Of its variables; of NumPy's generators, the class that draws.
        can_grow: Whether one that has fewer variables is given the others.
        mend: What builds an object of this class, for a message.
    """

    class_name: str
    shapes: Any
    can_grow: bool
    mend: str


def form_of(value: Any) -> Form:
    """Returns the form of an object that holds a state."""
    variables = _variables_of(value)
    shapes: Any = None
    if variables is not None:
        shapes = [tuple(one.shape) for one in variables]
    elif isinstance(value, np.random.Generator):
        shapes = type(value.bit_generator).__name__
    can_grow = isinstance(value, _BUILT_BY_LABELS)
    return Form(type(value).__name__, shapes, can_grow, how_to_build(value))


def misfit(now: Form, fresh: Form | None) -> str | None:
    """Returns why an object as it was when training began cannot take a state; `None` if it can.

    Args:
        now: The form of the object that has the state.
        fresh: Of the one when training began; `None` where there was none.
    """
    name = now.class_name
    if fresh is None or fresh.class_name != name:
        return (
            f"is a {name} that was not there when training began, so that a restart could not give "
            "it its state: make it in the constructor or in on_train_begin"
        )
    if fresh.shapes == now.shapes or (now.can_grow and len(fresh.shapes) < len(now.shapes)):
        return None
    return (
        f"is a {name} whose variables were others when training began ({fresh.shapes}, now "
        f"{now.shapes}), so that a restart could not give it its state: make it in the constructor "
        f"or in on_train_begin{now.mend}"
    )


def how_to_build(value: Any) -> str:
    """Returns how to make the variables of an object that makes them late, for a message."""
    if isinstance(value, keras.metrics.Metric):
        return ", and there call update_state on a sample and then reset_state"
    if isinstance(value, keras.optimizers.Optimizer):
        return ", and there call build(variables)"
    return ", and there call build(input_shape)" if isinstance(value, keras.layers.Layer) else ""


def _variables_of(value: Any) -> list[Any] | None:
    """Returns the variables that make up an object of Keras or TensorFlow; `None` for others."""
    if isinstance(value, (tf.Variable, keras.Variable)):
        return [value]
    if isinstance(value, keras.random.SeedGenerator):
        return [value.state]
    if isinstance(value, tf.random.Generator):
        return [value.state]
    kinds = (keras.metrics.Metric, keras.layers.Layer, keras.optimizers.Optimizer)
    return list(value.variables) if isinstance(value, kinds) else None


def state_of(value: Any) -> Any:
    """Returns what an object's state is, as a value that can be kept; `None` for others."""
    variables = _variables_of(value)
    if variables is not None:
        return [np.asarray(keras.ops.convert_to_numpy(one)) for one in variables]
    if isinstance(value, np.random.Generator):
        return value.bit_generator.state
    if type(value) is np.random.RandomState:
        return value.get_state(legacy=False)
    if type(value) is random.Random:
        return value.getstate()
    return None


def give_back(value: Any, state: Any) -> bool:
    """Gives an object its state; returns whether it fits."""
    variables: Any = _variables_of(value)
    if variables is not None:
        if isinstance(value, _BUILT_BY_LABELS) and len(variables) < len(state):
            _build(value, [one.shape for one in state])
            variables = _variables_of(value)
        shapes = [tuple(one.shape) for one in variables]
        if shapes != [one.shape for one in state]:
            return False
        for variable, one in zip(variables, state, strict=True):
            variable.assign(one)
    elif isinstance(value, np.random.Generator):
        if state["bit_generator"] != type(value.bit_generator).__name__:
            return False
        value.bit_generator.state = state
    elif type(value) is np.random.RandomState:
        value.set_state(state)
    else:
        value.setstate(state)
    return True


def _build(metric: keras.metrics.Metric, shapes: list[tuple[int, ...]]) -> None:
    """Makes a metric's variables, whose values are then of no account."""
    longest = max(shapes, key=len)
    labels = np.zeros((1, longest[-1] if longest else 1), "float32")
    metric.update_state(labels, labels)
