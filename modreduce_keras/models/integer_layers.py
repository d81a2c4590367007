"""Integer layers: what int8 files compute in integers, and in which ranges the results lie."""

import functools
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from modreduce_keras.keras_internals import calls_of, layers_of_convnext, operation_of
from modreduce_keras.models.gain import Gain
from modreduce_keras.models.held_weights import HeldWeight, OnlyInTraining, Repeated
from modreduce_keras.models.integer_normalizations import NORMALIZATIONS, SumOfSquares
from modreduce_keras.models.masked_scores import MaskedScores, MaskedToZero

KERNEL_LAYERS = (
    layers.Conv1D,
    layers.Conv2D,
    layers.Conv2DTranspose,
    layers.Dense,
    layers.DepthwiseConv1D,
    layers.DepthwiseConv2D,
)
SPLIT = (
    layers.EinsumDense,
    layers.SeparableConv2D,
    *NORMALIZATIONS,
    layers_of_convnext().scale,
)
"""Layers of two operations."""
AFFINE = (Gain, layers.BatchNormalization, layers.Normalization, layers.Rescaling)
"""Layers that multiply each channel by a constant and add another."""
MEASURED = (
    layers.Add,
    layers.Concatenate,
    layers.GlobalAveragePooling1D,
    layers.GlobalAveragePooling2D,
    HeldWeight,
    layers.LeakyReLU,
    layers.Multiply,
    layers.Subtract,
    SumOfSquares,
)
"""Layers that compute: the range of what they give is measured."""
POOLED = (layers.AveragePooling1D, layers.AveragePooling2D)
"""Layers whose outputs are rounded in the range of their inputs."""
_AUGMENTATIONS = tuple(
    getattr(layers, name)
    for name in dir(layers)
    if (name.startswith("Rand") and name != "RandomCrop") or name == "AugMix"
)
"""Layers that give their inputs in inference."""
NOTHING_IN_INFERENCE = (
    layers.ActivityRegularization,
    layers.AlphaDropout,
    layers.Dropout,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.Identity,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers_of_convnext().depth,
    OnlyInTraining,
    *_AUGMENTATIONS,
)
"""Layers that are not in a file."""
PASSED = (
    layers.Cropping1D,
    layers.Cropping2D,
    layers.Flatten,
    layers.GlobalMaxPooling1D,
    layers.GlobalMaxPooling2D,
    layers.MaxPooling1D,
    layers.MaxPooling2D,
    layers.Permute,
    layers.RepeatVector,
    layers.Reshape,
    layers.UpSampling1D,
    layers.UpSampling2D,
    layers.ZeroPadding1D,
    layers.ZeroPadding2D,
    MaskedScores,
    MaskedToZero,
    Repeated,
    *NOTHING_IN_INFERENCE,
)
"""Layers whose outputs have the range of their first input, or one that they set themselves."""
CHAINED = (layers.Add, layers.Multiply)
"""Layers of any number of inputs, of which an int8 file takes two at a time."""
_ACTIVATIONS = (layers.Activation, layers.ReLU, layers.Softmax)

DIVISIONS = ("Divide", "TrueDivide")
PASSED_FUNCTIONS = (
    *("ExpandDims", "GetItem", "Moveaxis", "Pad", "Reshape", "Roll", "Slice", "Split"),
    *("Squeeze", "SwapAxes", "Take", "Transpose", "Unstack"),
)
MEASURED_FUNCTIONS = ("Add", "Gelu", "Matmul", "Mean", "Multiply", "Subtract")
"""Of `keras.ops`, as classes of operations."""
ACTIVATION_FUNCTIONS = {
    "HardSigmoid": "hard_sigmoid",
    "HardSilu": "hard_silu",
    "Relu": "relu",
    "Relu6": "relu6",
    "Sigmoid": "sigmoid",
    "Silu": "silu",
    "Tanh": "tanh",
}
"""The same that are activations, and their names."""

FUSED = ("linear", "relu", "relu6")
"""Activations that run as one operation with the layer before them."""
MEASURED_ACTIVATIONS = ("gelu", "hard_silu", "leaky_relu")
FIXED = {
    "hard_sigmoid": (0.0, 1.0),
    "sigmoid": (0.0, 255 / 256),
    "softmax": (0.0, 255 / 256),
    "tanh": (-1.0, 127 / 128),
}
"""Activations whose results TFLite stores in a range of its own, or that end where one does."""
ACTIVATIONS = sorted({*FUSED, *MEASURED_ACTIVATIONS, *FIXED, "silu"})
"""All that are known."""


