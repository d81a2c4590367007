"""Heads: finds out whether a model returns logits or probabilities, by its graph or its values.

The graph decides if the last operation is certainly linear, or a softmax or sigmoid of Keras. Any
other model is run once on a few made-up inputs.
"""

import functools
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from modreduce_keras.distillers import checks, trials
from modreduce_keras.keras_internals import calls_of, history_of, operation_of
from modreduce_keras.models.graph import defined_by_user
from modreduce_keras.taps import TapReader, named_outputs

LOGITS, SOFTMAX, SIGMOID = "logits", "softmax", "sigmoid"

_layers, _activations = keras.layers, keras.activations
# Exact types: a subclass may do anything with what they return.
_WITH_ACTIVATION = {
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
_OF_ONE_LAYER = {_layers.TimeDistributed, _layers.SpectralNormalization}
_PASSES_ON = {
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


class Heads:
    """Tells logits from probabilities in a model's outputs and taps; runs the model at most once.

    Args:
        reader: Runs the model and knows its taps.
        specs: The model's symbolic inputs, or `None` where they are not known.
    """

    def __init__(self, reader: TapReader, specs: Any):
        self._reader, self._specs = reader, specs
        self._trial = functools.cache(lambda: trials.first_outputs(reader, specs))

    def head(self, tap: str | None = None) -> str | None:
        """Returns what a tap gives, or the model's output.

        Returns:
            `"logits"`, or `"softmax"` (rows that sum to 1) or `"sigmoid"` (numbers from 0 to 1);
            `None` where it cannot be told, as the model takes no made-up inputs. Of several
            outputs, what the first is that is not logits.
        """
        by_graph = {self._by_graph(one) for one in self._looked_at(tap)}
        if None in by_graph:
            return self._by_values(tap)
        return next((head for head in (SOFTMAX, SIGMOID) if head in by_graph), LOGITS)

    def require_logits(
        self, model: keras.Model, role: str, tap: str | None = None, *, plain_numbers: bool = False
    ) -> None:
        """Raises if the model, or a tap of it, gives probabilities where logits are needed.

        Args:
            model: What the message is about: the model, or the one of several that is tapped.
            role: What the message calls it.
            tap: What is read of it. Defaults to `None`, its output.
            plain_numbers: Whether numbers from 0 to 1 will do, as they are compared as they are.

        Raises:
            ValueError: With the call that gives the logits.
        """
        found = self.head(tap)
        if found in (None, LOGITS) or (found == SIGMOID and plain_numbers):
            return
        read = "" if tap is None else f" at {tap!r}"
        raise ValueError(
            f"The {role} {model.name!r} ends in a softmax or sigmoid{read}, but distillation needs "
            "logits: its temperature divides them. "
            + _copied_by(model, role.partition(" ")[0], tap)
            + "End the model in a linear layer "
            "(keras.layers.Dense(classes)) and train with from_logits=True; of a trained model "
            + _remedy(model, role.partition(" ")[0], tap, found)
        )

    def _looked_at(self, tap: str | None) -> list[Any]:
        """Returns the symbolic outputs to look at, or the layer that is tapped."""
        if tap is None:
            return _graph_outputs(self._reader.model) or [None]
        if tap in self._reader.outputs:
            model = self._reader.model
            return [named_outputs(model)[tap] if _graph_outputs(model) else None]
        return [self._reader.taps[tap][0]]

    @staticmethod
    def _by_graph(output: Any) -> str | None:
        if isinstance(output, keras.KerasTensor):
            return _of_tensor(output, {})
        if output is None:
            return None
        calls = calls_of(output)
        return _of_operation(output, calls[0].inputs if len(calls) == 1 else [], {})

    def _by_values(self, tap: str | None) -> str | None:
        trial = self._trial()
        if trial is None:
            return None
        inputs, outputs = trial
        first = _values(outputs, tap)
        head = _of_values(first)
        if head in (None, LOGITS):
            return head
        # Probabilities stay probabilities with any weights; small numbers do not stay small.
        moved = False
        for weights in trials.other_weights(self._reader.model):
            others = trials.outputs_for(self._reader, inputs, weights)
            values = None if others is None else _values(others, tap)
            other = None if values is None else _of_values(values)
            if other == LOGITS:
                return LOGITS
            if other is not None:
                head = SIGMOID if other == SIGMOID else head
                moved = moved or not np.allclose(np.asarray(first), np.asarray(values))
        constant = np.ptp(np.asarray(first)) == 0
        return LOGITS if head == SIGMOID and constant and not moved else head


def of_model(model: keras.Model, tap: str | None = None) -> Heads:
    """Returns what tells about a model's output, or one tap of it."""
    return Heads(TapReader(model, [] if tap is None else [tap]), checks.input_specs(model))


def require_logits(model: keras.Model, role: str, *, plain_numbers: bool = False) -> None:
    """Raises if a model gives probabilities where logits are needed; see `Heads`."""
    of_model(model).require_logits(model, role, plain_numbers=plain_numbers)


def compares_plain_numbers(loss: Any) -> bool:
    """Returns whether a loss on outputs takes them as they are: logits or a regression's."""
    return getattr(loss, "least_classes", 2) == 1 and not hasattr(loss, "temperature")


def _copied_by(model: keras.Model, role: str, tap: str | None) -> str:
    """Returns the advice of a copy that gives logits; `""` where there is none."""
    is_one = tap is None and len(_graph_outputs(model)) == 1
    return f"mr.models.as_logits({role}) is a copy that gives them. " if is_one else ""


# By the graph


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
        outputs = _graph_outputs(operation)
        if outputs:
            seen[id(tensor)] = _of_tensor(outputs[index], seen)
        else:
            inputs = calls_of(operation)[call].inputs
            seen[id(tensor)] = _of_operation(operation, inputs, seen)
    return seen[id(tensor)]


def _graph_outputs(operation: Any) -> list[Any]:
    """Returns the symbolic outputs of a model that runs its graph; none where it has no graph."""
    if not isinstance(operation, keras.Model) or defined_by_user(operation, "call"):
        return []
    return list(getattr(operation, "outputs", None) or [])


def _of_operation(operation: Any, inputs: list[Any], seen: dict[int, str | None]) -> str | None:
    """Returns what an operation gives for sure, or `None`."""
    kind = type(operation)
    if kind in _operations():
        return _operations()[kind]
    if kind in _WITH_ACTIVATION:
        return _of_activation(operation.activation)
    if kind in _OF_ONE_LAYER:
        return _of_operation(operation.layer, inputs, seen)
    outputs = _graph_outputs(operation)
    if len(outputs) == 1:
        return _of_tensor(outputs[0], seen)
    if kind is _layers.Activation and operation.activation is not _activations.linear:
        return _of_activation(operation.activation)
    if kind in _PASSES_ON or kind is _layers.Activation:
        return _of_tensor(inputs[0], seen) if len(inputs) == 1 else None
    if kind in _AVERAGES or kind in _SUMS:
        return LOGITS if any(_of_tensor(one, seen) == LOGITS for one in inputs) else None
    if kind is _layers.Concatenate and inputs:
        return LOGITS if all(_of_tensor(one, seen) == LOGITS for one in inputs) else None
    return None


def _of_activation(activation: Any) -> str | None:
    return next((head for known, head in _OF_ACTIVATION if activation is known), None)


# By values


def _values(outputs: Any, tap: str | None) -> np.ndarray | None:
    """Returns what was put out as rows, (rows, classes), float64; of several outputs all."""
    given = outputs.logits if tap is None else outputs.features[tap]
    leaves = [keras.ops.convert_to_numpy(keras.ops.cast(one, "float32")) for one in _leaves(given)]
    if len({leaf.shape[-1:] for leaf in leaves}) != 1 or leaves[0].ndim < 2:
        return None
    rows = np.concatenate([leaf.reshape(-1, leaf.shape[-1]) for leaf in leaves])
    return rows.astype("float64")


def _leaves(given: Any) -> list[Any]:
    return list(given.values()) if isinstance(given, Mapping) else keras.tree.flatten(given)


def _of_values(rows: np.ndarray | None) -> str | None:
    """Returns what rows are; those with NaN, of a model that overflowed, say nothing."""
    if rows is None:
        return None
    rows = rows[~np.isnan(rows).any(axis=1)]
    if not rows.size:
        return None
    if rows.min() < -1e-5 or rows.max() > 1.0 + 1e-3:
        return LOGITS
    return SOFTMAX if (np.abs(rows.sum(axis=1) - 1.0) <= _TOLERANCE).all() else SIGMOID


# What mends it


def _remedy(model: keras.Model, name: str, tap: str | None, found: str) -> str:
    """Returns the end of a sentence that names the call which gives a model's logits."""
    name = name if name.isidentifier() else "model"
    outputs, named = _graph_outputs(model), named_outputs(model)
    tensor = named.get(tap) if tap is not None else outputs and len(outputs) == 1 and outputs[0]
    path = _path(tensor, name) if isinstance(tensor, keras.KerasTensor) else None
    if path is not None:
        return f"the weights stay with {path}.activation = keras.activations.linear"
    if tap is not None and tap not in named:
        return f"read a tap before {tap!r}, where there are logits"
    specs = checks.input_specs(model)
    if isinstance(model, keras.Sequential) and outputs:
        inputs, given = f"{name}.inputs[0]", f"{name}.outputs[0]"
    elif outputs:
        inputs, given = f"{name}.input", f"{name}.output"
        given += "" if tap is None else f"[{tap!r}]"
    else:
        inputs, given = _new_inputs(specs), f"{name}(inputs)"
    logits = {
        SOFTMAX: "keras.ops.log(keras.ops.maximum(p, 1e-7))",
        SIGMOID: "-keras.ops.log(1 / keras.ops.clip(p, 1e-6, 1 - 1e-6) - 1)",
    }[found]
    of_all = "z" if tap is None else f"{{**{name}.output, {tap!r}: z}}"
    return (
        f"the logits are inputs = {inputs}; p = {given}; z = {logits}; "
        f"{name} = keras.Model(inputs, {of_all})"
    )


def _new_inputs(specs: Any) -> str:
    """Returns the expression of new symbolic inputs."""
    if isinstance(specs, Mapping):
        return "{" + ", ".join(f"{key!r}: {_new_inputs(one)}" for key, one in specs.items()) + "}"
    if isinstance(specs, (list, tuple)):
        return "[" + ", ".join(map(_new_inputs, specs)) + "]"
    return f"keras.Input({tuple(specs.shape[1:])})"


def _path(tensor: Any, name: str) -> str | None:
    """Returns the expression of the layer whose activation gives a tensor, if there is one."""
    operation, call, index = history_of(tensor)
    if isinstance(operation, keras.Model):
        outputs = _graph_outputs(operation)
        name = f"{name}.get_layer({operation.name!r})"
        return _path(outputs[index], name) if outputs else None
    own = f"{name}.get_layer({operation.name!r})"
    if type(operation) in _OF_ONE_LAYER:
        operation, own = operation.layer, f"{own}.layer"
    has_activation = type(operation) in _WITH_ACTIVATION or type(operation) is _layers.Activation
    if has_activation and operation.activation is not _activations.linear:
        return own
    inputs = calls_of(operation)[call].inputs
    passes_on = type(operation) in _PASSES_ON or type(operation) is _layers.Activation
    return _path(inputs[0], name) if passes_on and len(inputs) == 1 else None
