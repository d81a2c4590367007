"""Primitive functions: what int8 files compute as one operation, for functions and activations."""

from typing import Any

import keras
import numpy as np
from keras import layers, ops

from modreduce_keras.keras_internals import arguments_of, calls_of, readers_of
from modreduce_keras.models.clones import rebuilt
from modreduce_keras.models.integer_layers import (
    ACTIVATION_FUNCTIONS,
    DIVISIONS,
    function_of,
    functions,
    is_constant,
    traced_activation,
    unknown,
)
from modreduce_keras.models.integer_products import einsum_part
from modreduce_keras.models.masked_scores import MaskedScores, MaskedToZero
from modreduce_keras.models.splitting import Part

_LARGEST_POOLS = (
    layers.GlobalMaxPooling1D,
    layers.GlobalMaxPooling2D,
    layers.MaxPooling1D,
    layers.MaxPooling2D,
)


def function_part(operation: keras.Operation) -> Part:
    """Returns what stands for a function of `keras.ops`.

    Raises:
        ValueError: If int8 files do not compute it.
    """
    name = function_of(operation)
    if name in DIVISIONS:
        return _product(operation)
    if name == "Silu":
        return silu_part(operation)
    if name in ACTIVATION_FUNCTIONS:
        return _ignoring_others(layers.Activation(ACTIVATION_FUNCTIONS[name], name=operation.name))
    if name in ("Cast", "ConvertToTensor"):
        return _cast(operation)
    if name == "Concatenate":
        return _ignoring_others(layers.Concatenate(operation.axis, name=operation.name))
    if name == "Softmax":
        return _softmax(operation)
    if name == "Einsum":
        return _einsum(operation)
    if name == "Pad":
        _require_known_padding(operation)
    return rebuilt(operation)


def silu_part(layer: keras.Operation) -> Part:
    """Returns SiLU: a sigmoid, then a product."""
    dtype = getattr(layer, "dtype_policy", None)
    gate = layers.Activation("sigmoid", name=f"{layer.name}_sigmoid", dtype=dtype)
    product = layers.Multiply(name=layer.name, dtype=dtype)
    return lambda inputs, **_: product([inputs, gate(inputs)])


def activation_part(layer: keras.layers.Layer) -> Part:
    """Returns what stands for an activation that is one function of `keras.ops`."""
    operation: Any = traced_activation(layer)
    operation.name = layer.name
    return _ignoring_others(function_part(operation))


def softmax_part(layer: layers.Softmax) -> Part:
    """Returns what stands for a softmax, whose scores may be masked."""
    softmax = layers.Softmax(name=layer.name, dtype=layer.dtype_policy)
    masks = [one for args, kwargs in arguments_of(layer) for one in (*args[1:], kwargs.get("mask"))]
    if all(one is None for one in masks):
        return lambda inputs, **_: softmax(inputs)
    softmax.name = f"{layer.name}_filled"
    scores = MaskedScores(name=f"{layer.name}_scores", dtype=layer.dtype_policy)
    zeros = MaskedToZero(name=layer.name, dtype=layer.dtype_policy)
    return lambda inputs, mask: zeros([softmax(scores([inputs, mask])), mask])


def _ignoring_others(part: Part) -> Part:
    return lambda inputs, **_: part(inputs)


def _cast(operation: keras.Operation) -> Part:
    call = calls_of(operation)[-1]
    given, made = call.inputs[0].dtype, call.outputs[0].dtype
    if "float" in made and "float" not in given:
        raise unknown(operation, f"from {given} to {made}: give the student floats")
    return rebuilt(operation) if given != made else lambda x, **_: x


def _softmax(operation: keras.Operation) -> Part:
    axis, rank = operation.axis, len(calls_of(operation)[-1].outputs[0].shape)
    if axis not in (-1, rank - 1):
        raise unknown(operation, f"along axis {axis}, which is not the last one")
    return _ignoring_others(layers.Softmax(name=operation.name))


def _einsum(operation: keras.Operation) -> Part:
    part = einsum_part(operation.subscripts)
    if part is None:
        raise unknown(operation, f"{operation.subscripts!r}, which is no product of matrices")
    return part


def _require_known_padding(operation: keras.Operation) -> None:
    """Raises unless a padding is of zeros, or of what no maximum is."""
    constants = [
        one
        for args, kwargs in arguments_of(operation)
        for one in (*args[1:], *kwargs.values())
        if isinstance(one, (int, float)) and not isinstance(one, bool)
    ]
    held = getattr(operation, "constant_values", None)
    values = {float(one) for one in [*constants, 0.0 if held is None else held]}
    pooled = [type(call.operation) in _LARGEST_POOLS for call in readers_of(operation)]
    is_low = all(one < -1e8 or one == 0.0 for one in values) and bool(pooled) and all(pooled)
    if operation.mode != "constant" or not (values == {0.0} or is_low):
        raise unknown(
            operation,
            f"mode={operation.mode!r} with {sorted(values)}, and not with zeros, or with -inf "
            "before a max pooling",
        )


def _product(division: keras.Operation) -> Part:
    product = functions()["Multiply"](name=division.name)

    def part(x1: Any, x2: Any) -> Any:
        if not is_constant(x2):
            raise unknown(division, "by what the student computes: integers have no division")
        return product(x1, 1.0 / np.asarray(ops.convert_to_numpy(x2), "float32"))

    return part
