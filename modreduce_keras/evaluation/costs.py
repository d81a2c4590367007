"""Costs: how many multiplications with an addition a network needs."""

import math
from typing import Any

import keras
from keras import layers

from modreduce_keras.distillers import checks
from modreduce_keras.keras_internals import flatten_layers
from modreduce_keras.models.graph import input_specs
from modreduce_keras.recording import recording
from modreduce_keras.symbolic import output_spec
from modreduce_keras.typing import Tensor

_CONVOLUTIONS = (layers.Conv1D, layers.Conv2D, layers.Conv3D)
_DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
_SEPARABLE = (layers.SeparableConv1D, layers.SeparableConv2D)


def multiply_adds(model: keras.Model) -> int:
    """Returns the number of multiply-adds of a network for one sample.

    convolution, dense: positions of the output × entries of the kernel

    A layer that runs several times counts each time. Left out is what has no kernel and costs
    little: biases, normalization, activations, pooling, additions and other operations between
    tensors, look-ups (`Embedding`).

    Args:
        model: A built Keras model of any kind, for inputs of a known size.

    Returns:
        The number, for `Dense`, `Conv1D` to `Conv3D`, `DepthwiseConv1D`, `DepthwiseConv2D`,
        `SeparableConv1D` and `SeparableConv2D`.

    Raises:
        ValueError: If the model is not built, a layer of another kind has a kernel, or the size of
            an output is not known.

    Example:
        >>> import modreduce_keras as mr
        >>> multiply_adds(mr.models.convnet(num_classes=10, widths=(4, 8), input_shape=(8, 8, 1)))
        1808

    That is 4·4 positions × 3·3·1·4, 2·2 positions × 3·3·4·8, and 8·10.
    """
    counter = _Counter(model)
    output_spec(counter, counter.specs)
    return sum(
        _of_one_run(layer, shape)
        for layer, shapes in zip(counter.leaves, counter.shapes, strict=True)
        for shape in shapes
    )


class _Counter(keras.layers.Layer):
    """Runs a model symbolically and notes the shape of what each layer returns at each run."""

    def __init__(self, model: keras.Model) -> None:
        super().__init__(dtype="float32", autocast=False)
        checks.require_model(model, "model")
        self.specs = input_specs(model)
        if self.specs is None:
            raise ValueError(
                f"The model {model.name!r} must be built: start it with keras.Input(shape), or "
                "call it once on a batch."
            )
        self.model = model
        inside = flatten_layers(model, include_self=False)
        self.leaves = [one for one in inside if _is_leaf(one)]
        self.shapes: list[list[tuple]] = []

    def call(self, inputs: Any) -> Tensor:
        with recording(self.leaves) as recorded:
            outputs = self.model(inputs, training=False)
        self.shapes = [
            [
                tuple(output.shape)
                for record in recorded.calls_of(leaf)
                for output in keras.tree.flatten(record.output)
            ]
            for leaf in self.leaves
        ]
        return outputs


def _is_leaf(layer: keras.layers.Layer) -> bool:
    return not list(flatten_layers(layer, include_self=False))


def _of_one_run(layer: keras.layers.Layer, shape: tuple) -> int:
    """Returns the multiply-adds of a layer without layers inside, by the shape of its output."""
    if isinstance(layer, layers.Dense):
        kernels, channels = [layer.kernel], layer.units
    elif isinstance(layer, _CONVOLUTIONS):
        kernels, channels = [layer.kernel], layer.filters
    elif isinstance(layer, _SEPARABLE):
        kernels, channels = [layer.depthwise_kernel, layer.pointwise_kernel], layer.filters
    elif isinstance(layer, _DEPTHWISE):
        kernels, channels = [layer.kernel], math.prod(layer.kernel.shape[-2:])
    elif isinstance(layer, layers.Embedding) or all(len(w.shape) < 2 for w in layer.weights):
        return 0
    else:
        raise ValueError(
            "multiply_adds counts dense layers and convolutions (plain, depthwise, separable). "
            f"Received: layer {layer.name!r} of class {type(layer).__name__}, which has weights "
            f"of shape {[tuple(weight.shape) for weight in layer.weights]}"
        )
    if None in shape[1:]:
        raise ValueError(
            "multiply_adds needs inputs of a known size. Received: layer "
            f"{layer.name!r} with output of shape {shape}"
        )
    positions = math.prod(shape[1:]) // channels
    return positions * sum(math.prod(kernel.shape) for kernel in kernels)
