"""Head kinds: whether an output is logits or probabilities, by its graph or by its values.

The graph decides if the last operation is certainly linear, or a softmax or sigmoid of Keras. Any
other model is run once on a few made-up inputs.
"""

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np

from modreduce_keras.keras_internals import calls_of, history_of, operation_of
from modreduce_keras.models import trials
from modreduce_keras.models.fake_quantization import FakeQuantize, LearntFakeQuantize
from modreduce_keras.models.graph import defined_by_user, input_specs
from modreduce_keras.models.kernel_wrapper import KernelWrapper

LOGITS, SOFTMAX, SIGMOID = "logits", "softmax", "sigmoid"

_layers, _activations = keras.layers, keras.activations
# Exact types: a subclass may do anything with what they return.
WITH_ACTIVATION = {
    _layers.Dense,
    _layers.EinsumDense,
    _layers.Conv1D,
    _layers.Conv2D,
    _layers.Conv3D,
    _layers.Conv1DTranspose,
    _layers.Conv2DTranspose,
    _layers.Conv3DTranspose,
    _layers.DepthwiseConv1D,
    _layers.DepthwiseConv2D,
    _layers.SeparableConv1D,
    _layers.SeparableConv2D,
}
OF_ONE_LAYER = {_layers.TimeDistributed, _layers.SpectralNormalization}
PASSES_ON = {
    FakeQuantize,
    LearntFakeQuantize,
    _layers.ActivityRegularization,
    _layers.Dropout,
    _layers.Flatten,
    _layers.GaussianDropout,
    _layers.GaussianNoise,
    _layers.Identity,
    _layers.Masking,
    _layers.Permute,
    _layers.Reshape,
    _layers.SpatialDropout1D,
    _layers.SpatialDropout2D,
    _layers.SpatialDropout3D,
    _layers.UpSampling1D,
    _layers.UpSampling2D,
    _layers.UpSampling3D,
}
# What is unbounded stays so; what they make of probabilities is looked at.
_AVERAGES = {
    _layers.AveragePooling1D,
    _layers.AveragePooling2D,
    _layers.AveragePooling3D,
    _layers.GlobalAveragePooling1D,
    _layers.GlobalAveragePooling2D,
    _layers.GlobalAveragePooling3D,
}
_SUMS = {_layers.Add, _layers.Average, _layers.Subtract}
_OF_ACTIVATION = (
    (None, LOGITS),
    (_activations.linear, LOGITS),
    (_activations.log_softmax, LOGITS),
    (_activations.softmax, SOFTMAX),
    (_activations.sigmoid, SIGMOID),
)
_TOLERANCE = 1e-2  # of half precision
_VANISHING = 1e-6
INVERSE = {
    SOFTMAX: "keras.ops.log(keras.ops.maximum(p, 1e-7))",
    SIGMOID: "-keras.ops.log(1 / keras.ops.clip(p, 1e-6, 1 - 1e-6) - 1)",
}
"""Expressions of the logits that probabilities `p` come from; of a softmax up to a constant."""


def of_model(model: keras.Model) -> str | None:
    """Returns what a model's output is.

    Returns:
        `"logits"`, or `"softmax"` (rows that sum to 1) or `"sigmoid"` (numbers from 0 to 1);
        `None` where it cannot be told, as the model takes no made-up inputs. Of several
        outputs, what the first is that is not logits.
    """
    found = of_all(graph_outputs(model) or [None])
    if found is not None:
        return found

    def run(inputs: Any) -> Any:
        return model(inputs, training=False)

    trial = trials.first_outputs(run, model, input_specs(model))
    if trial is None:
        return None
    weights = trials.other_weights(model)
    others = (trials.outputs_for(run, trial[0], one) for one in weights)
    return by_values(trial[1], others)


# By the graph


def of_all(outputs: list[Any]) -> str | None:
    """Returns what symbolic outputs, or what layers give, are for sure; `None` if one is not."""
    found = {by_graph(one) for one in outputs}
    if None in found:
        return None
    return next((head for head in (SOFTMAX, SIGMOID) if head in found), LOGITS)


def by_graph(output: Any) -> str | None:
    """Returns what a symbolic output is for sure, or what a layer gives; `None` if unknown."""
    if isinstance(output, keras.KerasTensor):
        return _of_tensor(output, {})
    if output is None:
        return None
    calls = calls_of(output)
    return _of_operation(output, calls[0].inputs if len(calls) == 1 else [], {})


def is_ending(operation: keras.Operation) -> bool:
    """Returns whether an operation is a layer `Softmax`, or a softmax or sigmoid of `keras.ops`."""
    return _operations().get(type(operation), LOGITS) != LOGITS


