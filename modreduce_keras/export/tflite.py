"""TFLite: a student as one file for phones and small devices, in full or lower precision."""

import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from modreduce_keras import whole_files
from modreduce_keras.arguments import require_choice
from modreduce_keras.export.compact import compact
from modreduce_keras.export.files import require_file
from modreduce_keras.export.operations import float_operations
from modreduce_keras.export.quiet import quiet
from modreduce_keras.export.samples import batches
from modreduce_keras.export.saved_model import write_saved_model
from modreduce_keras.export.students import Inputs, inference_model, require_student
from modreduce_keras.models.fake_quantization import is_quantization_aware

QUANTIZATIONS = ("float16", "dynamic", "int8")
LEAST_SAMPLES = 32


def to_tflite(
    student: keras.Model,
    path: str | os.PathLike,
    *,
    quantization: str | None = None,
    representative: Any = None,
) -> Path:
    """Exports a student as a TFLite file, which the LiteRT interpreter runs.

    The file holds an inference model in float32, whatever precision the student was trained in,
    with batch normalization folded away (`mr.models.fold`). A subclassed model, which cannot be
    taken apart, goes as it is, in float32 only. Inputs keep the names that they have in the
    student, the output is `"logits"`; the signature `"serving_default"` takes any number of
    samples, and an interpreter that is not told otherwise one.

    The file has built-in operations only, so every LiteRT runtime runs it, and is compact: names of
    layers are not in it, and equal numbers once. It is written beside its place first: what stands
    there stays until the new one is complete.

    Args:
        student: A built Keras model with one output.
        path: File to write, which ends in `.tflite`.
        quantization: `None`, the default: float32. `"float16"`: weights in float16, half the size;
            arithmetic in float32 where the device has nothing else. `"dynamic"`: weights in int8,
            of layers with more than 1,024 of them, a quarter of the size; activations are
            quantized while it runs. `"int8"`: weights (per channel) and activations (per tensor)
            in int8 throughout, for devices that compute in integers; only inputs and outputs stay
            float32. A student with an operation that TFLite has in floats only is refused.
        representative: For `"int8"` alone: inputs from which the ranges of activations are
            measured, best some hundreds of training images and at least 32. A dataset of batches
            `x` or `(x, y)` that ends, of which `y` is left aside, or an array. A student of
            `mr.quantize_aware` has learnt its ranges, and takes none.

    Returns:
        The path.

    Raises:
        TypeError: If something else than a Keras model came, or `representative` is no data.
        ValueError: If the student is a distiller or a branched model, which has students, has
            several outputs, is in another precision and cannot be rebuilt, or has an operation
            that TFLite lacks, at all or in integers; if `representative` is missing, not needed,
            has too few samples or does not fit the student; or if another argument is out of
            range.
        FileNotFoundError: If the folder of the file is missing.

    Example:
        >>> import tempfile, modreduce_keras as mr
        >>> student = mr.models.get("convnet", num_classes=10, widths=(16, 32, 64))
        >>> folder = tempfile.mkdtemp()
        >>> full = to_tflite(student, f"{folder}/student.tflite")
        >>> half = to_tflite(student, f"{folder}/half.tflite", quantization="float16")
        >>> round(full.stat().st_size / half.stat().st_size)
        2
    """
    inputs = require_student(student)
    path = require_file(path, ".tflite")
    if quantization is not None:
        require_choice("quantization", quantization, QUANTIZATIONS)
    if is_quantization_aware(student):
        _require_own_ranges(student, quantization, representative)
        samples = []
    else:
        samples = _representative(quantization, representative, inputs)
    content = _convert(inference_model(student), inputs, quantization, samples)
    whole_files.write(path, compact(content))
    return path


def _require_own_ranges(
    student: keras.Model, quantization: str | None, representative: Any
) -> None:
    if quantization != "int8" or representative is not None:
        raise ValueError(
            f"The student {student.name!r} is quantization-aware and brings its own ranges: export "
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
    several = sum(len(next(iter(x.values()))) for x in found)
    if several < LEAST_SAMPLES:
        raise ValueError(
            f"representative must have at least {LEAST_SAMPLES} samples, and best some hundreds. "
            f"Received: {several}"
        )
    return found


def _convert(
    model: keras.Model,
    inputs: Inputs,
    quantization: str | None,
    samples: list[dict[str, np.ndarray]],
) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        write_saved_model(model, inputs, Path(folder) / "model")
        with quiet():
            converter = tf.lite.TFLiteConverter.from_saved_model(str(Path(folder) / "model"))
            operations = [tf.lite.OpsSet.TFLITE_BUILTINS]
            if quantization is not None:
                converter.optimizations = [tf.lite.Optimize.DEFAULT]
            if quantization == "float16":
                converter.target_spec.supported_types = [tf.float16]
            if samples:
                operations = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
                converter.representative_dataset = lambda: _one_by_one(samples)
            converter.target_spec.supported_ops = operations
            try:
                content = converter.convert()
            except Exception as error:
                raise _refused(model, quantization, error) from error
    floats = float_operations(content) if quantization == "int8" else []
    if floats:
        raise ValueError(
            f"The student {model.name!r} has operations that TFLite computes in floats only: "
            f"{floats}. Replace their layers by ones of other operations, or take "
            "quantization='dynamic' or 'float16'. Received: quantization='int8'"
        )
    return content


def _one_by_one(samples: list[dict[str, np.ndarray]]) -> Iterator[dict[str, np.ndarray]]:
    # The calibrator keeps the number of samples that comes first.
    for batch in samples:
        for place in range(len(next(iter(batch.values())))):
            yield {name: array[place : place + 1] for name, array in batch.items()}


def _refused(model: keras.Model, quantization: str | None, error: Exception) -> ValueError:
    lacking = sorted(set(re.findall(r"'tf\.(\w+)' op", str(error))))
    if lacking:
        return ValueError(
            f"The student {model.name!r} has operations that TFLite lacks: {lacking}. They would "
            "need TensorFlow's own (Flex) kernels, which devices do not have: replace their layers "
            "by ones of other operations (recurrent layers: unroll=True), or export with "
            "to_saved_model."
        )
    remedy = ", or take quantization='dynamic' or 'float16'" if quantization == "int8" else ""
    return ValueError(
        f"TensorFlow's converter refuses the student {model.name!r}: replace the layers that it "
        f"names{remedy}. It said: {str(error).strip()[:2000]}"
    )
