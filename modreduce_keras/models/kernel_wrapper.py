"""KernelWrapper: runs a layer with another kernel in the place of its own, rounded or masked."""

import math
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from modreduce_keras.calls import stacklevel_of_user
from modreduce_keras.keras_internals import flatten_layers
from modreduce_keras.models.kernels import kernel_of
from modreduce_keras.typing import Shape


class KernelWrapper(keras.layers.Wrapper):
    """Base class: runs a layer with a kernel that is computed from the stored one.

    A subclass says which (`used_kernel`). Wrappers may stand around one another, the one that is
    applied last outside.

    Args:
        layer: A convolution or a dense layer, or a wrapper around one.
        **kwargs: `name` and `dtype`, which default to those of the layer.

    Call arguments:
        inputs: What the layer takes.

    Returns:
        What the layer gives.
    """

    def __init__(self, layer: keras.layers.Layer, **kwargs: Any) -> None:
        own = {
            "name": layer.name,
            "dtype": layer.dtype_policy,
            "activity_regularizer": layer.activity_regularizer,
        }
        super().__init__(layer, **{**own, **kwargs})
        self.supports_masking = layer.supports_masking

    @property
    def plain(self) -> keras.layers.Layer:
        """The layer inside of all wrappers."""
        return plain_layer(self.layer)

    def used_kernel(self) -> Any:
        """Returns the kernel as it is used, float32. To be written by each wrapper."""
        raise NotImplementedError

    def unfinished(self) -> str | None:
        """Returns what of a schedule is still to come, for messages; `None` where nothing is."""
        return None

    def trained_kernel(self) -> Any:
        """Returns the same values, with the gradient that training is to see."""
        return self.used_kernel()

    def given_kernel(self) -> Any:
        """Returns what the wrapped layer would use, float32."""
        if isinstance(self.layer, KernelWrapper):
            return self.layer.trained_kernel()
        return ops.cast(ops.convert_to_tensor(kernel_of(self.layer)), "float32")

    def call(self, inputs: Any) -> Any:
        """Returns what the layer gives with the other kernel."""
        return self.computed(inputs)

    def computed(self, inputs: Any, others: Iterable[tuple[Any, Any]] = ()) -> Any:
        """Returns what the layer gives with the other kernel.

        Args:
            inputs: What the layer takes.
            others: Pairs of another variable of the layer and what stands for it.
        """
        plain = self.plain
        # Variables that are not named here would lose what an outer scope has set them to.
        values = [(variable, variable.value) for variable in plain.variables]
        other = (kernel_of(plain), self.trained_kernel())
        with keras.StatelessScope(state_mapping=[*values, other, *others]):
            return plain.call(inputs)

    def compute_output_shape(self, input_shape: Shape) -> Any:
        """Returns the shape that the layer gives."""
        return self.layer.compute_output_shape(input_shape)


@keras.saving.register_keras_serializable(package="modreduce_keras")
class MaskedKernel(KernelWrapper):
    """Runs a layer with some weights of its kernel at zero, those that a mask leaves out.

    The mask is state: it is saved, copied and resumed with the weights. The gradient of the
    weights that are left out is zero.

    Args:
        layer: A convolution or a dense layer.
        **kwargs: `name` and `dtype`, which default to those of the layer.

    Call arguments:
        inputs: What the layer takes.

    Returns:
        What the layer gives.
    """

    def build(self, input_shape: Any = None) -> None:
        """Builds the layer, and creates the first mask."""
        super().build(input_shape)
        self.mask = self.add_weight(
            name="mask",
            shape=kernel_of(self.plain).shape,
            dtype="bool",
            initializer=self.first_mask,
            trainable=False,
            aggregation="only_first_replica",
        )

    def first_mask(self, shape: Shape, dtype: Any = None) -> Any:
        """Returns the mask of a layer that has just been built: one that leaves nothing out."""
        return ops.ones(shape, dtype)

    def used_kernel(self) -> Any:
        """Returns the kernel with zeros where the mask is `False`, float32."""
        kernel = self.given_kernel()
        return ops.where(ops.convert_to_tensor(self.mask), kernel, ops.zeros_like(kernel))


def unfinished(model: keras.layers.Layer) -> str | None:
    """Returns what of a schedule of a model's kernels is still to come; `None` if nothing is."""
    return next((text for one in wrappers_in(model) if (text := one.unfinished())), None)


def warn_of_unfinished(model: keras.layers.Layer) -> None:
    """Warns if what is made of a model now is made before a schedule of its kernels has ended."""
    text = unfinished(model)
    if text is not None:
        warnings.warn(
            f"{model.name!r} is used as it is now, but its {text}. Train it to the end first",
            stacklevel=stacklevel_of_user(),
        )


def plain_layer(layer: keras.layers.Layer) -> keras.layers.Layer:
    """Returns the layer inside of wrappers, or the layer itself where there are none."""
    while isinstance(layer, KernelWrapper):
        layer = layer.layer
    return layer


def used_kernel(layer: keras.layers.Layer) -> np.ndarray:
    """Returns the kernel that a layer of a known kind, wrapped or not, computes with."""
    if isinstance(layer, KernelWrapper):
        return ops.convert_to_numpy(layer.used_kernel())
    return ops.convert_to_numpy(kernel_of(layer))


def weights_in_use(model: keras.Model) -> list[keras.Variable]:
    """Returns the weights of a model without masks, scores and counts of wrappers, and ranges."""
    ranges = [one for one in flatten_layers(model) if getattr(one, "is_range", False)]
    own = {id(weight) for one in ranges for weight in one.weights}
    for wrapper in wrappers_in(model):
        own |= {id(weight) for weight in wrapper.weights}
        own -= {id(weight) for weight in wrapper.plain.weights}
    return [weight for weight in model.weights if id(weight) not in own]


def count_in_use(model: keras.Model) -> int:
    """Returns how many numbers a model has, without those of its wrappers and ranges."""
    return sum(math.prod(weight.shape) for weight in weights_in_use(model))


def wrappers_in(model: keras.layers.Layer, kind: type = KernelWrapper) -> Iterator[Any]:
    """Yields the outermost wrappers of a kind in a model, those of nested models included."""
    seen: set[int] = set()
    for layer in flatten_layers(model):
        if isinstance(layer, kind) and id(layer) not in seen:
            inside: Any = layer
            while isinstance(inside, KernelWrapper):
                seen.add(id(inside))
                inside = inside.layer
            yield layer
