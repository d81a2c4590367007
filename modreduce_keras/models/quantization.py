"""Quantization-aware training: makes a copy of a student that computes like its int8 file."""

from collections import Counter
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from modreduce_keras.batches import Batches, require_finite_inputs, split_index, unpack
from modreduce_keras.copying import copy_state
from modreduce_keras.keras_internals import operation_of
from modreduce_keras.models.affine import is_affine_in_integers
from modreduce_keras.models.choosing import require_model
from modreduce_keras.models.clones import rebuilt
from modreduce_keras.models.fake_quantization import (
    FakeQuantize,
    LearntFakeQuantize,
    RangeOfRoots,
    RangeOfWeight,
    is_quantization_aware,
    learnt_ranges,
)
from modreduce_keras.models.fake_quantized_kernel import FakeQuantizedKernel, require_bits
from modreduce_keras.models.folding import normalized_layer
from modreduce_keras.models.fusing import is_fused, is_fused_pool, is_joined, is_relu_of_pool
from modreduce_keras.models.graph import Graph, advice_on_sizes, functional, new_inputs
from modreduce_keras.models.held_weights import HeldWeight
from modreduce_keras.models.integer_layers import (
    AFFINE,
    CHAINED,
    FIXED,
    KERNEL_LAYERS,
    MEASURED_FUNCTIONS,
    PASSED,
    POOLED,
    activation_of,
    function_of,
    is_constant,
    unknown,
)
from modreduce_keras.models.integer_normalizations import InverseRoot
from modreduce_keras.models.integer_scores import LearntFilledScores
from modreduce_keras.models.kernel_wrapper import MaskedKernel, warn_of_unfinished, wrappers_in
from modreduce_keras.models.masked_scores import MaskedScores
from modreduce_keras.models.names import NewNames
from modreduce_keras.models.primitives import primitive
from modreduce_keras.models.wrapping import without_wrappers

_OF_ITS_INPUTS = "the range of the inputs"


def quantize_aware(
    student: keras.Model, bits: int = 8, *, representative: Any = None
) -> keras.Model:
    """Builds a copy of a student that trains with the rounding of its int8 file.

    Weights of convolutions and dense layers are rounded to `bits` bits, symmetrically and per
    output channel. Activations are rounded to 8 bits, with one range per tensor, which follows the
    values in training. As in the file, average poolings keep the range of their inputs, and
    concatenated tensors have the range of the result. A batch normalization after a convolution is
    folded into it only in the file, which does not change the rounding. The full-precision weights
    are stored and trained; gradients pass the rounding unchanged (straight-through estimator).

    The copy starts from the student's weights. It is an ordinary Keras model, which trains alone or
    as a student of any distiller. `mr.export.to_tflite(..., quantization="int8")` exports it with
    the learnt ranges; as a SavedModel or ONNX file it rounds in floats. Start from a trained
    student, with a small learning rate.

    Layers that are several operations in the file become several layers with roundings in between:
    separable convolutions, SiLU (a sigmoid and a product), convolutions or dense layers with an
    activation other than ReLU, attention, and layer, group, RMS and unit normalizations; the last
    one keeps the layer's name, so taps still work. So does a custom layer that is made of other
    layers, of functions of `keras.ops` and of weights of its own, if it does the same in training.
    Tables of embeddings and other weights that no inputs are multiplied by have 8 bits. Low-rank
    weights of LoRA are added to the kernels, which are then trained. Weights that `mr.prune` has
    set to zero stay zero, in the file too; the pruning schedule ends, with a warning if it had not
    finished. The student itself is not changed.

    Args:
        student: A functional or a built Sequential model, of layers that TFLite computes in int8,
            such as MobileNet, EfficientNet and ConvNeXt of `keras.applications`, and ViT and BERT
            of keras-hub, with inputs of known sizes; others in it may be nested.
            Augmentation layers are allowed: in inference they do nothing.
        bits: Bits of the weights, 2 to 8. With fewer than 8 bits, weights are still stored as int8,
            with 2^bits - 1 different values: the file has the same size, but compresses better.
        representative: Inputs, arrays or a dataset of batches, `x` or `(x, y)`, that set the
            initial ranges, best a few hundred training images; an index of the samples is ignored.
            Without them, the first training batch sets the ranges. With them and without further
            training, the copy equals the student quantized after training.

    Returns:
        A functional model.

    Raises:
        TypeError: If the student is not a Keras model.
        ValueError: If its layers cannot be rebuilt, it is already quantized, or it has a layer or
            an activation that is not supported; if `bits` is out of range; or if `representative`
            is infinite, or not an input of the student.

    Example:
        >>> import numpy as np, modreduce_keras as mr
        >>> student = mr.models.get("convnet", num_classes=3, widths=(4, 8))
        >>> images = np.random.default_rng(0).uniform(size=(64, 28, 28, 1)).astype("float32")
        >>> quantized = mr.quantize_aware(student, representative=images)
        >>> kernel = quantized.get_layer("stage2_conv").rounded_kernel()
        >>> len(np.unique(np.round(kernel / np.abs(kernel).max((0, 1, 2)) * 127))) <= 255
        True

    Reference:
        Polino et al., Model Compression via Distillation and Quantization, 2018: the student is
        rounded while it learns from the teacher. Ranges and rounding are those of Jacob et al.,
        Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
        Inference, 2018, instead of buckets, since these are what int8 files can hold.
    """
    bits = require_bits(bits)
    require_model(student, "student")
    if is_quantization_aware(student):
        raise ValueError(
            "student must not be quantization-aware yet. Received: "
            f"{student.name!r}, which comes from quantize_aware"
        )
    _require_no_clusters(student)
    warn_of_unfinished(student)
    is_masked = next(wrappers_in(student), None) is not None
    plain, masks = without_wrappers(student) if is_masked else (student, {})
    simple = _simplified(plain, masks)
    quantized = _Rewriter(simple, bits, masks, {}).rewritten(is_outermost=True)
    if representative is not None:
        _calibrate(quantized, representative)
    return quantized


