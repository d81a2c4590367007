"""Integer forms: normalizations by operations that TFLite computes well in integers."""

import math
from collections.abc import Callable, Collection, Iterable
from typing import Any, Protocol

import keras
import numpy as np
from keras import layers, ops

from modreduce_keras.keras_internals import flatten_layers

_MOST_SUMMED = 2**15
"""Numbers whose squares, of 8 bits and a sign, an accumulator of 32 bits holds the sum of."""
_STEPS = 255
"""Of an int8 tensor."""
_NOTHING = 1e-6
"""Share of the largest sum of squares that counts as none."""
_HALVES = 20
"""How often the largest sum of squares is halved."""


def integer_forms(model: keras.Model) -> dict[int, "IntegerForm"]:
    """Returns the forms of a model's normalization layers, by `id` of the layer."""
    found = {}
    for layer in flatten_layers(model):
        for kind, normalize in _NORMALIZATIONS.items():
            # Of a subclass only what it has not changed is known.
            if isinstance(layer, kind) and type(layer).call is kind.call:
                found[id(layer)] = IntegerForm(layer, normalize)
    return found


class Form(Protocol):
    """What stands for a layer, and measures what the layer is given before.

    Attributes:
        layer: The layer.
        is_measuring: Whether it measures.
    """

    layer: keras.layers.Layer
    is_measuring: bool

    def next_pass(self) -> None:
        """Begins with the first call of the layer again."""

    def end_measuring(self) -> None:
        """Takes over what has been measured."""

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Returns what the layer gives."""


def measure(forms: Collection[Form], model: keras.Model, inputs: Iterable[Any]) -> None:
    """Measures what layers of a model are given, which the forms stand for meanwhile.

    Args:
        forms: Of layers of the model.
        model: In inference.
        inputs: Batches, as calls of the model take them.
    """
    for form in forms:
        form.is_measuring = True
    for batch in inputs if forms else ():
        for form in forms:
            form.next_pass()
        model(keras.tree.map_structure(ops.convert_to_tensor, batch), training=False)
    for form in forms:
        form.end_measuring()
        form.next_pass()


class IntegerForm:
    """What a normalization layer computes, in another order.

        y = x g + (β - mean(x) g),  g = sqrt(n) γ / sqrt(max(sum (x - mean(x))², m) + n ε)

    The sum of squares of n inputs is a matrix product, whose accumulators have 32 bits: squares in
    int8 would leave only the largest ones. m sets the range of the root. Chosen is that of which,
    over the sums of squares that are measured before, int8 loses least.

    Args:
        layer: The layer.
        normalize: Computes it: `(layer, inputs, inverse_root)` -> outputs.
    """

    def __init__(self, layer: keras.layers.Layer, normalize: Callable[..., Any]) -> None:
        self.layer = layer
        self.is_measuring = False
        self._normalize = normalize
        self._squares: list[list[np.ndarray]] = []
        self._least: list[float] = []
        self._calls = 0

    def next_pass(self) -> None:
        """Begins with the first call of the layer again."""
        self._calls = 0

    def end_measuring(self) -> None:
        """Sets the range of the root for what has been measured."""
        self.is_measuring = False
        self._least = [least_square(np.concatenate(one)) for one in self._squares]
        self._squares = []

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Returns what the layer gives."""
        outputs = self._normalize(self.layer, ops.cast(inputs, "float32"), self._inverse_root)
        return ops.cast(outputs, self.layer.compute_dtype)

    def _inverse_root(self, values: Any, axes: list[int], epsilon: float) -> tuple[Any, Any]:
        """Returns 1 / sqrt(mean of squares + epsilon), and a factor that it is still to get."""
        several = math.prod(values.shape[axis] or 0 for axis in axes)
        is_sum = 0 < several <= _MOST_SUMMED
        squares = (
            _sum_of_squares(values, axes)
            if is_sum
            else ops.mean(values * values, axis=axes, keepdims=True)
        )
        factor = several if is_sum else 1
        call, self._calls = self._calls, self._calls + 1
        if self.is_measuring:
            self._squares.extend([] for _ in range(call + 1 - len(self._squares)))
            self._squares[call].append(ops.convert_to_numpy(squares).ravel())
        elif self._least:
            # A graph may be traced several times.
            squares = ops.maximum(squares, self._least[call % len(self._least)])
        return ops.rsqrt(squares + factor * epsilon), math.sqrt(factor)


