"""Fused normalization: Keras' batch normalizations, by one kernel while a training step is traced.

Keras computes a batch normalization in training as a dozen elementwise operations, and as many for
the gradient; TensorFlow has one kernel for each. The models stay as they are: for the length of a
pass, a `call` lies on each layer that the kernel can stand for.
"""

import contextlib
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import keras
from keras import ops

from modreduce_keras.distillers.backend.tensorflow import normalize_batch
from modreduce_keras.distillers.step.replaced_calls import ReplacedCalls

_DTYPES = ("float32", "bfloat16", "float16")
_calls = ReplacedCalls()


def fused_normalization(
    layers: Iterable[keras.layers.Layer],
) -> contextlib.AbstractContextManager[None]:
    """Lets the batch normalizations among some layers train by the fused kernel.

    Outputs, gradients and moving statistics are Keras' up to rounding. A layer is left alone where
    it does not train, has a mask, normalizes another axis than the last, is synchronized or
    renormalizes, computes in float64, has more than five axes, or is a class of its own with its
    own `call`.
    """
    return _calls.on({layer: partial(_fused, layer) for layer in layers if _is_fusible(layer)})


def _is_fusible(layer: keras.layers.Layer) -> bool:
    if not isinstance(layer, keras.layers.BatchNormalization) or not layer.built:
        return False
    # A class of its own, or somebody else's `call` on this layer, does what we do not know.
    plain = type(layer).call is keras.layers.BatchNormalization.call
    plain = plain and _calls.is_free(layer)
    last = layer.axis in (-1, layer.input_spec.ndim - 1) and 2 <= layer.input_spec.ndim <= 5
    return plain and last and not layer.synchronized and not layer.renorm


def _fused(
    layer: keras.layers.BatchNormalization, by_keras: Callable[..., Any]
) -> Callable[..., Any]:
    def call(inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        dtype = keras.backend.standardize_dtype(inputs.dtype)
        trains = training and layer.trainable and mask is None
        if not trains or dtype not in _DTYPES or dtype != layer.compute_dtype:
            return by_keras(inputs, training=training, mask=mask)
        return _normalize(layer, inputs)

    return call


def _normalize(layer: keras.layers.BatchNormalization, inputs: Any) -> Any:
    channels = (inputs.shape[-1],)
    scale = ops.cast(layer.gamma, "float32") if layer.scale else ops.ones(channels, "float32")
    offset = ops.cast(layer.beta, "float32") if layer.center else ops.zeros(channels, "float32")
    outputs, mean, variance = normalize_batch(inputs, scale, offset, layer.epsilon)
    keep = layer.momentum
    for moving, value in ((layer.moving_mean, mean), (layer.moving_variance, variance)):
        moving.assign(ops.cast(moving, "float32") * keep + value * (1.0 - keep))
    return outputs
