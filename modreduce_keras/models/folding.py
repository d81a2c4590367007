"""Folding: builds a model for inference in any precision, without its batch normalizations."""

import contextlib
from collections.abc import Collection
from typing import Any

import keras
import numpy as np
from keras import ops

from modreduce_keras.arguments import require_choice
from modreduce_keras.copying import KERAS_LAYERS, copy_state, is_adapted
from modreduce_keras.keras_internals import calls_of, flatten_layers
from modreduce_keras.models.affine import Affine, constants_of, is_affine_in_integers
from modreduce_keras.models.clones import draws_kept, reason_of, rebuilt
from modreduce_keras.models.fake_quantization import (
    LearntFakeQuantize,
    is_quantization_aware,
    only_clipping,
    require_ranges,
)
from modreduce_keras.models.fake_quantized_kernel import FakeQuantizedKernel
from modreduce_keras.models.graph import Graph, functional, new_inputs
from modreduce_keras.models.integer_biases import shift_of_affine
from modreduce_keras.models.kernel_wrapper import KernelWrapper, plain_layer, used_kernel
from modreduce_keras.models.kernels import along_outputs, has_kernel, kernel_of
from modreduce_keras.models.same_outputs import require_same_outputs
from modreduce_keras.models.stages import layers_at

DTYPES = ("float32", "bfloat16", "float16")
_TOLERANCE, _TOLERANCE_IN_HALF = 0.02, 0.5
"""How far a folded model's outputs may be off, as a part of the largest one.

Some accelerators round float32 in convolutions.
"""


