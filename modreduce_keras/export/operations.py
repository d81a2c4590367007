"""Operations of a TFLite file: which of them compute in floats where all is to be in integers."""

from tensorflow.lite.python import schema_py_generated as schema
from tensorflow.lite.tools import flatbuffer_utils

_NO_ARITHMETIC = ("QUANTIZE", "DEQUANTIZE", "SHAPE")


def float_operations(content: bytes) -> list[str]:
    """Returns the names of a file's operations that read or write floats.

    Left out are those that turn floats into integers and back, or only look at a shape.

    Args:
        content: Of the file.
    """
    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
    names = set()
    for graph in model.subgraphs:
        for operation in graph.operators:
            name = flatbuffer_utils.opcode_to_name(model, operation.opcodeIndex)
            # An optional input that is not given is -1.
            tensors = [i for i in (*operation.inputs, *operation.outputs) if i >= 0]
            floats = any(graph.tensors[i].type == schema.TensorType.FLOAT32 for i in tensors)
            if floats and name not in _NO_ARITHMETIC:
                names.add(name)
    return sorted(names)