def require_known(layer: keras.Operation) -> None:
    """Raises a `ValueError` unless an int8 file computes layers of a kind in integers."""
    kind = type(layer)
    if isinstance(layer, keras.Model):
        if not getattr(layer, "inputs", None):
            raise unknown(layer, "and is a model whose layers cannot be rebuilt")
        return
    if not isinstance(layer, layers.Layer):
        known = sorted(functions())
        if function_of(layer) is None and gives_floats(layer):
            raise unknown(layer, f"a function of keras.ops, which is not one of {known}")
        return
    kinds = (*KERNEL_LAYERS, *SPLIT, *AFFINE, *MEASURED, *POOLED, *PASSED, *_ACTIVATIONS)
    if kind not in (*kinds, layers.InputLayer):
        raise unknown(layer, f"which is not one of {sorted(one.__name__ for one in kinds)}")
    if kind is layers.UpSampling2D and layer.interpolation not in ("nearest", "bilinear"):
        raise unknown(layer, f"with interpolation={layer.interpolation!r}, not nearest or bilinear")
    if activation_of(layer) not in ACTIVATIONS and traced_activation(layer) is None:
        raise unknown(
            layer,
            f"with an activation that is not one of {ACTIVATIONS}: {activation_of(layer)!r}",
        )


def activation_of(layer: keras.Operation) -> str:
    """Returns the name of what a layer does last to each number."""
    if type(layer) is layers.ReLU:
        if layer.negative_slope or layer.threshold or layer.max_value not in (None, 6):
            return f"relu of {layer.get_config()}"
        return "relu" if layer.max_value is None else "relu6"
    if type(layer) is layers.Softmax:
        axis = layer.axis[0] if np.ndim(layer.axis) and len(layer.axis) == 1 else layer.axis
        is_last = axis == -1 or axis == len(calls_of(layer)[0].outputs[0].shape) - 1
        return "softmax" if is_last else f"softmax along axis {layer.axis}"
    activation = getattr(layer, "activation", None)
    return "linear" if activation is None else str(keras.activations.serialize(activation))


def traced_activation(layer: keras.layers.Layer) -> keras.Operation | None:
    """Returns the function of `keras.ops` that a layer's activation is, if it is a known one."""
    activation: Any = getattr(layer, "activation", None)
    given = keras.KerasTensor((None, 2))
    try:
        result = activation(given)
    except Exception:  # what it raises on symbolic inputs may be anything
        return None
    operation = operation_of(result) if isinstance(result, keras.KerasTensor) else None
    is_one = operation is not None and calls_of(operation)[0].inputs == [given]
    return operation if is_one and function_of(operation) is not None else None


def gives_floats(operation: keras.Operation) -> bool:
    """Returns whether an operation of a model gives floats, and not only integers or masks."""
    return any("float" in one.dtype for call in calls_of(operation) for one in call.outputs)


def function_of(operation: keras.Operation) -> str | None:
    """Returns the name of a function of `keras.ops` that int8 files compute, by its class."""
    return next((name for name, kind in functions().items() if type(operation) is kind), None)


@functools.cache
def functions() -> dict[str, type]:
    """Returns the classes of operations by name, those of `keras.ops` that are known here."""
    given = keras.KerasTensor((None, 2, 2))
    made = {
        "Add": given + given,
        "Cast": ops.cast(given, "float16"),
        "Concatenate": ops.concatenate([given, given]),
        "ConvertToTensor": ops.convert_to_tensor(given, "float16"),
        "Divide": ops.divide(given, given),
        "Einsum": ops.einsum("abc,acd->abd", given, given),
        "ExpandDims": ops.expand_dims(given, 1),
        "Gelu": ops.gelu(given),
        "GetItem": given[:, 0],
        "Matmul": ops.matmul(given, given),
        "Mean": ops.mean(given, 1),
        "Moveaxis": ops.moveaxis(given, 1, 2),
        "Multiply": given * given,
        "Pad": ops.pad(given, 1),
        "Reshape": ops.reshape(given, (-1, 4)),
        "Roll": ops.roll(given, 1, axis=1),
        "Slice": ops.slice(keras.KerasTensor((2, 2)), (0, 0), (1, 1)),
        "Softmax": ops.softmax(given),
        "Split": ops.split(given, 2, axis=1)[0],
        "Squeeze": ops.squeeze(keras.KerasTensor((None, 1)), 1),
        "Subtract": given - given,
        "SwapAxes": ops.swapaxes(given, 1, 2),
        "Take": ops.take(given, np.zeros(1, "int32"), axis=1),
        "Transpose": ops.transpose(given),
        "TrueDivide": given / given,
        "Unstack": ops.unstack(given, axis=1)[0],
        **{name: getattr(ops, one)(given) for name, one in ACTIVATION_FUNCTIONS.items()},
    }
    return {name: type(operation_of(tensor)) for name, tensor in made.items()}


def unknown(layer: keras.Operation, problem: str) -> ValueError:
    """Returns the error that a student has a layer which int8 files do not compute."""
    return ValueError(
        "student must be made of layers that int8 files can compute. Received: the layer "
        f"{layer.name!r} of type {type(layer).__name__}, {problem}. Quantize such a student after "
        "training: mr.export.to_tflite(student, path, quantization='int8', representative=x)"
    )


def is_constant(argument: Any) -> bool:
    """Returns whether an argument of a call is a number or an array, and no layer's result."""
    return not isinstance(argument, keras.KerasTensor)
