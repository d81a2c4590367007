"""Integer layers: what int8 files compute in integers, and in which ranges the results lie."""

import functools
from typing import Any

import keras
from keras import layers, ops

from modreduce_keras.keras_internals import layers_of_convnext, operation_of
from modreduce_keras.models.gain import Gain
from modreduce_keras.models.integer_normalizations import NORMALIZATIONS, SumOfSquares

KERNEL_LAYERS = (
    layers.Conv1D,
    layers.Conv2D,
    layers.Conv2DTranspose,
    layers.Dense,
    layers.DepthwiseConv1D,
    layers.DepthwiseConv2D,
)
SPLIT = (layers.SeparableConv2D, *NORMALIZATIONS, layers_of_convnext().scale)
"""Layers of two operations."""
AFFINE = (Gain, layers.BatchNormalization, layers.Normalization, layers.Rescaling)
"""Layers that multiply each channel by a constant and add another."""
MEASURED = (
    layers.Add,
    layers.Concatenate,
    layers.GlobalAveragePooling1D,
    layers.GlobalAveragePooling2D,
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
    *NOTHING_IN_INFERENCE,
)
"""Layers whose outputs have the range of their inputs."""
CHAINED = (layers.Add, layers.Multiply)
"""Layers of any number of inputs, of which an int8 file takes two at a time."""
_ACTIVATIONS = (layers.Activation, layers.ReLU, layers.Softmax)

DIVISIONS = ("Divide", "TrueDivide")
PASSED_FUNCTIONS = ("ExpandDims", "Reshape", "Split", "Squeeze", "Transpose")
MEASURED_FUNCTIONS = ("Add", "Mean", "Multiply", "Subtract")
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
_SPLIT_ACTIVATIONS = ("silu",)


def require_known(layer: keras.Operation) -> None:
    """Raises a `ValueError` unless an int8 file computes layers of a kind in integers."""
    kind = type(layer)
    if isinstance(layer, keras.Model):
        if not getattr(layer, "inputs", None):
            raise unknown(layer, "and is a model whose layers cannot be rebuilt")
        return
    if not isinstance(layer, layers.Layer):
        known = sorted(functions())
        if function_of(layer) is None:
            raise unknown(layer, f"a function of keras.ops, which is not one of {known}")
        return
    kinds = (*KERNEL_LAYERS, *SPLIT, *AFFINE, *MEASURED, *POOLED, *PASSED, *_ACTIVATIONS)
    if kind not in (*kinds, layers.InputLayer):
        raise unknown(layer, f"which is not one of {sorted(one.__name__ for one in kinds)}")
    if kind is layers.UpSampling2D and layer.interpolation not in ("nearest", "bilinear"):
        raise unknown(layer, f"with interpolation={layer.interpolation!r}, not nearest or bilinear")
    known = sorted({*FUSED, *MEASURED_ACTIVATIONS, *FIXED, *_SPLIT_ACTIVATIONS})
    activation = activation_of(layer)
    if activation not in known:
        raise unknown(layer, f"with an activation that is not one of {known}: {activation!r}")


def activation_of(layer: keras.Operation) -> str:
    """Returns the name of what a layer does last to each number."""
    if type(layer) is layers.ReLU:
        if layer.negative_slope or layer.threshold or layer.max_value not in (None, 6):
            return f"relu of {layer.get_config()}"
        return "relu" if layer.max_value is None else "relu6"
    if type(layer) is layers.Softmax:
        return "softmax" if layer.axis == -1 else f"softmax along axis {layer.axis}"
    activation = getattr(layer, "activation", None)
    return "linear" if activation is None else str(keras.activations.serialize(activation))


def function_of(operation: keras.Operation) -> str | None:
    """Returns the name of a function of `keras.ops` that int8 files compute, by its class."""
    return next((name for name, kind in functions().items() if type(operation) is kind), None)


@functools.cache
def functions() -> dict[str, type]:
    """Returns the classes of operations by name, those of `keras.ops` that are known here."""
    given = keras.KerasTensor((None, 2, 2))
    made = {
        "Add": given + given,
        "Divide": ops.divide(given, given),
        "ExpandDims": ops.expand_dims(given, 1),
        "Mean": ops.mean(given, 1),
        "Multiply": given * given,
        "Reshape": ops.reshape(given, (-1, 4)),
        "Split": ops.split(given, 2)[0],
        "Squeeze": ops.squeeze(keras.KerasTensor((None, 1)), 1),
        "Subtract": given - given,
        "Transpose": ops.transpose(given),
        "TrueDivide": given / given,
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
