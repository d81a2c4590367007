"""Folding: a model for inference alone, its batch normalizations folded away, in any precision."""

import random
from collections.abc import Collection
from typing import Any

import keras
import numpy as np
from keras import ops

from modreduce_keras.arguments import require_choice

DTYPES = ("float32", "bfloat16", "float16")
_KERNELS = {
    "Conv1D": ("kernel", -1),
    "Conv2D": ("kernel", -1),
    "Conv3D": ("kernel", -1),
    "Conv1DTranspose": ("kernel", -2),
    "Conv2DTranspose": ("kernel", -2),
    "Conv3DTranspose": ("kernel", -2),
    "SeparableConv1D": ("pointwise_kernel", -1),
    "SeparableConv2D": ("pointwise_kernel", -1),
    "Dense": ("kernel", -1),
    "DepthwiseConv1D": ("kernel", (-2, -1)),
    "DepthwiseConv2D": ("kernel", (-2, -1)),
}
"""What a normalization that follows is folded into: the kernel, and the axes of its outputs."""


@keras.saving.register_keras_serializable(package="modreduce_keras")
class Affine(keras.layers.Layer):
    """Multiplies by a constant for each channel and adds another: a folded normalization.

    Args:
        axis: Axis of the channels.
        **kwargs: `name` and `dtype`, as for every Keras layer.

    Call arguments:
        inputs: (batch, ..., channels, ...).

    Returns:
        The same shape.
    """

    def __init__(self, axis: int = -1, **kwargs: Any):
        super().__init__(**kwargs)
        self.axis = axis

    def build(self, input_shape):
        """Creates the two constants, from the shape of the inputs."""
        self._broadcast = [1] * len(input_shape)
        self._broadcast[self.axis] = input_shape[self.axis]
        shape = (input_shape[self.axis],)
        self.scale = self.add_weight(shape=shape, initializer="ones", name="scale", trainable=False)
        self.offset = self.add_weight(
            shape=shape, initializer="zeros", name="offset", trainable=False
        )

    def call(self, inputs):
        """Returns the inputs times the scale plus the offset."""
        scale = ops.reshape(ops.convert_to_tensor(self.scale), self._broadcast)
        return inputs * scale + ops.reshape(ops.convert_to_tensor(self.offset), self._broadcast)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        return {**super().get_config(), "axis": self.axis}


def fold(model: keras.Model, *, dtype: str = "float32", taps: Collection[str] = ()) -> keras.Model:
    """Builds a model that computes what a model does in inference, with less work.

    Each batch normalization is folded into the layer before it, where that is a convolution or a
    dense layer of which nothing else is read; elsewhere it becomes one multiplication and one
    addition per channel. The layers keep their names. In a lower precision weights and arithmetic
    are of that dtype; layers that give an output of the model stay in float32.

    The given model is not changed, and later changes of its weights do not reach the result.

    Args:
        model: A functional or a built Sequential model. Others in it may be nested.
        dtype: `"float32"`, the default, `"bfloat16"` or `"float16"`.
        taps: Names of layers whose outputs are to be the given model's.

    Returns:
        A functional or Sequential model for inference (`training=False`).

    Raises:
        ValueError: If the model is neither, the dtype is another one, or a layer cannot be rebuilt
            from its config (Lambda layers and custom ones without `get_config`).

    Example:
        >>> import keras, numpy as np, modreduce_keras as mr
        >>> model = mr.models.get("convnet", num_classes=3, widths=(4, 8))
        >>> folded = mr.models.fold(model)
        >>> images = np.ones((2, 28, 28, 1), "float32")
        >>> bool(np.allclose(folded.predict(images, verbose=0), model(images), atol=1e-5))
        True
        >>> folded.count_params() < model.count_params()
        True
    """
    require_choice("dtype", dtype, DTYPES)
    if not (isinstance(model, keras.Model) and getattr(model, "inputs", None)):
        raise ValueError(
            "model must be a functional or a built Sequential model, whose layers can be taken "
            f"apart. Received: {model!r}"
        )
    # The first weights of the new layers do not matter; nobody else's are to change by them.
    state = random.getstate()
    try:
        return _Folder(dtype, set(taps)).fold(model, is_output=True)
    finally:
        random.setstate(state)


