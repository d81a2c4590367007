"""Fake-quantized kernels: layers with weights and biases rounded like those of an int8 file."""

from typing import Any

import keras
from keras import ops

from modreduce_keras.arguments import require_integer
from modreduce_keras.models.fake_quantization import is_rounding
from modreduce_keras.models.integer_biases import CELL_LEVELS, shift_of_kernel
from modreduce_keras.models.kernel_wrapper import KernelWrapper
from modreduce_keras.models.kernels import input_axes


def require_bits(bits: Any) -> int:
    """Returns a number of bits that weights can be rounded to."""
    bits = require_integer("bits", bits, 2)
    if bits > 8:
        raise ValueError(f"bits must be from 2 to 8, since files hold int8. Received: {bits=}")
    return bits


def on_grid(weights: Any, bits: int, axes: tuple[int, ...]) -> Any:
    """Rounds weights to the levels of an int8 file, symmetric around 0, for each output.

        w_q = round(127 k / n) m / 127,  k = round(n w / m),  n = 2^(bits - 1) - 1

    where m is the largest |w| of the output. There are 2 n + 1 levels, which with 8 bits lie
    m / 127 apart. With fewer bits they are those of int8's that lie next to equally spaced ones,
    so that the file holds them exactly.

    Args:
        weights: Kernel, float32.
        bits: Of the weights, 2 to 8.
        axes: Of the kernel, along which one output sums.

    Returns:
        The same shape.
    """
    levels = 2 ** (bits - 1) - 1
    largest = _largest(weights, axes)
    cell = ops.where(largest > 0.0, largest, 1.0) / CELL_LEVELS
    level = ops.round(weights / cell * (levels / CELL_LEVELS))
    return ops.round(level * (CELL_LEVELS / levels)) * cell


def _largest(weights: Any, axes: tuple[int, ...]) -> Any:
    return ops.max(ops.abs(weights), axis=axes, keepdims=True)


@keras.saving.register_keras_serializable(package="modreduce_keras")
class FakeQuantizedKernel(KernelWrapper):
    """Runs a layer with its kernel rounded to few bits; the stored weights stay in full precision.

    The gradient passes the rounding as if it were not there (the straight-through estimator).
    In inference biases are rounded too: a file adds them to sums of products of integers, as
    multiples of the step of the inputs times that of the weights. That is far less than a step of
    the outputs, but of the same sign for all that a network is given. The bias of a batch
    normalization that follows is the one that the file folds into the layer.

    Args:
        layer: A convolution or a dense layer, or a `MaskedKernel` around one.
        bits: Of the weights, 2 to 8.
        **kwargs: `name` and `dtype`, which default to those of the layer.

    Call arguments:
        inputs: What the layer takes.
        training: Whether biases stay as they are.

    Returns:
        What the layer gives.

    Reference:
        Krishnamoorthi, Quantizing Deep Convolutional Networks for Efficient Inference, 2018.
    """

    def __init__(self, layer: keras.layers.Layer, *, bits: int = 8, **kwargs: Any) -> None:
        super().__init__(layer, **kwargs)
        self.bits = require_bits(bits)

    def used_kernel(self) -> Any:
        """Returns the rounded kernel, float32."""
        kernel = ops.cast(ops.cast(self.given_kernel(), self.compute_dtype), "float32")
        return on_grid(kernel, self.bits, input_axes(self.plain))

    rounded_kernel = used_kernel

    def trained_kernel(self) -> Any:
        """Returns the same, with the gradient of the kernel that was rounded."""
        kernel = self.given_kernel()
        return kernel + ops.stop_gradient(self.used_kernel() - kernel)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Returns what the layer gives with the other kernel, and in inference the other bias."""
        shift = self.shift_of_bias() if is_rounding() and not training else None
        if shift is None:
            return self.computed(inputs)
        if self.plain.use_bias:
            bias = ops.convert_to_tensor(self.plain.bias)
            return self.computed(inputs, [(self.plain.bias, bias + ops.cast(shift, bias.dtype))])
        outputs = self.computed(inputs)
        shape = [1] * len(outputs.shape)
        first = getattr(self.plain, "data_format", "channels_last") == "channels_first"
        shape[1 if first else -1] = -1
        return outputs + ops.reshape(ops.cast(shift, outputs.dtype), shape)

    def shift_of_bias(self) -> Any:
        """Returns what rounding adds to the bias of each output; see `shift_of_kernel`."""
        largest = _largest(self.given_kernel(), input_axes(self.plain))
        return shift_of_kernel(self, ops.reshape(largest, (-1,)))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        return {**super().get_config(), "bits": self.bits}
