"""Folded normalization: a teacher's batch normalizations in its convolutions, while it is traced.

In inference a batch normalization multiplies and adds a constant for each channel. Where it alone
reads a convolution or a dense layer, the kernel is multiplied instead, which is far smaller than a
feature map, and the constant is added as a bias, in one operation with the convolution. It is
done anew in each step, from the weights of the moment. The models stay as they are.
"""

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from typing import Any

import keras
from keras import ops

from modreduce_keras.distillers.backend.tensorflow import add_bias
from modreduce_keras.distillers.step.replaced_calls import ReplacedCalls
from modreduce_keras.keras_internals import flatten_layers
from modreduce_keras.models.folding import normalized_layer
from modreduce_keras.models.graph import Graph, defined_by_user
from modreduce_keras.models.kernels import has_kernel, kernel_of, shape_along_outputs

Pair = tuple[keras.layers.Layer, keras.layers.BatchNormalization]
_calls = ReplacedCalls()


def foldable(model: keras.Model, tapped: Collection[int] = ()) -> list[Pair]:
    """Returns the layers of a model that a normalization can be folded into, each with it.

    Layers that are adapted, quantized or not in float32 are left alone, and so are those that a
    subclassed model calls: what reads their outputs is not known.

    Args:
        model: A model; others in it may be nested.
        tapped: Ids of layers whose outputs are read.
    """
    pairs: list[Pair] = []
    for part in _functional(model):
        graph = Graph(part)
        found = ((normalized_layer(layer, graph), layer) for layer in part.layers)
        pairs += [(layer, normalization) for layer, normalization in found if layer is not None]
    return [pair for pair in pairs if _is_plain(*pair) and id(pair[0]) not in tapped]


def _functional(model: keras.layers.Layer) -> Iterator[keras.Model]:
    models = [one for one in flatten_layers(model) if isinstance(one, keras.Model)]
    return (
        one for one in models if getattr(one, "inputs", None) and not defined_by_user(one, "call")
    )


def _is_plain(layer: keras.layers.Layer, normalization: keras.layers.BatchNormalization) -> bool:
    policies = [one.dtype_policy for one in (layer, normalization)]
    # Kernels of LoRA, or of integers, are not variables that can be multiplied.
    adapted = getattr(layer, "lora_enabled", False) or getattr(layer, "quantization_mode", None)
    return (
        has_kernel(layer)
        and not adapted
        and all(p.compute_dtype == p.variable_dtype == "float32" for p in policies)
        and all(map(_calls.is_free, (layer, normalization)))
    )


def folded_normalization(pairs: Iterable[Pair]) -> contextlib.AbstractContextManager[None]:
    """Lets layers run with the normalization in them that reads them, in inference.

    Args:
        pairs: What `foldable` returned.
    """
    makers: dict[keras.layers.Layer, Any] = {}
    for layer, normalization in pairs:
        makers[layer] = partial(_normalized, layer, normalization)
        makers[normalization] = lambda call: _unchanged
    return _calls.on(makers)


def _unchanged(inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
    return inputs


def _normalized(
    layer: keras.layers.Layer,
    normalization: keras.layers.BatchNormalization,
    by_keras: Callable[..., Any],
) -> Callable[..., Any]:
    def call(inputs: Any, **arguments: Any) -> Any:
        scale, offset = _constants(normalization)
        kernel = kernel_of(layer)
        changed = [(kernel, kernel * ops.reshape(scale, shape_along_outputs(layer)))]
        if layer.use_bias:
            changed.append((layer.bias, layer.bias * scale + offset))
        with keras.StatelessScope(changed):
            outputs = by_keras(inputs, **arguments)
        if layer.use_bias:
            return outputs
        first = getattr(layer, "data_format", "channels_last") == "channels_first"
        return add_bias(outputs, offset, channels_first=first)

    return call


def _constants(normalization: keras.layers.BatchNormalization) -> tuple[Any, Any]:
    """Returns the scale and the offset of a batch normalization in inference."""
    scale = ops.rsqrt(normalization.moving_variance + normalization.epsilon)
    if normalization.scale:
        scale = scale * normalization.gamma
    offset = -normalization.moving_mean * scale
    return scale, offset + normalization.beta if normalization.center else offset