def _simplified(student: keras.Model, masks: dict[int, np.ndarray]) -> keras.Model:
    """Returns what `primitive` does; its errors say if sizes that are not known may be why."""
    try:
        return primitive(student, masks)
    except ValueError as error:
        advice = advice_on_sizes(student).rstrip(", ")
        if not advice:
            raise
        raise ValueError(f"{error}; or {advice}") from error


class _Rewriter:
    """Copies a model and those nested in it, with roundings put in.

    Args:
        model: The model.
        bits: Of the weights.
        masks: Of kernels of which a part is zero, by the `id` of their layer.
        shared: New layers by the `id` of the old one: what models share stays shared.
        outer: The graph that the model is nested in.
    """

    def __init__(
        self,
        model: keras.Model,
        bits: int,
        masks: dict[int, np.ndarray],
        shared: dict[int, keras.layers.Layer],
        outer: Graph | None = None,
    ) -> None:
        self._model, self._flat = model, functional(model)
        self._bits, self._masks, self._shared = bits, masks, shared
        self._graph = graph = Graph(model, outer)
        self._quantizers = {one.name: _quantizer(one, graph) for one in self._flat.operations}
        forks = filter(graph.is_read_again, self._flat.operations)
        self._forks = {one.name for one in forks if type(one) not in POOLED}
        # By tensors: what they are rounded to, and by which layer.
        self._rounded: dict[int, Any] = {}
        self._ranges: dict[int, Any] = {}
        # New layers of this model by name, and those of their kernels that are masked.
        self._made: dict[str, Any] = {}
        self._masked: dict[str, MaskedKernel] = {}
        self._calls: Counter[str] = Counter()
        self._names = NewNames(one.name for one in self._flat.operations)

    def rewritten(self, is_outermost: bool = False) -> keras.Model:
        """Returns the copy; that of the whole student rounds its inputs too."""
        inputs = new_inputs(self._flat)
        if is_outermost:
            for tensor in keras.tree.flatten(inputs):
                quantizer = _of_input(tensor)
                if quantizer is not None:
                    self._rounded[id(tensor)] = quantizer(tensor)
                    self._names.name_apart(self._rounded[id(tensor)], tensor)
                    self._ranges[id(self._rounded[id(tensor)])] = quantizer
        copy = keras.models.clone_model(
            self._flat,
            input_tensors=inputs,
            clone_function=self._rebuilt,
            call_function=self._named,
        )
        for layer in self._model.layers:
            if layer.name in self._made:
                copy_state(layer, self._made[layer.name])
            if layer.name in self._masked:
                mask = self._masked[layer.name].mask
                mask.assign(self._masks[id(layer)].reshape(mask.shape))
        return copy

    def _rebuilt(self, layer: keras.layers.Layer) -> Any:
        if id(layer) in self._shared:
            return self._shared[id(layer)]
        if isinstance(layer, keras.Model):
            given = self._bits, self._masks, self._shared, self._graph
            new = _Rewriter(layer, *given).rewritten()
        else:
            new = _rebuilt(layer)
            if type(layer) is not MaskedScores:  # which has no state
                self._made[layer.name] = new
            if type(layer) in KERNEL_LAYERS:
                if id(layer) in self._masks:
                    new = self._masked[layer.name] = MaskedKernel(new)
                new = FakeQuantizedKernel(new, bits=self._bits)
        self._shared[id(layer)] = new
        return new

    def _named(self, layer: keras.layers.Layer, *args: Any, **kwargs: Any) -> Any:
        """Returns what `_called` does, after giving the new layers names of their own."""
        outputs = self._called(layer, *args, **kwargs)
        self._names.name_apart(outputs, (args, kwargs), layer.name)
        return outputs

    def _called(self, layer: keras.layers.Layer, *args: Any, **kwargs: Any) -> Any:
        """Returns the outputs of a new layer, which stands for one of the same name."""
        args = self._arguments(layer, args)
        outputs = layer(*args, **kwargs)
        given: Any = self._ranges.get(id(keras.tree.flatten(args)[0]))
        quantizer: Any = self._quantizers[layer.name]
        if isinstance(layer, LearntFilledScores):
            quantizer = layer
        elif quantizer is _OF_ITS_INPUTS:
            how = "interpolated" if type(layer) is layers.UpSampling2D else "pooled"
            outputs, quantizer = given(outputs, **{how: True}), given
        elif quantizer is not None:
            self._calls[layer.name] += 1
            number = self._calls[layer.name]
            quantizer = quantizer(f"{layer.name}_{number}" if number > 1 else layer.name)
            outputs = quantizer(outputs)
        elif type(layer) in (*POOLED, *PASSED) or not isinstance(layer, layers.Layer):
            quantizer = given
            is_one = not keras.tree.is_nested(outputs) and "float" in outputs.dtype
            if is_one and given is not None and layer.name in self._forks:
                # The converter loses the range of what is read several times.
                outputs = given(outputs, pooled=True)
        if quantizer is not None:
            self._ranges.update({id(one): quantizer for one in keras.tree.flatten(outputs)})
        return outputs

    def _arguments(self, layer: keras.layers.Layer, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Returns what a layer is called with, rounded where it has to be."""
        args = keras.tree.map_structure(lambda x: self._rounded.get(id(x), x), args)
        if type(layer) in CHAINED:
            args = (_pairs(layer, args[0]), *args[1:])
        if function_of(layer) in MEASURED_FUNCTIONS:
            args = tuple(_rounded_constant(one) for one in args)
        if self._quantizers[layer.name] is _OF_ITS_INPUTS and id(args[0]) not in self._ranges:
            # Of another model, which has rounded it already.
            first = _learnt(f"{layer.name}_input")
            args = (first(args[0]), *args[1:])
            self._ranges[id(args[0])] = first
        return args


def _require_no_clusters(student: keras.Model) -> None:
    """Raises if a student has wrapped kernels whose weights rounding would not leave as they are.

    Zeros stay zeros; equal weights of different outputs are rounded differently.
    """
    for wrapper in wrappers_in(student):
        if not isinstance(wrapper, MaskedKernel):
            raise ValueError(
                "student must not have clustered weights: each output channel is rounded to "
                "different levels, so clusters would be lost. Quantize the plain model, "
                f"mr.strip(student), or a pruned student. Received: {student.name!r} with layer "
                f"{wrapper.name!r} of type {type(wrapper).__name__}"
            )


def _of_input(tensor: Any) -> Any:
    """Returns what rounds an input of the student; `None` for integers that are not images."""
    name = operation_of(tensor).name
    if "float" in tensor.dtype:
        return _learnt(name)
    if tensor.dtype == "uint8":
        return FakeQuantize(minimum=0.0, maximum=255.0, name=f"{name}_range")
    return None


def _quantizer(layer: keras.Operation, graph: Graph) -> Any:
    """Returns what makes the rounding of a layer's outputs, or `None` where there is none.

    It is called with a name, or is `_OF_ITS_INPUTS`, where there is one that has made the inputs.
    """
    kind = type(layer)
    if kind in POOLED:
        return None if is_fused_pool(layer, graph) else _OF_ITS_INPUTS
    if is_relu_of_pool(layer, graph):
        return _OF_ITS_INPUTS
    if kind is layers.UpSampling2D and layer.interpolation == "bilinear":
        return _OF_ITS_INPUTS
    if kind in PASSED or isinstance(layer, (layers.InputLayer, keras.Model)):
        return None
    if not isinstance(layer, layers.Layer) and function_of(layer) not in MEASURED_FUNCTIONS:
        return None
    if kind is InverseRoot:
        return lambda name: RangeOfRoots(name=f"{name}_range")
    if kind is HeldWeight and not is_joined(layer, graph):
        return lambda name: RangeOfWeight(momentum=0.0, name=f"{name}_range")
    if type(graph.only_reader(layer)) is MaskedScores:
        return None  # which rounds them
    activation = activation_of(layer)
    follows = normalized_layer(layer, graph)
    is_affine = kind in AFFINE or activation == "hard_sigmoid"
    if is_affine and not follows and not is_affine_in_integers(layer):
        raise unknown(
            layer,
            "which does not multiply by and add one known number for each channel of the last "
            "axis, or whose inputs have sizes that are not known",
        )
    if activation in FIXED:
        low, high = FIXED[activation]
        return lambda name: FakeQuantize(minimum=low, maximum=high, name=f"{name}_range")
    return None if is_fused(layer, graph) or is_joined(layer, graph) else _learnt


def _rebuilt(layer: keras.layers.Layer) -> Any:
    if type(layer) is MaskedScores:
        return LearntFilledScores(name=layer.name, dtype=layer.dtype_policy)
    return rebuilt(layer)


def _learnt(name: str) -> LearntFakeQuantize:
    return LearntFakeQuantize(name=f"{name}_range")


def _pairs(layer: keras.layers.Layer, tensors: list[Any]) -> list[Any]:
    """Returns the last two of what a layer joins, after joining and rounding those before them."""
    first, *others = tensors
    for index, tensor in enumerate(others[:-1], start=1):
        name = f"{layer.name}_{index}"
        first = _learnt(name)(type(layer)(name=name)([first, tensor]))
    return [first, *others[-1:]]


def _rounded_constant(argument: Any) -> Any:
    """Returns a constant of a computation as the file holds it, in a range of its own."""
    if not is_constant(argument) or np.ndim(argument) == 0:
        return argument
    values = np.asarray(ops.convert_to_numpy(argument), "float32")
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    if low == high:
        return values
    return ops.convert_to_numpy(FakeQuantize(minimum=low, maximum=high)(values))


def _calibrate(model: keras.Model, representative: Any) -> None:
    """Sets the ranges to those that inputs give."""
    batches = Batches("representative", representative, 32, inputs=len(model.inputs))
    # A model of its own, since models keep what they have compiled for prediction.
    observer = keras.Model(model.input, model.output)
    found = learnt_ranges(model)
    for layer in found:
        layer.is_calibrating = True
    batch = None
    try:
        for batch in batches:
            x = split_index(unpack(batch)[0])[0]
            require_finite_inputs("representative", x)
            _observe(observer, x)
        if batch is None:
            raise ValueError("representative must have samples. Received: none")
    finally:
        for layer in found:
            layer.is_calibrating = False
    if not all(np.isfinite(layer.ends).all() for layer in found):
        raise ValueError(
            "representative must have inputs for which the student's activations are finite. "
            "Received: finite inputs that give infinities or what is not a number"
        )


def _observe(observer: keras.Model, x: Any) -> None:
    """Runs a batch, so that ranges see it."""
    try:
        observer.predict_on_batch(x)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            "representative must be inputs as the student takes them, an array or a dataset of "
            f"batches x or (x, y). Received: inputs of type {type(x).__name__}. Keras "
            f"reports: {error}"
        ) from error
