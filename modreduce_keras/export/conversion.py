"""Conversion: an inference model as the bytes of a TFLite file, by TensorFlow's converter."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from modreduce_keras.export import operations
from modreduce_keras.export.equivalents import equivalents, unrolled
from modreduce_keras.export.integer_forms import Form, integer_forms, measure
from modreduce_keras.export.marks import Marks, is_of, without_marks
from modreduce_keras.export.masked_softmax import masked_softmaxes
from modreduce_keras.export.quiet import quiet
from modreduce_keras.export.saved_model import write_saved_model
from modreduce_keras.export.students import Inputs
from modreduce_keras.keras_internals import flatten_layers, tflite_converter
from modreduce_keras.models.fake_quantization import FakeQuantize
from modreduce_keras.models.graph import advice_on_sizes
from modreduce_keras.models.integer_normalizations import InverseRoot

_WIDEST = 1e8
"""Range that no activations have, and what fills masked scores does."""
_MOVES = (
    *("CONCATENATION", "EXPAND_DIMS", "GATHER", "PACK", "PAD", "PADV2", "RESHAPE", "SLICE"),
    *("SPLIT", "SPLIT_V", "SQUEEZE", "STRIDED_SLICE", "TILE", "TRANSPOSE", "UNPACK"),
)
"""Operations that stay in float between others that do."""


class _InfiniteError(ValueError):
    """Activations without a finite range, on which the converter would crash."""


class Recipe(NamedTuple):
    """How a file is to be.

    Attributes:
        quantization: As in `to_tflite`.
        io: Type of the ends that are floats in the student.
        allow_float: Names of layers, or `True`.
        samples: Batches from which ranges are measured; none where the model brings its own.
    """

    quantization: str | None
    io: str
    allow_float: bool | tuple[str, ...]
    samples: list[dict[str, np.ndarray]]


def convert(model: keras.Model, inputs: Inputs, recipe: Recipe) -> bytes:
    """Returns the content of a TFLite file.

    Args:
        model: In inference and float32.
        inputs: Of the model.
        recipe: How the file is to be.

    Raises:
        ValueError: If the converter refuses the model, or an int8 file would be no such file.
    """
    marks = Marks(model)
    normalizations = integer_forms(model) if recipe.samples else {}
    softmaxes = masked_softmaxes(model) if recipe.samples else {}
    kept = _kept(marks, [form.layer for form in normalizations.values()], recipe.allow_float)
    forms: dict[int, Form] = {**normalizations, **softmaxes}
    forms = {
        key: form
        for key, form in forms.items()
        if not any(is_of(path, kept) for path in marks.paths_of(form.layer))
    }
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / "model"
        instead: dict[int, Callable[..., Any]] = {**forms, **_plain_roundings(model)}
        with equivalents(), unrolled(model), marks.traced(instead):
            measure(forms.values(), model, map(inputs.pack, recipe.samples))
            write_saved_model(model, inputs, saved)
        try:
            with quiet():
                content, tensors = _converted(saved, marks, recipe, kept)
        except _InfiniteError:
            raise
        except Exception as error:
            raise _refused(model, marks, recipe.quantization, error) from error
    if recipe.quantization != "int8":
        return content
    content = operations.with_integer_inputs(content)
    _require_operations(model, marks, recipe, tensors)
    _require_integers(model, marks, recipe, content)
    return content


def _plain_roundings(model: keras.Model) -> dict[int, Callable[..., Any]]:
    """Returns roundings that the converter knows; what is pooled its kernels round as they do.

    The file's kernel gives the largest inverse root for 0 by itself.
    """
    found: dict[int, Callable[..., Any]] = {}
    for one in flatten_layers(model):
        if isinstance(one, FakeQuantize):
            found[id(one)] = lambda inputs, one=one, **_: type(one).call(one, inputs)
        elif isinstance(one, InverseRoot):
            found[id(one)] = one.plain
    return found


def _kept(
    marks: Marks, normalizations: list[keras.layers.Layer], allow_float: bool | tuple[str, ...]
) -> list[str]:
    """Returns the names of layers that stay in float though integers would do."""
    if isinstance(allow_float, bool):
        # Of a normalization integers hold less than of other layers.
        layers = normalizations if allow_float else []
        return [path for layer in layers for path in marks.paths_of(layer)]
    marks.require_names("allow_float", allow_float)
    return list(allow_float)


def _converted(
    saved: Path, marks: Marks, recipe: Recipe, kept: list[str]
) -> tuple[bytes, list[str]]:
    """Returns the content of a file, and the names of the tensors of which some stay in float."""
    converter = tf.lite.TFLiteConverter.from_saved_model(str(saved))
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    if recipe.quantization is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if recipe.quantization == "float16":
        converter.target_spec.supported_types = [tf.float16]
    ends = tf.dtypes.as_dtype(recipe.io)
    if not recipe.samples:
        converter.inference_input_type = converter.inference_output_type = ends
        return converter.convert(), []
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.representative_dataset = lambda: _one_by_one(recipe.samples)
    # In two steps, of which only the second takes names.
    calibrated = tflite_converter.calibrated(converter)
    _require_finite(calibrated, marks)
    if recipe.allow_float is True:
        wide = operations.wide_tensors(calibrated, _WIDEST)
        kept = [*kept, *(path for one in wide for path in marks.paths(one)[:1])]
    tensors = operations.computed_tensors(calibrated)
    floats = [one for one in tensors if any(is_of(path, kept) for path in marks.paths(one))]
    content = tflite_converter.quantized(calibrated, ends, floats)
    # A range that two tensors have to share is handed on to the one that is left.
    while recipe.allow_float is True:
        wide = [one for one in operations.wide_tensors(content, _WIDEST) if one not in floats]
        if not set(wide) & set(tensors):
            break
        floats += wide
        content = tflite_converter.quantized(calibrated, ends, floats)
    return content, tensors


def _require_finite(calibrated: bytes, marks: Marks) -> None:
    """Raises if the range of activations is infinite: the process would not survive the next step.

    Layers that are to stay in float are no exception to the converter.
    """
    infinite = operations.infinite_tensors(calibrated)
    if infinite:
        paths = dict.fromkeys(path for one in infinite for path in marks.paths(one)[:1])
        raise _InfiniteError(
            "representative must have inputs for which the student's activations are finite: "
            "scale them as in training, or clip what the layers compute. Received: inputs that "
            f"give infinities in {list(paths) or infinite}"
        )


def _one_by_one(samples: list[dict[str, np.ndarray]]) -> Iterator[dict[str, np.ndarray]]:
    # The calibrator keeps the number of samples that comes first.
    for batch in samples:
        for index in range(len(next(iter(batch.values())))):
            yield {name: array[index : index + 1] for name, array in batch.items()}


def _refused(
    model: keras.Model, marks: Marks, quantization: str | None, error: Exception
) -> ValueError:
    lacking = marks.by_layer(tflite_converter.refused_operations(error))
    if lacking:
        return ValueError(
            f"The student {model.name!r} has layers with operations that TFLite lacks: {lacking}. "
            "They would need TensorFlow's own (Flex) kernels, which devices do not have: "
            f"{advice_on_sizes(model)}replace them by layers of other operations (recurrent "
            "layers: at most 256 steps, or unroll=True), or export with to_saved_model."
        )
    remedy = ", or take quantization='dynamic' or 'float16'" if quantization == "int8" else ""
    return ValueError(
        f"TensorFlow's converter refuses the student {model.name!r}: replace the layers that it "
        f"names{remedy}. It said: {without_marks(str(error)).strip()[:2000]}"
    )


def _require_operations(
    model: keras.Model, marks: Marks, recipe: Recipe, tensors: list[str]
) -> None:
    """Raises if nothing is left of a layer that is to stay in float."""
    if isinstance(recipe.allow_float, bool):
        return
    paths = {path for one in tensors for path in marks.paths(one)}
    gone = [name for name in recipe.allow_float if not any(is_of(path, [name]) for path in paths)]
    if gone:
        raise ValueError(
            f"allow_float must name layers that compute something in the file of {model.name!r}, "
            "and these do not: they are folded into others (batch normalizations, scales), or do "
            f"nothing in inference. Received: {gone}"
        )


def _require_integers(model: keras.Model, marks: Marks, recipe: Recipe, content: bytes) -> None:
    """Raises if a layer is not to stay in float, and integers do not do for it."""
    allowed = recipe.allow_float
    floats: dict[str, set[str]] = {}
    unnamed = False
    if allowed is not True:
        for name, tensor in operations.float_operations(content):
            paths = marks.paths(tensor)
            if not paths:
                paths, unnamed = [name], True
            is_between = bool(allowed) and name in _MOVES
            if not is_between and not any(is_of(path, allowed or ()) for path in paths):
                floats.setdefault(paths[0], set()).add(name)
    wide = [
        path for one in operations.wide_tensors(content, _WIDEST) for path in marks.paths(one)[:1]
    ]
    if not floats and not wide:
        return
    listed = {path: sorted(names) for path, names in floats.items()}
    found = [
        f"layers that TFLite computes in floats only, with its names of their operations: {listed}"
        if listed
        else "",
        "layers with numbers beyond 1e8, which leave nothing of others in 8 bits (masked attention "
        f"fills scores with such numbers): {list(dict.fromkeys(wide))}"
        if wide
        else "",
    ]
    named: Any = [*(() if allowed is True else allowed or ()), *floats, *wide]
    # What no layer does (a choice between two branches of a model) has no name to allow it by.
    named = True if unnamed else list(dict.fromkeys(named))
    # A quantization-aware student has no layers in float, and no other files.
    remedy = (
        f"Leave them in float with allow_float={named}, replace them, or take "
        "quantization='dynamic' or 'float16'"
        if recipe.samples
        else "Replace them by layers that int8 files can compute"
    )
    raise ValueError(
        f"The student {model.name!r} has {'; and '.join(filter(None, found))}. {remedy}. "
        f"Received: quantization='int8', allow_float={allowed!r}"
    )
