"""Primitives: rebuilds a student so that an int8 file computes each layer as one operation."""

from typing import Any

import keras
import numpy as np
from keras import layers, ops

from modreduce_keras.copying import copy_state
from modreduce_keras.models.clones import rebuilt
from modreduce_keras.models.integer_layers import (
    ACTIVATION_FUNCTIONS,
    DIVISIONS,
    FUSED,
    KERNEL_LAYERS,
    activation_of,
    function_of,
    functions,
    is_constant,
    require_known,
    unknown,
)
from modreduce_keras.models.integer_normalizations import (
    NORMALIZATIONS,
    gain_of,
    is_layer_scale,
    normalization_part,
)
from modreduce_keras.models.splitting import Part, Splitter
from modreduce_keras.models.unfolding import unfolded

_ALONG_THE_LAST = {3: layers.Conv1D, 4: layers.Conv2D}
"""Convolutions that compute what a dense layer does with inputs of three or four axes."""


def primitive(model: keras.Model, masks: dict[int, np.ndarray] | None = None) -> keras.Model:
    """Returns a functional model of the same function and state, of simpler layers.

    - A convolution or dense layer with an activation that is not a ReLU: the layer, then the
      activation.
    - `SeparableConv2D`: a depthwise convolution, then one of size 1.
    - `Dense` along the last of several axes: a convolution of size 1.
    - SiLU: a sigmoid, then a product.
    - Layer, group, RMS and unit normalization: a mean, a difference, a sum of squares, its inverse
      root, a product, and a factor and offset for each channel.
    - A linear `Activation`: `Identity`.
    - Activations and divisions by functions of `keras.ops`: layers and products.
    - Layers of one's own that are made of such layers: a nested model of these.
    - Convolutions and dense layers with LoRA: the same layers, with the sum as their kernel.

    The last part has the name of the layer. Others stay as they are. The given model is not
    changed.

    Args:
        model: A functional or a built Sequential model. Others in it may be nested.
        masks: Of kernels of which a part is zero, by the `id` of their layer. Those of the new
            layers are added.

    Raises:
        ValueError: If it has a layer that int8 files do not compute.
    """
    return _Splitter({} if masks is None else masks).split(model)