@functools.cache
def _operations() -> dict[type, str]:
    """Returns what `keras.ops` have made, by the type of the operation."""
    given = keras.KerasTensor((None, 2))
    made = {SOFTMAX: keras.ops.softmax(given), SIGMOID: keras.ops.sigmoid(given)}
    made[LOGITS] = keras.ops.log_softmax(given)
    heads = {type(operation_of(one)): head for head, one in made.items()}
    return {**heads, _layers.Softmax: SOFTMAX}


def _of_tensor(tensor: Any, seen: dict[int, str | None]) -> str | None:
    """Returns what a tensor is for sure, or `None`; `seen` has those looked at, by their ids."""
    if id(tensor) not in seen:
        operation, call, index = history_of(tensor)
        outputs = graph_outputs(operation)
        if outputs:
            seen[id(tensor)] = _of_tensor(outputs[index], seen)
        else:
            inputs = calls_of(operation)[call].inputs
            seen[id(tensor)] = _of_operation(operation, inputs, seen)
    return seen[id(tensor)]


def graph_outputs(operation: Any) -> list[Any]:
    """Returns the symbolic outputs of a model that runs its graph; none where it has no graph."""
    if not isinstance(operation, keras.Model) or defined_by_user(operation, "call"):
        return []
    return list(getattr(operation, "outputs", None) or [])


def _of_operation(operation: Any, inputs: list[Any], seen: dict[int, str | None]) -> str | None:
    """Returns what an operation gives for sure, or `None`."""
    kind = type(operation)
    if kind in _operations():
        return _operations()[kind]
    if kind in WITH_ACTIVATION:
        return _of_activation(operation.activation)
    if kind in OF_ONE_LAYER or isinstance(operation, KernelWrapper):
        return _of_operation(operation.layer, inputs, seen)
    outputs = graph_outputs(operation)
    if len(outputs) == 1:
        return _of_tensor(outputs[0], seen)
    if kind is _layers.Activation and operation.activation is not _activations.linear:
        return _of_activation(operation.activation)
    if kind in PASSES_ON or kind is _layers.Activation:
        return _of_tensor(inputs[0], seen) if len(inputs) == 1 else None
    if kind in _AVERAGES or kind in _SUMS:
        return LOGITS if any(_of_tensor(one, seen) == LOGITS for one in inputs) else None
    if kind is _layers.Concatenate and inputs:
        return LOGITS if all(_of_tensor(one, seen) == LOGITS for one in inputs) else None
    return None


def _of_activation(activation: Any) -> str | None:
    return next((head for known, head in _OF_ACTIVATION if activation is known), None)


# By values


def by_values(first: Any, others: Iterable[Any]) -> str | None:
    """Returns what was put out, or `None` if that cannot be told.

    Args:
        first: What was put out, several outputs in a dict or list.
        others: The same of a model with other weights, in turn; `None` where it did not run.
    """
    rows = _rows(first)
    head = _of_rows(rows)
    if rows is None or head in (None, LOGITS):
        return head
    # Probabilities stay probabilities with any weights; small numbers do not stay small.
    moved = False
    for other in others:
        values = None if other is None else _rows(other)
        found = _of_rows(values)
        if found == LOGITS:
            return LOGITS
        if values is not None and found is not None:
            head = SIGMOID if found == SIGMOID else head
            moved = moved or not np.allclose(rows, values)
    constant = np.ptp(rows) == 0
    return LOGITS if head == SIGMOID and constant and not moved else head


def _rows(given: Any) -> np.ndarray | None:
    """Returns what was put out as rows, (rows, classes), float64; of several outputs all."""
    mapping = isinstance(given, Mapping)
    several = list(given.values()) if mapping else keras.tree.flatten(given)
    leaves = [keras.ops.convert_to_numpy(keras.ops.cast(one, "float32")) for one in several]
    if len({leaf.shape[-1:] for leaf in leaves}) != 1 or leaves[0].ndim < 2:
        return None
    rows = np.concatenate([leaf.reshape(-1, leaf.shape[-1]) for leaf in leaves])
    return rows.astype("float64")


def _of_rows(rows: np.ndarray | None) -> str | None:
    """Returns what rows are; those with NaN, of a model that overflowed, say nothing."""
    if rows is None:
        return None
    rows = rows[~np.isnan(rows).any(axis=1)]
    # What vanishes says nothing either: of an untrained model that is deep.
    if not rows.size or np.abs(rows).max() < _VANISHING:
        return None
    if rows.min() < -1e-5 or rows.max() > 1.0 + 1e-3:
        return LOGITS
    return SOFTMAX if (np.abs(rows.sum(axis=1) - 1.0) <= _TOLERANCE).all() else SIGMOID
