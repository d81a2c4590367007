"""Operations of a TFLite file: what they compute in, and from which tensors."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from modreduce_keras.keras_internals import tflite_converter
from modreduce_keras.keras_internals.tflite_converter import schema

_NO_ARITHMETIC = ("QUANTIZE", "DEQUANTIZE", "SHAPE")
_FLOAT = schema.TensorType.FLOAT32
_BYTES = (schema.TensorType.INT8, schema.TensorType.UINT8)


class FloatOperation(NamedTuple):
    """An operation that reads or writes floats: its name, and that of the tensor that it writes."""

    name: str
    tensor: str


def float_operations(content: bytes) -> list[FloatOperation]:
    """Returns a file's operations that read or write floats.

    Left out are those that turn floats into integers and back, inputs of integers into floats, or
    only look at a shape.

    Args:
        content: Of the file, before it is made compact.
    """
    model = tflite_converter.file_as_objects(content)
    found = []
    for graph in model.subgraphs:
        for operation in _operators(graph):
            name = tflite_converter.operation_name(model, operation.opcodeIndex)
            # An optional input that is not given is -1.
            tensors = [i for i in (*operation.inputs, *operation.outputs) if i >= 0]
            floats = any(graph.tensors[i].type == _FLOAT for i in tensors)
            is_edge = name == "CAST" and operation.inputs[0] in graph.inputs
            if floats and name not in _NO_ARITHMETIC and not is_edge:
                found.append(FloatOperation(name, _name(graph, operation)))
    return found


def computed_tensors(content: bytes) -> list[str]:
    """Returns the names of the tensors that operations write.

    Args:
        content: Of the file, before it is made compact.
    """
    model = tflite_converter.file_as_objects(content)
    return [tensor.name.decode() for tensor in _written(model)]


def wide_tensors(content: bytes, widest: float) -> list[str]:
    """Returns the names of the tensors in int8, or to be, whose range is wider than a number.

    Args:
        content: Of the file, before it is made compact, or before it is quantized to the ranges
            that are in it.
        widest: Range, in the numbers that the tensor stands for.
    """
    model = tflite_converter.file_as_objects(content)
    return [tensor.name.decode() for tensor in _written(model) if _range(tensor) > widest]


def infinite_tensors(content: bytes) -> list[str]:
    """Returns the names of the tensors whose measured range is not finite.

    Args:
        content: Of the file, before it is quantized to the ranges that are in it.
    """
    model = tflite_converter.file_as_objects(content)
    written = [one for one in _written(model) if one.quantization is not None]
    return [one.name.decode() for one in written if not _is_finite(one.quantization)]


def _is_finite(found: schema.QuantizationParametersT) -> bool:
    ends = [one for one in (found.min, found.max) if one is not None]
    return all(np.isfinite(one).all() for one in ends)


def _written(model: Any) -> Iterator[Any]:
    """Yields the tensors that operations write."""
    for graph in model.subgraphs:
        for operation in _operators(graph):
            yield from (graph.tensors[i] for i in operation.outputs)


def with_integer_inputs(content: bytes) -> bytes:
    """Returns a file whose inputs of 8 bits are not cast to floats, but read as what they are.

    Where the converter casts such an input and quantizes the floats, the input is quantized
    itself, with scale 1 and zero point 0, and what was a cast changes the scale.

    Args:
        content: Of the file.
    """
    model = tflite_converter.file_as_objects(content)
    graph = model.subgraphs[0]
    casts = list(_casts_of_inputs(model, graph))
    if not casts:
        return content
    for cast in casts:
        given, cast_output = cast.inputs[0], cast.outputs[0]
        graph.tensors[given].quantization = _as_it_is()
        readers = [one for one in graph.operators if cast_output in one.inputs]
        for reader in readers:
            if tflite_converter.operation_name(model, reader.opcodeIndex) == "QUANTIZE":
                reader.inputs = np.array([given], np.int32)
        still_read = any(cast_output in one.inputs for one in graph.operators)
        if still_read or cast_output in graph.outputs:
            cast.opcodeIndex = _opcode(model, "DEQUANTIZE")
            cast.builtinOptionsType = schema.BuiltinOptions.DequantizeOptions
            cast.builtinOptions = schema.DequantizeOptionsT()
        else:
            graph.operators.remove(cast)
    return tflite_converter.file_of(model)


def _casts_of_inputs(model: schema.ModelT, graph: schema.SubGraphT) -> Iterator[schema.OperatorT]:
    for operation in graph.operators:
        if tflite_converter.operation_name(model, operation.opcodeIndex) != "CAST":
            continue
        source, target = operation.inputs[0], operation.outputs[0]
        is_byte = graph.tensors[source].type in _BYTES
        if source in graph.inputs and is_byte and graph.tensors[target].type == _FLOAT:
            yield operation


def _as_it_is() -> schema.QuantizationParametersT:
    parameters = schema.QuantizationParametersT()
    parameters.scale = np.array([1.0], np.float32)
    parameters.zeroPoint = np.array([0], np.int64)
    return parameters


def _opcode(model: schema.ModelT, name: str) -> int:
    """Returns the number of an operation's code in a file, which gets one if it has none."""
    for index in range(len(model.operatorCodes)):
        if tflite_converter.operation_name(model, index) == name:
            return index
    code = schema.OperatorCodeT()
    code.builtinCode = getattr(schema.BuiltinOperator, name)
    code.deprecatedBuiltinCode = min(code.builtinCode, 127)
    code.version = 2
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def _operators(graph: schema.SubGraphT) -> Sequence[schema.OperatorT]:
    """Returns the operations of a graph; a branch that only passes its input on has none."""
    return graph.operators or ()


def _range(tensor: schema.TensorT) -> float:
    """Returns the range of a tensor, 0 where it has none."""
    found = tensor.quantization
    if found is None:
        return 0.0
    if tensor.type in _BYTES and found.scale is not None and len(found.scale) == 1:
        return 255.0 * float(found.scale[0])
    is_measured = found.min is not None and found.max is not None and len(found.min)
    return float(np.max(found.max) - np.min(found.min)) if is_measured else 0.0


def _name(graph: schema.SubGraphT, operation: schema.OperatorT) -> str:
    return graph.tensors[operation.outputs[0]].name.decode()
