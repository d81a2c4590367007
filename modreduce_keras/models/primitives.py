"""Primitives: rebuilds a student so that an int8 file computes each layer as one operation."""

import math
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from modreduce_keras.copying import copy_state, parts
from modreduce_keras.keras_internals import calls_of, run_graph
from modreduce_keras.models.clones import Cloner, rebuilt
from modreduce_keras.models.graph import functional
from modreduce_keras.models.integer_layers import (
    ACTIVATIONS,
    FUSED,
    KERNEL_LAYERS,
    activation_of,
    require_known,
    unknown,
)
from modreduce_keras.models.integer_normalizations import (
    NORMALIZATIONS,
    gain_of,
    is_layer_scale,
    normalization_part,
)
from modreduce_keras.models.integer_products import projection_of
from modreduce_keras.models.names import NewNames
from modreduce_keras.models.primitive_functions import (
    activation_part,
    function_part,
    silu_part,
    softmax_part,
)
from modreduce_keras.models.splitting import Part, Splitter
from modreduce_keras.models.unfolding import Unfolded, only_in_training, unfolded

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
    - `EinsumDense` along the last axes: a dense layer.
    - Attention, embeddings, and layers of one's own that are made of such layers and functions:
      what they are made of, and an `Identity` at the end. Weights of their own: a `HeldWeight`.
    - A masked softmax: scores that are filled, a softmax, and zeros.
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
        self._kept: list[keras.Model] = []  # So that no id is given to another object.

    def part(self, layer: keras.Operation) -> Part:
        inner = unfolded(layer)
        if inner is not None:
            self._kept.append(inner.model)
            return self._inside(layer, inner)
        dropping = only_in_training(layer)
        if dropping is not None:
            return dropping
        require_known(layer)
        if isinstance(layer, keras.Model):
            return self.split(self._of_known_sizes(layer))
        if not isinstance(layer, layers.Layer):
            return function_part(layer)
        if type(layer) is layers.EinsumDense:
            return self._einsum_dense(layer)
        if type(layer) is layers.Softmax:
            return softmax_part(layer)
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
            return silu_part(layer)
        if activation_of(layer) not in ACTIVATIONS:
            return activation_part(layer)
        if type(layer) is layers.Activation and activation_of(layer) == "linear":
            return layers.Identity(name=layer.name, dtype=layer.dtype_policy.name)
        return self._same(layer)

    def _inside(self, layer: keras.layers.Layer, inner: Unfolded) -> Part:
        """Returns what a layer is made of, and at its end one that does nothing, of its name."""
        end = layers.Identity(name=layer.name, dtype=layer.dtype_policy.name)
        names = NewNames([layer.name])

        def call(one: keras.Operation, *args: Any, **kwargs: Any) -> Any:
            return self._rebuild(one)(*args, **kwargs)

        def part(*args: Any, **kwargs: Any) -> Any:
            given = keras.tree.flatten((args, kwargs))
            tensors = [one for one in given if isinstance(one, keras.KerasTensor)]
            made = run_graph(inner.model, tensors, call)
            names.name_apart(made, tensors)
            results = inner.filled(made)
            return end(results) if isinstance(results, keras.KerasTensor) else results

        return part

    def _of_known_sizes(self, model: keras.Model) -> keras.Model:
        """Returns a nested model, or a copy of it whose inputs have the sizes that it is given."""
        flat = functional(model)
        given = [one.shape[1:] for one in calls_of(model)[-1].inputs] if calls_of(model) else []
        open_sizes = any(None in one.shape[1:] for one in flat.inputs)
        if not open_sizes or len(given) != len(flat.inputs) or any(None in one for one in given):
            return model
        inputs = [
            keras.Input(shape, dtype=one.dtype, name=one.name)
            for shape, one in zip(given, flat.inputs, strict=True)
        ]
        cloner = Cloner()
        copy = cloner.clone(flat, keras.tree.pack_sequence_as(flat.input, inputs))
        copy_state(model, copy)
        copy.name = model.name
        for one in parts(model)[1:]:
            if id(one) in self._masks:
                self._keep_mask(one, cloner.layer(one))
        self._kept.append(copy)
        return copy

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
        if type(layer) is not layers.Dense or rank == 2:
            return _activated(layer, self._same(layer, **_without_activation(layer)))
        return self._along_the_last(layer, layer.units, _array(layer.kernel), rank)

    def _along_the_last(
        self, layer: keras.layers.Layer, units: int, kernel: np.ndarray, rank: int
    ) -> Part:
        """Returns a dense layer, with the weights of another one, by the rank of its inputs."""
        if rank not in (2, *_ALONG_THE_LAST):
            raise unknown(layer, "on inputs of more than four axes: reshape them before")
        if layer.kernel_constraint is not None:
            raise unknown(layer, "with a constraint, on several axes: take Conv1D or Conv2D")
        has_bias = layer.bias is not None
        given = {
            "activation": layer.activation,
            "use_bias": has_bias,
            "kernel_regularizer": layer.kernel_regularizer,
            "bias_regularizer": layer.bias_regularizer,
            "bias_constraint": layer.bias_constraint if has_bias else None,
            **_common(layer),
            **_without_activation(layer),
        }
        if rank == 2:
            copy = layers.Dense(units, **given)
        else:
            copy = _ALONG_THE_LAST[rank](units, 1, **given, data_format="channels_last")
        self._give_weights(copy, [kernel[(None,) * (rank - 2)]], layer)
        return _activated(layer, copy)

    def _einsum_dense(self, layer: layers.EinsumDense) -> Part:
        projection = projection_of(layer)
        if projection is None:
            raise unknown(
                layer,
                f"equation={layer.equation!r}, which is more than a dense layer along the last "
                "axes",
            )
        kernel = _array(layer.kernel)
        summed, made = kernel.shape[: projection.inputs], kernel.shape[projection.inputs :]
        rank = len(calls_of(layer)[-1].inputs[0].shape) - projection.inputs + 1
        dense = self._along_the_last(
            layer, math.prod(made), kernel.reshape(-1, math.prod(made)), rank
        )

        def part(inputs: Any, **_: Any) -> Any:
            sizes = inputs.shape[1 : -projection.inputs]
            if None in sizes:
                raise unknown(layer, "on inputs of open sizes")
            if len(summed) > 1:
                inputs = ops.reshape(inputs, (-1, *sizes, math.prod(summed)))
            outputs = dense(inputs)
            return ops.reshape(outputs, (-1, *sizes, *made)) if len(made) > 1 else outputs

        return part

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
        has_bias = of is not None and of.bias is not None
        bias = [_array(of.bias).reshape(-1)] if has_bias else []
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
        activation: Part = silu_part(layer)
    elif activation_of(layer) not in ACTIVATIONS:
        activation = activation_part(layer)
    else:
        activation = layers.Activation(layer.activation, name=layer.name, dtype=layer.dtype_policy)
    return lambda inputs, **_: activation(part(inputs))