class _Folder:
    """Rebuilds a model and those nested in it.

    Args:
        dtype: Of the new layers.
        taps: Names of layers that stay as they are.
    """

    def __init__(self, dtype: str, taps: set[str]):
        self._dtype = dtype
        # A tap may be a path, and may say which call is meant.
        self._taps = {tap.partition(":")[0].rpartition("/")[2] for tap in taps}

    def fold(self, model: keras.Model, is_output: bool) -> keras.Model:
        outputs = {tensor._keras_history.operation for tensor in model.outputs}
        pairs = _foldable(model, outputs, self._taps)
        normalizations = {id(normalization): layer for layer, normalization in pairs}
        folded = {id(layer): normalization for layer, normalization in pairs}
        made = {}

        def rebuild(layer):
            if isinstance(layer, keras.Model):
                return self.fold(layer, is_output and layer in outputs)
            dtype = "float32" if is_output and layer in outputs else self._dtype
            if id(layer) in normalizations:
                made[layer.name] = keras.layers.Identity(name=layer.name, dtype=dtype)
                return made[layer.name]
            if type(layer) is keras.layers.BatchNormalization:
                new = Affine(layer.axis, name=layer.name, dtype=dtype)
            else:
                config = _with_dtype(layer.get_config(), dtype)
                if id(layer) in folded:
                    config["use_bias"] = True
                new = type(layer).from_config(config)
            made[layer.name] = new
            return new

        # What stands for a normalization takes nothing but its input.
        inputs = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
        calls = {} if isinstance(model, keras.Sequential) else {"call_function": _call}
        try:
            copy = keras.models.clone_model(
                model, keras.tree.map_structure(_input, inputs), clone_function=rebuild, **calls
            )
        except (TypeError, ValueError, NotImplementedError) as error:
            raise ValueError(
                f"The model {model.name!r} cannot be folded, because a layer cannot be rebuilt "
                f"from its config: {error}"
            ) from error
        for layer in model.layers:
            if layer.name in made and layer.weights and id(layer) not in normalizations:
                made[layer.name].set_weights(_weights(layer, folded.get(id(layer))))
        copy.trainable = False
        return copy


def _input(tensor):
    name = tensor._keras_history.operation.name
    return keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=name)


def _call(layer, *args, **kwargs):
    constant = isinstance(layer, (Affine, keras.layers.Identity))
    return layer(args[0]) if constant else layer(*args, **kwargs)


def _foldable(model, outputs, taps) -> list[tuple[keras.layers.Layer, keras.layers.Layer]]:
    """Returns (layer, normalization) for each pair of which nothing else is read."""
    graph = model._functional if isinstance(model, keras.Sequential) else model
    nodes = {id(node) for level in graph._nodes_by_depth.values() for node in level}
    operations = set(graph.operations)
    pairs = []
    for normalization in model.layers:
        if type(normalization) is not keras.layers.BatchNormalization:
            continue
        own = [node for node in normalization._inbound_nodes if id(node) in nodes]
        if len(own) != 1:
            continue
        layer = own[0].input_tensors[0]._keras_history.operation
        if layer not in operations or type(layer).__name__ not in _KERNELS:
            continue
        runs = [node for node in layer._inbound_nodes if id(node) in nodes]
        readers = [node for node in layer._outbound_nodes if id(node) in nodes]
        read = len(runs) > 1 or len(readers) > 1 or layer in outputs or layer.name in taps
        if not read and _linear(layer) and _same_axis(layer, normalization):
            pairs.append((layer, normalization))
    return pairs


def _linear(layer) -> bool:
    return layer.activation is None or layer.activation is keras.activations.linear


def _same_axis(layer, normalization) -> bool:
    rank = len(layer.output.shape)
    first = getattr(layer, "data_format", "channels_last") == "channels_first"
    return normalization.axis % rank == (1 if first else rank - 1)


def _with_dtype(config: Any, dtype: str) -> Any:
    """Returns a layer's config, and those of layers in it, with another dtype."""
    if isinstance(config, dict):
        return {
            key: dtype if key == "dtype" and _is_policy(value) else _with_dtype(value, dtype)
            for key, value in config.items()
        }
    if isinstance(config, (list, tuple)):
        return type(config)(_with_dtype(value, dtype) for value in config)
    return config


def _is_policy(value: Any) -> bool:
    name = value.get("config", {}).get("name", "") if isinstance(value, dict) else value
    return "float" in str(name)


def _constants(normalization) -> tuple[np.ndarray, np.ndarray]:
    """Returns the scale and the offset of a batch normalization in inference, float64."""
    mean, variance = (
        np.asarray(ops.convert_to_numpy(v), "float64")
        for v in (normalization.moving_mean, normalization.moving_variance)
    )
    scale = 1.0 / np.sqrt(variance + normalization.epsilon)
    if normalization.scale:
        scale *= np.asarray(ops.convert_to_numpy(normalization.gamma), "float64")
    offset = -mean * scale
    if normalization.center:
        offset += np.asarray(ops.convert_to_numpy(normalization.beta), "float64")
    return scale, offset


def _weights(layer, normalization) -> list[np.ndarray]:
    """Returns the weights of a layer's copy, which a normalization may be folded into."""
    if type(layer) is keras.layers.BatchNormalization:
        return list(_constants(layer))
    if normalization is None:
        return layer.get_weights()
    scale, offset = _constants(normalization)
    attribute, axes = _KERNELS[type(layer).__name__]
    kernels, bias = [], offset
    for variable in layer.weights:
        value = np.asarray(ops.convert_to_numpy(variable), "float64")
        if layer.use_bias and variable is layer.bias:
            bias = offset + value * scale
            continue
        if variable is getattr(layer, attribute):
            shape = value.shape[-2:] if isinstance(axes, tuple) else (-1,) + (1,) * (-1 - axes)
            value = value * scale.reshape(shape)
        kernels.append(value)
    return [*kernels, bias]