def fold(model: keras.Model, *, dtype: str = "float32", taps: Collection[str] = ()) -> keras.Model:
    """Builds a faster model with the same outputs in inference.

    Each batch normalization is folded into the convolution or dense layer before it, if nothing
    else uses the output of that layer; otherwise it becomes one multiplication and one addition
    per channel. The layers keep their names. In a lower precision, weights and arithmetic have
    that dtype, except for output layers, layers that were adapted to data (`Normalization`,
    vocabularies) and custom layers that take no dtype or do not run in it: these stay in float32.
    All state is copied, see `copy_state`, and the result is compared with the model on a few random
    inputs.

    A quantization-aware model becomes one of plain layers with rounded weights, and with roundings
    in the learnt ranges. A pruned or clustered model becomes one of plain layers with the weights
    that it uses.

    The given model is not changed. Later changes of its weights do not affect the result.

    Args:
        model: A functional or a built Sequential model. Others in it may be nested.
        dtype: `"float32"`, the default, `"bfloat16"` or `"float16"`.
        taps: Names of layers, or places such as `"stage2"` (see `taps`), whose outputs are to be
            the given model's.

    Returns:
        A functional model for inference (`training=False`).

    Raises:
        ValueError: If the model is neither, the dtype is another one, a layer cannot be rebuilt
            from its config or the arguments that it was made with (Lambda layers, and some custom
            ones), or in that dtype, its state cannot be copied, the outputs are others than the
            model's, or the model is quantization-aware and has seen nothing yet.

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
            "model must be a functional or a built Sequential model, so that its layers can be "
            f"rebuilt. Received: {model!r}"
        )
    require_ranges(model)
    try:
        with draws_kept():
            return _fold(model, dtype, taps)
    except Exception as error:
        reason = reason_of(error).rstrip(".")
        raise ValueError(
            f"The model {model.name!r} cannot be folded: {reason}. Use it as it is: teachers, and "
            "students that are exported, need not be folded"
        ) from error


def _fold(model: keras.Model, dtype: str, taps: Collection[str]) -> keras.Model:
    is_integer = is_quantization_aware(model)
    layers = flatten_layers(model, include_self=False)
    if dtype != "float32" and not all(type(layer) in KERAS_LAYERS for layer in layers):
        # In half precision no small difference can be seen.
        _fold(model, "float32", taps)
    folder = _Folder(dtype, {*taps, *layers_at(model, taps)}, is_integer)
    copy = folder.fold(model, is_output=True)
    tolerance = _TOLERANCE if dtype == "float32" else _TOLERANCE_IN_HALF
    with only_clipping() if is_integer else contextlib.nullcontext():
        require_same_outputs(model, copy, tolerance=tolerance, differing=folder.folded)
    return copy


class _Folder:
    """Rebuilds a model and those nested in it.

    Args:
        dtype: Of the new layers.
        taps: Names of layers that stay as they are.
        is_integer: Whether the model is to run in integers.

    Attributes:
        folded: Names of the layers that a normalization was folded into.
    """

    def __init__(self, dtype: str, taps: set[str], is_integer: bool) -> None:
        self._dtype = dtype
        # A tap may be a path, and may say which call is meant.
        self._taps = {tap.partition(":")[0].rpartition("/")[2] for tap in taps}
        self._is_integer = is_integer
        self.folded: set[str] = set()

    def fold(self, model: keras.Model, is_output: bool) -> keras.Model:
        graph, flat = Graph(model), functional(model)
        pairs = [(normalized_layer(layer, graph), layer) for layer in model.layers]
        folded = {
            layer.name: normalization
            for layer, normalization in pairs
            if layer is not None and layer.name not in self._taps
        }
        self.folded |= set(folded)
        gone = {normalization.name for normalization in folded.values()}
        made = {}

        def rebuild(layer: keras.layers.Layer) -> Any:
            is_last = is_output and layer in graph.outputs
            if isinstance(layer, keras.Model):
                return self.fold(layer, is_last)
            dtype = "float32" if is_last else self._dtype
            if layer.name in gone:
                return keras.layers.Identity(name=layer.name, dtype=dtype)
            made[layer.name] = self._rebuilt(layer, dtype, layer.name in folded)
            return made[layer.name]

        copy = keras.models.clone_model(
            flat, new_inputs(flat), clone_function=rebuild, call_function=_call
        )
        for layer in model.layers:
            if layer.name in made:
                _give_state(layer, made[layer.name], folded.get(layer.name))
        copy.trainable = False
        return copy

    def _rebuilt(self, layer: keras.layers.Layer, dtype: str, gets_bias: bool) -> Any:
        # With channels last, integers take one operation.
        as_one = self._is_integer and is_affine_in_integers(layer)
        if as_one or type(layer) is keras.layers.BatchNormalization:
            axis = getattr(layer, "axis", -1) if not as_one else -1
            return Affine(axis, is_convolution=as_one, name=layer.name, dtype=dtype)
        if isinstance(layer, LearntFakeQuantize):
            return layer.fixed(dtype=dtype)
        layer = plain_layer(layer)
        dtype = "float32" if is_adapted(layer) else dtype

        def change(config: dict[str, Any]) -> Any:
            config = _with_dtype(config, dtype)
            return {**config, "use_bias": True} if gets_bias else config

        if dtype != "float32" and not _runs(rebuilt(layer, change), layer):
            dtype = "float32"
        return rebuilt(layer, change)


def _runs(copy: keras.layers.Layer, layer: keras.layers.Layer) -> bool:
    """Returns whether a copy in another precision runs, which a layer of one's own need not.

    Such a layer may leave the precision of layers in it, and add numbers of both.
    """
    inputs = calls_of(layer)[0].inputs
    if type(layer) in KERAS_LAYERS or len(inputs) != 1:
        return True
    try:
        copy(keras.KerasTensor(inputs[0].shape, inputs[0].dtype))
    except Exception:  # of a user's code, anything
        return False
    return True


def _call(layer: keras.layers.Layer, *args: Any, **kwargs: Any) -> Any:
    # What stands for a normalization takes nothing but its input.
    constant = isinstance(layer, (Affine, keras.layers.Identity))
    return layer(args[0]) if constant else layer(*args, **kwargs)


def normalized_layer(layer: keras.layers.Layer, graph: Graph) -> keras.layers.Layer | None:
    """Returns what a batch normalization can be folded into: the layer that it alone reads.

    Args:
        layer: A layer of the graph.
        graph: Of a model.

    Returns:
        A convolution or dense layer, or `None` where there is none or the layer is no batch
        normalization.
    """
    if type(layer) is not keras.layers.BatchNormalization:
        return None
    source = graph.source(layer)
    if source is None or graph.only_reader(source) is not layer:
        return None
    inner = plain_layer(source)
    fits = has_kernel(inner) and _linear(inner) and _same_axis(source, inner, layer)
    return source if fits else None


def _linear(layer: keras.layers.Layer) -> bool:
    return layer.activation is None or layer.activation is keras.activations.linear


def _same_axis(source: Any, layer: keras.layers.Layer, normalization: Any) -> bool:
    rank = len(source.output.shape)
    first = getattr(layer, "data_format", "channels_last") == "channels_first"
    return normalization.axis % rank == (1 if first else rank - 1)


def _with_dtype(config: Any, dtype: str) -> Any:
    """Returns a layer's config, and those of layers in it, with another dtype.

    Orthogonal weights, with which recurrent layers begin, cannot be made in bfloat16; the state is
    copied, so that any others do.
    """
    if isinstance(config, dict):
        if config.get("class_name") in ("Orthogonal", "OrthogonalInitializer"):
            return keras.initializers.serialize(keras.initializers.GlorotUniform())
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


def _give_state(layer: keras.layers.Layer, copy: Any, normalization: Any) -> None:
    """Gives the copy of a layer its state, which a normalization may be folded into."""
    if isinstance(copy, Affine):
        constants: Any = constants_of(layer)
        scale, offset = constants
        copy.set_weights([scale, offset + _or_nothing(shift_of_affine(layer))])
    elif normalization is not None or isinstance(layer, KernelWrapper):
        copy.set_weights(_weights(layer, normalization))
    elif not isinstance(layer, LearntFakeQuantize):
        copy_state(layer, copy)


def _or_nothing(shift: Any) -> Any:
    return 0.0 if shift is None else np.asarray(ops.convert_to_numpy(shift), "float64")


def _weights(layer: keras.layers.Layer, normalization: Any) -> list[np.ndarray]:
    """Returns the weights of a copy whose kernel is another one, or has a normalization in it."""
    inner = plain_layer(layer)
    constants = constants_of(normalization) if normalization else None
    scale, offset = constants or (None, 0.0)
    kernels: list[Any] = []
    bias: Any = offset
    for variable in inner.weights:
        value = np.asarray(ops.convert_to_numpy(variable), "float64")
        if inner.use_bias and variable is inner.bias:
            bias = offset + value * (1.0 if scale is None else scale)
            continue
        if variable is kernel_of(inner):
            if inner is not layer:
                value = np.asarray(used_kernel(layer), "float64")
            if scale is not None:
                value = value * along_outputs(inner, scale)
        kernels.append(value)
    if isinstance(layer, FakeQuantizedKernel):
        shift = _or_nothing(layer.shift_of_bias())
        bias = bias + shift * (1.0 if scale is None else scale)
    return [*kernels, bias] if inner.use_bias or normalization else kernels