def least_square(squares: np.ndarray) -> float:
    """Returns what sums of squares are at least set to, before the root of them is taken in int8.

        argmin_m mean ((q(1 / sqrt(max(q(s), m))) - 1 / sqrt(s)) sqrt(s))²

    with q to 255 steps, over m of the largest sum and its halves, quarters and so on.

    Args:
        squares: Sums of squares s, (samples,).
    """
    squares = squares.astype("float64")
    largest = squares.max(initial=0.0)
    # Of inputs that are all alike nothing is left, whatever they are multiplied by.
    squares = squares[squares > _NOTHING * largest]
    if not squares.size:
        return 0.0
    step = largest / _STEPS
    rounded = np.rint(squares / step) * step

    def loss(least: int) -> Any:
        roots = 1.0 / np.sqrt(np.maximum(rounded, least))
        step = roots.max() / _STEPS
        return np.mean((np.rint(roots / step) * step * np.sqrt(squares) - 1.0) ** 2)

    return float(min((largest / 2**power for power in range(_HALVES)), key=loss))


def _sum_of_squares(values: Any, axes: list[int]) -> Any:
    rank = len(values.shape)
    others = [axis for axis in range(rank) if axis not in axes]
    sizes = [values.shape[axis] for axis in others]
    if sizes.count(None) > 1:
        sizes = [ops.shape(values)[axis] for axis in others]
    shape = iter(-1 if size is None else size for size in sizes)
    kept = [1 if axis in axes else next(shape) for axis in range(rank)]
    if [*others, *axes] != list(range(rank)):
        values = ops.transpose(values, [*others, *axes])
    rows = ops.reshape(values, (-1, 1, math.prod(values.shape[-len(axes) :])))
    return ops.reshape(ops.matmul(rows, ops.transpose(rows, (0, 2, 1))), kept)


def _along(vector: Any, axes: list[int], rank: int) -> Any:
    """Returns weights of some axes in the shape that broadcasts along them."""
    vector = ops.convert_to_tensor(vector)
    sizes = iter(vector.shape)
    return ops.reshape(vector, [next(sizes) if axis in axes else 1 for axis in range(rank)])


def _centred(inputs: Any, mean: Any, scale: Any, offset: Any) -> Any:
    # TFLite has no negation of integers, but a difference.
    moved = mean * scale
    return inputs * scale - moved if offset is None else inputs * scale + (offset - moved)


def _axes(axis: Any, rank: int) -> list[int]:
    return sorted(one % rank for one in (axis if isinstance(axis, (list, tuple)) else [axis]))


def _layer_normalization(layer: keras.layers.Layer, inputs: Any, inverse_root: Any) -> Any:
    rank = len(inputs.shape)
    axes = _axes(layer.axis, rank)
    mean = ops.mean(inputs, axis=axes, keepdims=True)
    inverse, factor = inverse_root(inputs - mean, axes, layer.epsilon)
    scale = inverse * (factor if layer.gamma is None else factor * _along(layer.gamma, axes, rank))
    if layer.rms_scaling:
        return inputs * scale
    offset = None if layer.beta is None else _along(layer.beta, axes, rank)
    return _centred(inputs, mean, scale, offset)


def _rms_normalization(layer: keras.layers.Layer, inputs: Any, inverse_root: Any) -> Any:
    rank = len(inputs.shape)
    axes = _axes(layer.axis, rank)
    inverse, factor = inverse_root(inputs, axes, layer.epsilon)
    return inputs * (inverse * (factor * _along(layer.scale, axes, rank)))


def _unit_normalization(layer: keras.layers.Layer, inputs: Any, inverse_root: Any) -> Any:
    axes = _axes(layer.axis, len(inputs.shape))
    inverse, factor = inverse_root(inputs, axes, keras.config.epsilon() ** 2)
    size = math.prod(inputs.shape[axis] or 1 for axis in axes)
    return inputs * (inverse * (factor / math.sqrt(size)))


def _group_normalization(layer: keras.layers.Layer, inputs: Any, inverse_root: Any) -> Any:
    rank = len(inputs.shape)
    axis = layer.axis % rank
    shape = [-1 if size is None else size for size in inputs.shape]
    if shape.count(-1) > 1:
        shape = list(ops.shape(inputs))
    split = [layer.groups, inputs.shape[axis] // layer.groups]
    groups = ops.reshape(inputs, [*shape[:axis], *split, *shape[axis + 1 :]])
    axes = [one for one in range(1, rank + 1) if one != axis]
    mean = ops.mean(groups, axis=axes, keepdims=True)
    scale, factor = inverse_root(groups - mean, axes, layer.epsilon)

    def by_group(weights: Any) -> Any:
        return _along(ops.reshape(weights, split), [axis, axis + 1], rank + 1)

    scale = scale * (factor * by_group(layer.gamma) if layer.scale else factor)
    offset = by_group(layer.beta) if layer.center else None
    return ops.reshape(_centred(groups, mean, scale, offset), shape)


_NORMALIZATIONS = {
    layers.LayerNormalization: _layer_normalization,
    layers.RMSNormalization: _rms_normalization,
    layers.UnitNormalization: _unit_normalization,
    layers.GroupNormalization: _group_normalization,
}