class _Splitter(Splitter):
    """Rebuilds a model and those nested in it; what models share stays shared.

    Args:
        masks: Of kernels; those of the new layers are added.
    """

    def __init__(self, masks: dict[int, np.ndarray]) -> None:
        super().__init__()
        self._masks = masks
        self._unfolded: list[keras.Model] = []  # So that no id is given to another object.

    def part(self, layer: keras.Operation) -> Part:
        inner = unfolded(layer)
        if inner is not None:
            self._unfolded.append(inner)
            return self.split(inner)
        require_known(layer)
        if isinstance(layer, keras.Model):
            return self.split(layer)
        if not isinstance(layer, layers.Layer):
            return _function(layer)
        if type(layer) is layers.SeparableConv2D:
            return self._separable(layer)
        if type(layer) in KERNEL_LAYERS:
            return self._kernel_layer(layer)
        if type(layer) in NORMALIZATIONS:
            return self._normalization(layer)
        if is_layer_scale(layer):
            gain, give_state = gain_of(layer, 1.0)
            self.give_states.append(give_state)
            return gain
        if activation_of(layer) == "silu":
            return _silu(layer)
        if type(layer) is layers.Activation and activation_of(layer) == "linear":
            return layers.Identity(name=layer.name, dtype=layer.dtype_policy.name)
        return self._same(layer)

    def _same(self, layer: keras.layers.Layer, **changes: Any) -> keras.layers.Layer:
        if getattr(layer, "lora_enabled", False):
            copy = rebuilt(layer, lambda config: {**config, **changes, "lora_rank": None})
            # With LoRA, `kernel` is the sum that the layer computes with.
            self._give_weights(copy, [_array(layer.kernel)], layer)
            return copy
        copy = rebuilt(layer, lambda config: {**config, **changes})
        self._keep_mask(layer, copy)
        self.give_states.append(lambda: copy_state(layer, copy))
        return copy

    def _kernel_layer(self, layer: keras.layers.Layer) -> Part:
        rank = len(layer.output.shape)
        without = _without_activation(layer)
        if type(layer) is not layers.Dense or rank == 2:
            return _activated(layer, self._same(layer, **without))
        if rank not in _ALONG_THE_LAST:
            raise unknown(layer, "on inputs of more than four axes: reshape them before")
        if layer.kernel_constraint is not None:
            raise unknown(layer, "with a constraint, on several axes: take Conv1D or Conv2D")
        config = layer.get_config()
        shared = ("activation", "use_bias", "kernel_regularizer", "bias_regularizer")
        given = {name: config[name] for name in (*shared, "bias_constraint")}
        given = {**given, **_common(layer), **without, "data_format": "channels_last"}
        copy = _ALONG_THE_LAST[rank](layer.units, 1, **given)
        self._give_weights(copy, [_array(layer.kernel)[(None,) * (rank - 2)]], layer)
        return _activated(layer, copy)

    def _separable(self, layer: keras.layers.SeparableConv2D) -> Part:
        depthwise = layers.DepthwiseConv2D(
            layer.kernel_size,
            strides=layer.strides,
            padding=layer.padding,
            depth_multiplier=layer.depth_multiplier,
            data_format=layer.data_format,
            dilation_rate=layer.dilation_rate,
            use_bias=False,
            depthwise_regularizer=layer.depthwise_regularizer,
            depthwise_constraint=layer.depthwise_constraint,
            **{**_common(layer), "name": f"{layer.name}_depthwise", "activity_regularizer": None},
        )
        given = {
            "activation": layer.activation,
            "use_bias": layer.use_bias,
            "kernel_regularizer": layer.pointwise_regularizer,
            "kernel_constraint": layer.pointwise_constraint,
            "bias_regularizer": layer.bias_regularizer,
            "bias_constraint": layer.bias_constraint,
            **_common(layer),
            **_without_activation(layer),
        }
        pointwise = layers.Conv2D(layer.filters, 1, data_format=layer.data_format, **given)
        self._give_weights(depthwise, [_array(layer.depthwise_kernel)])
        self._give_weights(pointwise, [_array(layer.pointwise_kernel)], layer)
        return _activated(layer, lambda inputs, **_: pointwise(depthwise(inputs)))

    def _normalization(self, layer: keras.layers.Layer) -> Part:
        made = normalization_part(layer)
        if made is None:
            raise unknown(
                layer,
                "which does not normalize the last axis alone, or at most 32768 numbers, of known "
                "sizes",
            )
        part, give_state = made
        self.give_states.append(give_state)
        return part

    def _keep_mask(self, layer: keras.layers.Layer, copy: keras.layers.Layer) -> None:
        """Notes that a new layer has the kernel of another one."""
        if id(layer) in self._masks:
            self._masks[id(copy)] = self._masks[id(layer)]

    def _give_weights(
        self, copy: keras.layers.Layer, kernels: list[np.ndarray], of: Any = None
    ) -> None:
        bias = [_array(of.bias)] if of is not None and of.use_bias else []
        if of is not None:
            self._keep_mask(of, copy)
        self.give_states.append(lambda: copy.set_weights([*kernels, *bias]))


def _array(variable: Any) -> np.ndarray:
    return ops.convert_to_numpy(variable)


def _common(layer: keras.layers.Layer) -> dict[str, Any]:
    return {
        "name": layer.name,
        "dtype": layer.dtype_policy,
        "trainable": layer.trainable,
        "activity_regularizer": layer.activity_regularizer,
    }


def _without_activation(layer: keras.layers.Layer) -> dict[str, Any]:
    """Returns the arguments of a layer whose activation is to be a layer of its own."""
    if activation_of(layer) in FUSED:
        return {}
    return {"name": f"{layer.name}_linear", "activation": None}


def _activated(layer: keras.layers.Layer, part: Part) -> Part:
    """Returns a part that is followed by the activation of its layer, if that is not a ReLU."""
    if activation_of(layer) in FUSED:
        return part
    if activation_of(layer) == "silu":
        activation = _silu(layer)
    else:
        activation = layers.Activation(layer.activation, name=layer.name, dtype=layer.dtype_policy)
    return lambda inputs, **_: activation(part(inputs))


def _silu(layer: keras.Operation) -> Part:
    dtype = getattr(layer, "dtype_policy", None)
    gate = layers.Activation("sigmoid", name=f"{layer.name}_sigmoid", dtype=dtype)
    product = layers.Multiply(name=layer.name, dtype=dtype)
    return lambda inputs, **_: product([inputs, gate(inputs)])


def _function(operation: keras.Operation) -> Part:
    name = function_of(operation)
    if name in DIVISIONS:
        return _product(operation)
    if name == "Silu":
        return _silu(operation)
    if name in ACTIVATION_FUNCTIONS:
        layer = layers.Activation(ACTIVATION_FUNCTIONS[name], name=operation.name)
        return lambda inputs, **_: layer(inputs)
    return rebuilt(operation)


def _product(division: keras.Operation) -> Part:
    product = functions()["Multiply"](name=division.name)

    def part(x1: Any, x2: Any) -> Any:
        if not is_constant(x2):
            raise unknown(division, "by what the student computes: integers have no division")
        return product(x1, 1.0 / np.asarray(_array(x2), "float32"))

    return part
