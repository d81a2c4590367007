"""Integer biases: what int8 files round of what a layer adds, since integers are added to sums.

A file adds a bias to sums of products of integers, as a multiple of the step of the inputs times
that of the weights. That is far less than a step of the outputs. But it is the same for whatever a
network is given, and in deep ones adds up.
"""

from typing import Any

import keras
from keras import layers, ops

from modreduce_keras.keras_internals import calls_of, history_of, operation_of, readers_of
from modreduce_keras.models.affine import constants_of
from modreduce_keras.models.gain import Gain
from modreduce_keras.models.integer_layers import (
    AFFINE,
    FUSED,
    NOTHING_IN_INFERENCE,
    PASSED,
    PASSED_FUNCTIONS,
    activation_of,
    function_of,
)
from modreduce_keras.models.integer_normalizations import SumOfSquares

CELL_LEVELS = 127
"""Weights are stored in int8, symmetric: -127 to 127."""
_LEVELS = 255
_LEAST = 1e-30
"""A step that is none."""


def shift_of_kernel(layer: Any, largest: Any) -> Any:
    """Returns what rounding adds to the bias of a convolution or dense layer, float32.

    The bias of a batch normalization that follows is the one that the file folds into the layer.

    Args:
        layer: A `FakeQuantizedKernel` of a functional model.
        largest: Of its weights, (outputs,).

    Returns:
        (outputs,), before the normalization, or `None` where there is no bias, or it is not known
        how the inputs are rounded, as while ranges are measured.
    """
    found = _range_before(layer)
    normalizations = _normalizations_after(layer)
    if found is None or len(normalizations) > 1 or getattr(found, "is_calibrating", False):
        return None
    plain = layer.plain
    if not plain.use_bias and not normalizations:
        return None
    bias = ops.cast(plain.bias, "float32") if plain.use_bias else 0.0
    for normalization in normalizations:
        scale, offset = _scale_and_offset(normalization)
        bias = bias + offset / scale
    return _shift(bias, _step(found) * largest / CELL_LEVELS)


def affine_before(quantizer: keras.layers.Layer) -> keras.layers.Layer | None:
    """Returns what multiplies and adds to each channel before a rounding, if there is such a layer.

    Args:
        quantizer: A rounding in a functional model.
    """
    source = _source(quantizer) if calls_of(quantizer) else None
    if isinstance(source, (layers.Activation, layers.ReLU)) and activation_of(source) in FUSED:
        source = _source(source)
    return source if type(source) in AFFINE else None


def _source(operation: keras.Operation) -> keras.Operation:
    """Returns what an operation is first given the result of, in a file."""
    source = operation_of(calls_of(operation)[0].inputs[0])
    return _source(source) if type(source) in NOTHING_IN_INFERENCE else source


def shift_of_affine(layer: keras.layers.Layer) -> Any:
    """Returns what rounding adds to the results of a layer that multiplies and adds, float32.

    Args:
        layer: A normalization or rescaling in a functional model.

    Returns:
        (channels,), or `None` where it is not known how the inputs are rounded, or the layer is
        folded into the one before it.
    """
    found = _range_before(layer)
    if found is None or getattr(layer, "axis", -1) not in _last_axes(layer):
        return None
    scale, offset = _scale_and_offset(layer)
    return _shift(offset, _step(found) * ops.abs(scale) / CELL_LEVELS)


def step_of_products(quantizer: keras.layers.Layer) -> Any:
    """Returns how far apart the sums of products are that a rounding is given, float32.

    Args:
        quantizer: A rounding in a functional model.

    Returns:
        A number, or `None` where a matrix product of two tensors is not what is rounded.
    """
    source = _source(quantizer) if calls_of(quantizer) else None
    is_sum = type(source) is SumOfSquares
    if not is_sum and function_of(source) != "Matmul":
        return None
    given = calls_of(source)[0].inputs
    found = [_range_of(one) for one in given]
    if not given or None in found or any(getattr(one, "is_calibrating", False) for one in found):
        return None
    steps = [_step(one) for one in found]
    return steps[0] * steps[0] if is_sum else steps[0] * steps[1] if len(steps) == 2 else None


def _last_axes(layer: keras.layers.Layer) -> Any:
    """Returns how a layer may call its last axis alone."""
    last = len(layer.output.shape) - 1
    return -1, last, (-1,), (last,), [-1], [last]


def _shift(bias: Any, step: Any) -> Any:
    shift = ops.round(bias / ops.maximum(step, _LEAST)) * step - bias
    is_known = ops.logical_and(step > _LEAST, ops.isfinite(shift))
    return ops.stop_gradient(ops.where(is_known, shift, ops.zeros_like(shift)))


def _range_before(layer: keras.Operation) -> Any:
    """Returns the rounding of what a layer is given; `None` if it has none, or has several."""
    # Keras calls layers anew for a model that begins in the middle of another one.
    found = {id(one): one for one in (_range_of(call.inputs[0]) for call in calls_of(layer))}
    found.pop(id(None), None)
    return next(iter(found.values())) if len(found) == 1 else None


def _range_of(tensor: keras.KerasTensor) -> Any:
    """Returns the rounding in whose range a symbolic tensor is, or `None`."""
    while True:
        operation, call, output = history_of(tensor)
        if _is_range(operation):
            return operation
        if isinstance(operation, keras.Model):
            tensor = operation.outputs[output]
        elif type(operation) in PASSED or function_of(operation) in PASSED_FUNCTIONS:
            tensor = calls_of(operation)[call].inputs[0]
        else:
            return None


def _is_range(operation: keras.Operation) -> bool:
    return getattr(operation, "is_range", False)


def _normalizations_after(layer: keras.Operation) -> list[Any]:
    """Returns the batch normalizations that read a layer, which is not rounded before."""
    readers = {id(call.operation): call.operation for call in readers_of(layer)}.values()
    if any(_is_range(one) for one in readers):
        return []
    return [one for one in readers if type(one) is layers.BatchNormalization]


def _scale_and_offset(layer: keras.layers.Layer) -> tuple[Any, Any]:
    """Returns what a layer multiplies by in inference and adds, from its weights as they are."""
    if type(layer) is Gain:
        return tuple(ops.cast(one, "float32") for one in layer.constants())
    if type(layer) is not layers.BatchNormalization:
        scale, offset = constants_of(layer) or (1.0, 0.0)
        return ops.cast(scale, "float32"), ops.cast(offset, "float32")
    variance = ops.cast(layer.moving_variance, "float32")
    scale = 1.0 / ops.sqrt(variance + layer.epsilon)
    if layer.scale:
        scale = scale * ops.cast(layer.gamma, "float32")
    offset = -ops.cast(layer.moving_mean, "float32") * scale
    if layer.center:
        offset = offset + ops.cast(layer.beta, "float32")
    return scale, offset


def _step(found: keras.layers.Layer) -> Any:
    """Returns how far apart the levels of a rounding are."""
    low, high = (ops.convert_to_tensor(end) for end in (found.minimum, found.maximum))
    return (high - low) / _LEVELS
