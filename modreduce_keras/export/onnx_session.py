"""ONNX session: runs an ONNX file with ONNX Runtime, on the processor."""

from pathlib import Path
from typing import Any

import numpy as np

from modreduce_keras.export.runnable import RunnableFile, Tensor

_FATAL = 4
"""Its logger's highest level: errors are raised anyway."""
_DTYPES = {"float": "float32", "double": "float64"}
"""ONNX Runtime's names of types that NumPy names otherwise."""


class ONNXFile(RunnableFile):
    """An ONNX file that is ready to run.

    Args:
        path: The file.
        threads: How many threads may run an operation.

    Raises:
        ImportError: If ONNX Runtime is missing.
        UnusableFileError: If ONNX Runtime cannot run the file, or it has several outputs.
    """

    def __init__(self, path: Path, threads: int) -> None:
        super().__init__(path)
        self.threads = threads
        runtime = _require_runtime()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = _FATAL
        try:
            self._session = runtime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # Its errors have no class in common.
            raise self._unusable(f"ONNX Runtime cannot read it: {error}") from error
        outputs = [one.name for one in self._session.get_outputs()]
        if len(outputs) != 1:
            raise self._unusable(f"it has the outputs {sorted(outputs)}, and one is needed")
        self.inputs = {one.name: _tensor(one) for one in self._session.get_inputs()}

    def _feed(self, arrays: dict[str, np.ndarray]) -> None:
        self._fed = arrays

    def _invoke(self) -> np.ndarray:
        try:
            (output,) = self._session.run(None, self._fed)
        except Exception as error:
            raise self._unusable(f"ONNX Runtime fails to run it: {error}") from error
        return output


def _require_runtime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(
            "verify runs .onnx files with ONNX Runtime, whose package onnxruntime is missing: "
            "pip install 'modreduce-keras[onnx]'"
        ) from error
    return onnxruntime


def _tensor(details: Any) -> Tensor:
    kind = details.type.removeprefix("tensor(").removesuffix(")")
    shape = tuple(size if isinstance(size, int) else -1 for size in details.shape)
    try:
        dtype = np.dtype(_DTYPES.get(kind, kind))
    except TypeError:
        # Strings, sequences and the like, which no student takes.
        dtype = np.dtype(object)
    return Tensor(shape, dtype)
