"""TFLite: exports a student for phones and small devices, in float32, float16 or int8."""

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import keras
import numpy as np

from modreduce_keras import whole_files
from modreduce_keras.arguments import require_choice
from modreduce_keras.batches import require_finite_inputs
from modreduce_keras.export.compact import compact
from modreduce_keras.export.conversion import Recipe, convert
from modreduce_keras.export.files import require_file
from modreduce_keras.export.samples import batches
from modreduce_keras.export.students import (
    Inputs,
    inference_model,
    require_finite_weights,
    require_student,
)
from modreduce_keras.models.fake_quantization import is_quantization_aware

QUANTIZATIONS = ("float16", "dynamic", "int8")
IO = ("float32", "int8", "uint8")
LEAST_SAMPLES = 32


def to_tflite(
    student: keras.Model,
    path: str | os.PathLike,
    *,
    quantization: str | None = None,
    representative: Any = None,
    io: str = "float32",
    allow_float: bool | Collection[str] = False,
) -> Path:
    """Exports a student as a TFLite file, which the LiteRT interpreter runs.

    The file holds an inference model in float32, also for students trained in other precisions,
    with batch normalizations folded into the weights (`mr.models.fold`). A subclassed model, which
    cannot be folded, is exported as it is, in float32 only. Inputs have the same names as in the
    student, and the output is `"logits"`. The signature `"serving_default"` takes any number of
    samples; an interpreter takes one by default.

    The file uses built-in operations only, so every LiteRT runtime runs it. Recurrent layers of at
    most 256 steps are unrolled; `roll` and Fourier transforms of `keras.ops` are computed by slices
    and by products with matrices, where the sizes are known. The file is compact: names of
    layers are removed, and equal constants are stored once. An existing file is replaced only when
    the new one is complete.

    Args:
        student: A built Keras model with one output.
        path: File to write, which ends in `.tflite`.
        quantization: `None`, the default: float32. `"float16"`: weights in float16, half the size;
            arithmetic in float32 if the device does not support float16. `"dynamic"`: weights in
            int8 for layers with more than 1,024 of them, a quarter of the size; activations are
            quantized at run time. `"int8"`: weights (per channel) and activations (per tensor) in
            int8 throughout, for int8 inference.
        representative: For `"int8"` only: inputs from which the ranges of activations are measured,
            best a few hundred training images and at least 32. A finite dataset of batches `x` or
            `(x, y)`, where `y` is ignored, or an array. Not needed for a student of
            `mr.quantize_aware`, which has learnt its ranges.
        io: For `"int8"` only: type of the inputs and the output that are floats in the student.
            `"float32"`, the default, quantizes and dequantizes in the file. With `"int8"` and
            `"uint8"`, which microcontrollers and the Edge TPU need, the program does this: real
            value = scale × (integer - zero point), with the scale and the zero point from the
            interpreter. Inputs that are integers in the student do not change, such as `uint8`
            images that the student rescales or casts.
        allow_float: For `"int8"` only: names of layers that stay in float, for accuracy or because
            TFLite supports them in float only; or `True` for all of the latter and for layer,
            group, RMS and unit normalizations. A path is a name too (`"block/norm"`), and the name
            of a model or layer includes everything in it. Defaults to `False`: a student with an
            operation that TFLite supports in float only raises an error, and normalizations are
            computed in integers.

    Returns:
        The path.

    Raises:
        TypeError: If the student is not a Keras model, or `representative` is not data.
        ValueError: If the student is a distiller or a branched model (export one of its students),
            has several outputs, is in another precision and cannot be rebuilt, or has an operation
            that TFLite does not support, at all or in integers; if activations have no range that
            int8 can represent, as where something other than Keras' `Softmax` masks scores; if
            `representative` is missing, not needed, has too few samples, does not fit the student
            or is not finite; if weights or activations of an int8 file are not finite; or if
            another argument is out of range.
        FileNotFoundError: If the folder of the file is missing.

    Example:
        >>> import tempfile, modreduce_keras as mr
        >>> student = mr.models.get("convnet", num_classes=10, widths=(16, 32, 64))
        >>> folder = tempfile.mkdtemp()
        >>> full = to_tflite(student, f"{folder}/student.tflite")
        >>> half = to_tflite(student, f"{folder}/half.tflite", quantization="float16")
        >>> round(full.stat().st_size / half.stat().st_size)
        2

        A file for a microcontroller, with integer inputs and outputs:

        >>> import numpy as np
        >>> images = np.random.default_rng(0).random((64, 28, 28, 1)).astype("float32")
        >>> int8 = {"quantization": "int8", "representative": images, "io": "int8"}
        >>> small = to_tflite(student, f"{folder}/small.tflite", **int8)
        >>> mr.export.verify(small, student, images, least_agreement=0.9).samples
        64
    """
    inputs = require_student(student)
    path = require_file(path, ".tflite")
    if quantization is not None:
        require_choice("quantization", quantization, QUANTIZATIONS)
    require_choice("io", io, IO)
    allow_float = _names(allow_float)
    if quantization != "int8" and (io != "float32" or allow_float):
        raise ValueError(
            "io and allow_float are for quantization='int8': other files compute in floats. "
            f"Received: {quantization=}, {io=}, {allow_float=}"
        )
    if quantization == "int8":
        require_finite_weights(student)
    if is_quantization_aware(student):
        _require_own_ranges(student, quantization, representative, allow_float)
        samples = []
    else:
        samples = _representative(quantization, representative, inputs)
    recipe = Recipe(quantization, io, allow_float, samples)
    content = convert(inference_model(student), inputs, recipe)
    whole_files.write(path, compact(content))
    return path


