"""Masked softmaxes in integers: what is left out is filled with a number that int8 has room for."""

from typing import Any

import keras
import numpy as np
from keras import layers, ops

from modreduce_keras.keras_internals import flatten_layers

_BELOW = 8.0
"""How far below the smallest score the filling is: exp(-8) of it is less than int8 can show."""


def masked_softmaxes(model: keras.Model) -> dict[int, "MaskedSoftmax"]:
    """Returns the forms of a model's softmax layers, by `id` of the layer."""
    return {
        id(layer): MaskedSoftmax(layer)
        for layer in flatten_layers(model)
        if isinstance(layer, layers.Softmax) and type(layer).call is layers.Softmax.call
    }


class MaskedSoftmax:
    """What a softmax layer computes, with another number for scores that are masked.

    Keras fills them with -3.4e38, and a range that holds such a number leaves nothing of the other
    scores in 8 bits. Here they get the smallest score that is measured, less 8, and nothing of
    their softmax, as in Keras.

    Args:
        layer: The layer. Without a mask it is called as it is.
    """

    def __init__(self, layer: keras.layers.Layer) -> None:
        self.layer = layer
        self.is_measuring = False
        self._smallest: list[float] = []
        self._calls = 0
        self._call = layer.call

    def next_pass(self) -> None:
        """Begins with the first call of the layer again."""
        self._calls = 0

    def end_measuring(self) -> None:
        """Ends the measuring."""
        self.is_measuring = False

    def __call__(self, inputs: Any, mask: Any = None) -> Any:
        """Returns what the layer gives."""
        if mask is None:
            return self._call(inputs)
        if keras.backend.standardize_dtype(mask.dtype) != "bool":
            mask = ops.greater(mask, ops.cast(0.5, mask.dtype))
        call, self._calls = self._calls, self._calls + 1
        if self.is_measuring:
            seen = ops.where(mask, inputs, np.inf)
            self._smallest.extend([np.inf] * (call + 1 - len(self._smallest)))
            self._smallest[call] = min(self._smallest[call], float(ops.min(seen)))
        # A graph may be traced several times.
        smallest = self._smallest[call % len(self._smallest)] if self._smallest else np.inf
        if not np.isfinite(smallest):
            return self._call(inputs, mask=mask)
        outputs = self._call(ops.where(mask, inputs, smallest - _BELOW))
        return ops.where(mask, outputs, 0.0)
