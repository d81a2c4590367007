"""TensorFlow's TFLite converter, and the files that it writes. Only `export` imports it."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from tensorflow.lite.python import schema_py_generated
from tensorflow.lite.python.convert import mlir_quantize
from tensorflow.lite.tools import flatbuffer_utils

__all__ = [
    "calibrated",
    "file_as_objects",
    "file_of",
    "operation_name",
    "quantized",
    "refused_operations",
]

schema = schema_py_generated
"""Classes of the parts of a TFLite file."""


def calibrated(converter: tf.lite.TFLiteConverter) -> bytes:
    """Returns a file in float that holds the ranges measured on the representative data.

    Relies on `TFLiteConverter._experimental_calibrate_only`, as TensorFlow's QuantizationDebugger
    does: quantization in two steps is the only one that takes names of what stays in float.
    """
    converter._experimental_calibrate_only = True
    return converter.convert()


def quantized(calibrated: bytes, ends: tf.DType, in_float: Sequence[str]) -> bytes:
    """Returns a calibrated file in int8.

    Relies on `tensorflow.lite.python.convert.mlir_quantize`, the second step.

    Args:
        calibrated: The file.
        ends: Type of inputs and outputs.
        in_float: Names of the tensors that stay in float.
    """
    return mlir_quantize(
        calibrated,
        input_data_type=ends,
        output_data_type=ends,
        denylisted_nodes=list(in_float),
    )


def refused_operations(error: Exception) -> list[tuple[str, list[str]]]:
    """Returns the operations of TensorFlow that a conversion failed at: (name, places) of each.

    Relies on `ConverterError.errors`, which holds `ConverterErrorData`: the name of an operation,
    `"tf.Erfinv"`, and the names of the calls that lead to it.
    """
    return [
        (one.operator.name.removeprefix("tf."), [call.name for call in one.location.call])
        for one in getattr(error, "errors", ())
        if one.operator.name.startswith("tf.") and one.location.call
    ]


def file_as_objects(content: bytes) -> schema_py_generated.ModelT:
    """Returns the content of a file as objects, which can be changed and packed.

    Relies on `tensorflow.lite.tools.flatbuffer_utils` and `tensorflow.lite.python`'s generated
    schema; TensorFlow publishes neither.
    """
    return flatbuffer_utils.convert_bytearray_to_object(bytearray(content))


def file_of(model: schema_py_generated.ModelT) -> bytes:
    """Returns the content of a file, of its objects; relies on the same."""
    return flatbuffer_utils.convert_object_to_bytearray(model)


def operation_name(model: Any, opcode: int) -> str:
    """Returns the name of an operation, by the index of its code; relies on the same."""
    return flatbuffer_utils.opcode_to_name(model, opcode)