def _names(allow_float: Any) -> bool | tuple[str, ...]:
    """Returns `allow_float` as a tuple of names or a bool."""
    if isinstance(allow_float, bool):
        return allow_float
    is_list = isinstance(allow_float, Collection) and not isinstance(allow_float, (str, bytes))
    if not is_list or not all(isinstance(name, str) for name in allow_float):
        raise TypeError(
            "allow_float must be True, False or a list of names of layers. Received: "
            f"{allow_float=}"
        )
    return tuple(allow_float)


def _require_own_ranges(
    student: keras.Model,
    quantization: str | None,
    representative: Any,
    allow_float: bool | tuple[str, ...],
) -> None:
    if allow_float:
        raise ValueError(
            f"The student {student.name!r} is quantization-aware: all of its layers are rounded, "
            f"and none is to stay in float. Received: {allow_float=}"
        )
    if quantization != "int8" or representative is not None:
        raise ValueError(
            f"The student {student.name!r} is quantization-aware and has its own ranges: export "
            "it with quantization='int8' and without representative=. Received: "
            f"{quantization=}, representative= of type {type(representative).__name__}"
        )


def _representative(
    quantization: str | None, representative: Any, inputs: Inputs
) -> list[dict[str, np.ndarray]]:
    """Returns the representative batches."""
    if quantization != "int8":
        if representative is not None:
            raise ValueError(
                "representative is what the ranges of activations are measured from, for "
                f"quantization='int8' alone. Received: {quantization=} with representative= of "
                f"type {type(representative).__name__}"
            )
        return []
    if representative is None:
        raise ValueError(
            "quantization='int8' measures the ranges of activations: give representative=, an "
            "array or a dataset of some hundreds of training images. Received: representative=None"
        )
    found = [x for x, _ in batches("representative", representative, inputs)]
    for x in found:
        require_finite_inputs("representative", x)
    several = sum(len(next(iter(x.values()))) for x in found)
    if several < LEAST_SAMPLES:
        raise ValueError(
            f"representative must have at least {LEAST_SAMPLES} samples, and best some hundreds. "
            f"Received: {several}"
        )
    return found
