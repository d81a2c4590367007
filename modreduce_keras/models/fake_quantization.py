"""Fake quantization: trainable layers that round activations like an int8 file."""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

import keras
from keras import ops

from modreduce_keras.arguments import require_number
from modreduce_keras.keras_internals import flatten_layers
from modreduce_keras.models.integer_biases import (
    affine_before,
    shift_of_affine,
    step_of_products,
)
from modreduce_keras.typing import Shape, Tensor

_ACTIVATION_BITS = 8
_LEVELS = 2**_ACTIVATION_BITS - 1
_NOTHING = 1e-6
"""Sums of squares below this share of the largest one do not count."""
_HALVES = 20
"""How often the largest sum of squares is halved."""
_NO_STEP = 1e-30
_LEAST = 1e-6
"""End of the range of a weight that is 0 everywhere."""
_NEARLY = 1e-3
"""What float32 may lack of a half; means of up to 500 numbers are halves or further from one."""


@keras.saving.register_keras_serializable(package="modreduce_keras")
class FakeQuantize(keras.layers.Layer):
    """Rounds activations to 256 levels between two fixed ends, and clips values outside.

    The ends are moved together by less than a level so that 0 is one of the levels. The gradient
    passes inside of the ends, and is 0 outside.

    Args:
        minimum: The lower end, at most 0.
        maximum: The upper end, at least 0 and above the lower one.
        **kwargs: `name` and `dtype`, as for every Keras layer.

    Call arguments:
        inputs: Any shape.
        pooled: Whether they are means of what has been rounded here. These are rounded as integers
            are, halves away from 0, where 0 is the middle of the levels.
        interpolated: Whether they lie between numbers that have been rounded here. Halves of these
            are rounded up.

    Returns:
        The same shape.

    Reference:
        Jacob et al., Quantization and Training of Neural Networks for Efficient
        Integer-Arithmetic-Only Inference, 2018.
    """

    is_range = True

    def __init__(self, *, minimum: float, maximum: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.minimum, self.maximum = float(minimum), float(maximum)
        if not self.minimum <= 0.0 <= self.maximum or self.minimum == self.maximum:
            raise ValueError(
                "minimum and maximum must be the ends of a range around 0. Received: "
                f"{minimum=}, {maximum=}"
            )
        self.supports_masking = True

    def call(self, inputs: Any, pooled: bool = False, interpolated: bool = False) -> Any:
        """Returns the rounded inputs."""
        inputs = ops.cast(inputs, self.compute_dtype)
        return _rounding(pooled, interpolated)(inputs, self.minimum, self.maximum)

    def compute_output_shape(self, input_shape: Shape) -> Any:
        """Returns the shape of the inputs."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        return {**super().get_config(), "minimum": self.minimum, "maximum": self.maximum}


@keras.saving.register_keras_serializable(package="modreduce_keras")
class LearntFakeQuantize(keras.layers.Layer):
    """`FakeQuantize` with ends that follow the activations during training.

    The first batch sets the ends, each later one updates them:

        minimum <- momentum minimum + (1 - momentum) min(0, smallest of the batch)

    and alike for the maximum. Until something has been seen, inputs pass as they are. A frozen
    layer (`trainable=False`) keeps its ends. Under a strategy each replica sees its own part of
    the batch, and the ends are averaged, as the statistics of a batch normalization are.

    Args:
        momentum: How slowly the ends move, from 0 to below 1.
        **kwargs: `name` and `dtype`, as for every Keras layer.

    Call arguments:
        inputs: Any shape.
        training: Whether the ends move.
        pooled, interpolated: As for `FakeQuantize`; these do not move the ends.

    Returns:
        The same shape.

    Reference:
        Jacob et al., Quantization and Training of Neural Networks for Efficient
        Integer-Arithmetic-Only Inference, 2018.
    """

    is_range = True

    def __init__(self, *, momentum: float = 0.99, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.momentum = require_number("momentum", momentum, 0.0)
        if self.momentum >= 1.0:
            raise ValueError(f"momentum must be below 1. Received: {momentum=}")
        self.supports_masking = True
        self.is_calibrating = False

    def build(self, input_shape: Shape) -> None:
        """Creates the two ends."""
        ends = {"shape": (), "initializer": "zeros", "trainable": False, "autocast": False}
        self.minimum = self.add_weight(name="minimum", **ends)
        self.maximum = self.add_weight(name="maximum", **ends)

    @property
    def is_set(self) -> bool:
        """Whether there is a range yet."""
        low, high = self.ends
        return low < high

    @property
    def ends(self) -> tuple[float, float]:
        """The range, `(0.0, 0.0)` before anything has been seen."""
        low, high = (float(ops.convert_to_numpy(end)) for end in (self.minimum, self.maximum))
        return low, high

    def fixed(self, **kwargs: Any) -> FakeQuantize:
        """Returns the layer for inference that does the same from now on."""
        low, high = self.ends
        return FakeQuantize(minimum=low, maximum=high, name=self.name, **kwargs)

    def call(
        self,
        inputs: Any,
        training: bool | None = None,
        pooled: bool = False,
        interpolated: bool = False,
    ) -> Any:
        """Returns the rounded inputs."""
        if self.is_calibrating:
            self._widen(inputs)
            return inputs
        is_first = not pooled and not interpolated
        if training and self.trainable and is_first:
            self._follow(inputs)
        affine = affine_before(self) if is_first and is_rounding() and not training else None
        shift = None if affine is None else shift_of_affine(affine)
        if shift is not None:
            inputs = inputs + ops.cast(shift, inputs.dtype)
        low, high = ops.convert_to_tensor(self.minimum), ops.convert_to_tensor(self.maximum)
        if is_first and is_rounding() and not training:
            inputs = _twice_rounded(inputs, step_of_products(self), low, high)
        rounded = _rounding(pooled, interpolated)(inputs, low, high)
        return ops.where(low < high, rounded, inputs)

    def ends_of(self, inputs: Any) -> tuple[Any, Any]:
        """Returns the range that a batch asks for."""
        values = ops.cast(ops.stop_gradient(inputs), "float32")
        return ops.minimum(ops.min(values), 0.0), ops.maximum(ops.max(values), 0.0)

    def _follow(self, inputs: Any) -> None:
        keep = ops.where(self.minimum < self.maximum, self.momentum, 0.0)
        low, high = self.ends_of(inputs)
        self.minimum.assign(keep * self.minimum + (1.0 - keep) * low)
        self.maximum.assign(keep * self.maximum + (1.0 - keep) * high)

    def _widen(self, inputs: Any) -> None:
        low, high = self.ends_of(inputs)
        self.minimum.assign(ops.minimum(self.minimum, low))
        self.maximum.assign(ops.maximum(self.maximum, high))

    def compute_output_shape(self, input_shape: Shape) -> Any:
        """Returns the shape of the inputs."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        return {**super().get_config(), "momentum": self.momentum}


@keras.saving.register_keras_serializable(package="modreduce_keras")
class RangeOfRoots(LearntFakeQuantize):
    """`LearntFakeQuantize` of 1 / sqrt(s), which ends where 8 bits lose least of s.

    The end is that of the roots of max(s, m), since those of the smallest s would leave few levels
    for the others:

        argmin_m mean ((q(1 / sqrt(max(q(s), m))) - 1 / sqrt(s)) sqrt(s))²

    with q to 255 steps, over m of the largest s of a batch and its halves, quarters and so on.
    Larger roots are clipped.
    """

    def ends_of(self, inputs: Any) -> tuple[Any, Any]:
        """Returns the range that a batch of roots asks for."""
        roots = ops.reshape(ops.cast(ops.stop_gradient(inputs), "float32"), (1, -1))
        sums = 1.0 / (roots * roots)
        largest = ops.max(sums)
        # Of inputs that are all alike nothing is left, whatever they are multiplied by.
        counts = ops.cast(sums > _NOTHING * largest, "float32")
        least = largest * ops.reshape(2.0 ** -ops.arange(_HALVES, dtype="float32"), (-1, 1))
        step = largest / _LEVELS
        rounded = ops.rsqrt(ops.maximum(ops.round(sums / step) * step, least))
        ends = ops.max(rounded, axis=1, keepdims=True)
        off = ops.round(rounded / ends * _LEVELS) * (ends / _LEVELS) * ops.sqrt(sums) - 1.0
        best = ops.argmin(ops.sum(counts * off * off, axis=1))
        return ops.zeros((), "float32"), ops.take(ops.reshape(ends, (-1,)), best)


@keras.saving.register_keras_serializable(package="modreduce_keras")
class RangeOfWeight(LearntFakeQuantize):
    """`LearntFakeQuantize` of a weight, which may be 0 everywhere, as a new token is."""

    def ends_of(self, inputs: Any) -> tuple[Any, Any]:
        """Returns the range that a weight asks for."""
        low, high = super().ends_of(inputs)
        return low, ops.maximum(high, _LEAST)


def learnt_ranges(model: keras.Model) -> list[LearntFakeQuantize]:
    """Returns the layers of a model that learn ranges, those of nested models included."""
    every = flatten_layers(model, include_self=False)
    return [layer for layer in every if isinstance(layer, LearntFakeQuantize)]


def is_quantization_aware(model: keras.Model) -> bool:
    """Returns whether a model comes from `quantize_aware`."""
    return bool(learnt_ranges(model))


def require_ranges(model: keras.Model) -> None:
    """Raises a `ValueError` if a quantization-aware model has not seen anything yet."""
    unset = [layer.name for layer in learnt_ranges(model) if not layer.is_set]
    if unset:
        raise ValueError(
            f"The model {model.name!r} is quantization-aware, and has no ranges for "
            f"{unset[:5]}{' and others' if len(unset) > 5 else ''}: train it, or give "
            "quantize_aware representative= inputs for which these are not all 0. A clone has "
            "those of the model with its weights: mr.models.copy_state(model, clone)."
        )


def is_rounding() -> bool:
    """Returns whether fake quantizations round, and do not only clip."""
    return _ROUNDS.get()


def _round_between(inputs: Any, low: Tensor, high: Tensor) -> Any:
    # Both ends at 0 give zeros, which nobody takes then.
    return keras.quantizers.fake_quant_with_min_max_vars(inputs, low, high, _ACTIVATION_BITS)


@contextlib.contextmanager
def only_clipping() -> Iterator[None]:
    """Lets fake quantizations clip activations and not round them.

    In a deep model a difference in the last digit of a float, which rounds the other way, changes
    what all later layers round. Two models that compute the same are compared without.
    """
    token = _ROUNDS.set(False)
    try:
        yield
    finally:
        _ROUNDS.reset(token)


_ROUNDS = contextvars.ContextVar("rounds", default=True)


def _rounding(pooled: bool, interpolated: bool) -> Any:
    if not _ROUNDS.get():
        return ops.clip
    if not pooled and not interpolated:
        return _round_between
    rounded = _half_away if pooled else _half_up
    return lambda inputs, low, high: _round_integers_between(inputs, low, high, rounded)


def _twice_rounded(inputs: Any, step: Any, low: Tensor, high: Tensor) -> Any:
    """Rounds sums of products as the kernel of matrix products in files does.

    It multiplies the integers by a number from 1/2 to 1, rounds, and then divides by a power of 2,
    and rounds again.

    Args:
        inputs: The sums.
        step: How far apart they are, or `None` where they are no such sums.
        low: Lower end of the range of the results.
        high: Upper end.
    """
    if step is None:
        return inputs
    values = ops.cast(inputs, "float32")
    own = ops.maximum((high - low) / _LEVELS, _NO_STEP)
    ratio = ops.maximum(step / own, _NO_STEP)
    unit = ops.minimum(2.0 ** (ops.floor(ops.log2(ratio)) + 1.0), 1.0)
    halved = _half_away(values / (own * unit)) * unit
    levels = ops.sign(halved) * ops.floor(ops.abs(halved) + 0.5)
    return inputs + ops.stop_gradient(ops.cast(levels * own, inputs.dtype) - inputs)


def _half_away(levels: Any) -> Any:
    return ops.sign(levels) * ops.floor(ops.abs(levels) + 0.5 + _NEARLY)


def _half_up(levels: Any) -> Any:
    return ops.floor(levels + 0.5 + _NEARLY)


def _round_integers_between(inputs: Any, low: Tensor, high: Tensor, rounded: Any) -> Any:
    """Rounds what was computed from numbers rounded between the same ends, as int8 kernels do."""
    values = ops.cast(inputs, "float32")
    # Both ends at 0 give zeros, which nobody takes then.
    step = ops.maximum((high - low) / _LEVELS, _NO_STEP)
    zero = ops.floor(-low / step + 0.5) - 2 ** (_ACTIVATION_BITS - 1)
    levels = (rounded(ops.convert_to_tensor(values / step + zero)) - zero) * step
    return inputs + ops.stop_gradient(ops.cast(levels, inputs.dtype) - inputs)
