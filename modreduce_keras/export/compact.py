"""Compact: removes names and copies that no runtime reads from a TFLite file."""

from collections.abc import Callable
from typing import Any

import flatbuffers
import numpy as np

from modreduce_keras.keras_internals.tflite_converter import file_as_objects, schema

_FILE_IDENTIFIER = b"TFL3"
_ALIGNMENT = 16
"""Bytes at whose multiples the schema wants the data of buffers."""
_EMPTY = 0
"""The buffer that every file begins with, for tensors that are computed."""
_UNREAD = (b"CONVERSION_METADATA",)
"""Metadata of the conversion: which converter, which options."""


def compact(content: bytes) -> bytes:
    """Returns a TFLite file that does the same in fewer bytes.

    Dropped are the names of layers, of which the converter joins those that it fuses, its notes on
    the conversion, and empty buffers and quantizations. What is equal (shapes, scales, zero points,
    weights) is written once. Signatures stay, and the tensors at their ends take their names.
    Operations, their order and the order of tensors stay as they are, and so does what the file
    computes, bit for bit.

    Args:
        content: Of the file.
    """
    model = file_as_objects(content)
    if any(buffer.offset for buffer in model.buffers):
        # From two gigabytes on, weights lie behind the flatbuffer.
        return content
    model.description = None
    model.metadata = [one for one in model.metadata or [] if one.name not in _UNREAD]
    for graph in model.subgraphs:
        graph.name = None
        for tensor in graph.tensors:
            tensor.name = None
            if _is_plain(tensor.quantization):
                tensor.quantization = None
    for signature in model.signatureDefs or []:
        tensors = model.subgraphs[signature.subgraphIndex].tensors
        for end in (*signature.inputs, *signature.outputs):
            tensors[end.tensorIndex].name = end.name
    _keep_buffers_with_data(model)
    builder = _SharingBuilder(len(content))
    builder.Finish(model.Pack(builder), file_identifier=_FILE_IDENTIFIER)
    return bytes(builder.Output())


def _is_plain(quantization: schema.QuantizationParametersT | None) -> bool:
    return quantization is None or (quantization.scale is None and quantization.details is None)


def _keep_buffers_with_data(model: schema.ModelT) -> None:
    """Drops buffers that are empty or that nothing refers to, and numbers the others anew."""
    tensors = [tensor for graph in model.subgraphs for tensor in graph.tensors]
    owners = [*tensors, *model.metadata]
    kept = {_EMPTY: _EMPTY}
    for owner in owners:
        data = model.buffers[owner.buffer].data
        number = _EMPTY if data is None or not len(data) else owner.buffer
        owner.buffer = kept.setdefault(number, len(kept))
    model.buffers = [model.buffers[number] for number in kept]


class _SharingBuilder(flatbuffers.Builder):
    """A builder that writes equal strings and equal vectors of numbers once."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self._written: dict[tuple[str, Any], int] = {}

    def CreateString(self, s: Any, encoding: str = "utf-8", errors: str = "strict") -> Any:  # noqa: N802
        return self._once(("string", s), lambda: super(_SharingBuilder, self).CreateString(s))

    def CreateNumpyVector(self, x: Any) -> Any:  # noqa: N802
        def write() -> Any:
            if x.dtype == np.uint8:
                # Python's own vectors of bytes stand anywhere.
                self.Prep(_ALIGNMENT, x.nbytes)
            return super(_SharingBuilder, self).CreateNumpyVector(x)

        return self._once((x.dtype.str, x.tobytes()), write)

    def _once(self, key: tuple[str, Any], write: Callable[[], int]) -> int:
        if key not in self._written:
            self._written[key] = write()
        return self._written[key]
