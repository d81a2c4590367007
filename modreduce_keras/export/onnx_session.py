"""ONNX session: runs an ONNX file with ONNX Runtime, on the processor."""

from pathlib import Path
from typing import Any

import numpy as np

from modreduce_keras.export.runnable import RunnableFile, Tensor
from modreduce_keras.models import onnx_runtime


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
        try:
            self._session = onnx_runtime.opened(path, "verify runs", threads)
        except ImportError:
            raise
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
            raise self._unusable(
                f"ONNX Runtime fails to run it: {error}. If to_onnx has made the file, its "
                "converter fails on the layer that is named: replace it, or export with "
                "to_saved_model"
            ) from error
        return output


def _tensor(details: Any) -> Tensor:
    shape = tuple(-1 if size is None else size for size in onnx_runtime.shape_of(details))
    try:
        dtype = np.dtype(onnx_runtime.dtype_of(details))
    except TypeError:
        # Strings, sequences and the like, which no student takes.
        dtype = np.dtype(object)
    return Tensor(shape, dtype)
