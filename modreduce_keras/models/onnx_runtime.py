"""ONNX Runtime: opens ONNX files, and says what they take."""

from pathlib import Path
from typing import Any

_FATAL = 4
"""Its logger's highest level: errors are raised anyway."""
_DTYPES = {"float": "float32", "double": "float64"}
"""ONNX Runtime's names of types that NumPy names otherwise."""


def opened(path: Path, does: str, threads: int | None = None) -> Any:
    """Returns a session that runs an ONNX file on the processor.

    Args:
        path: The file.
        does: Who runs it, for the message where ONNX Runtime is missing: "verify runs".
        threads: How many threads may run an operation; `None` for all cores.

    Raises:
        ImportError: If ONNX Runtime is missing.
        Exception: What ONNX Runtime raises for a file that it cannot run; these have no class in
            common.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(
            f"{does} .onnx files with ONNX Runtime, whose package onnxruntime is missing: "
            "pip install 'modreduce-keras[onnx]'"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = _FATAL
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def shape_of(details: Any) -> tuple[int | None, ...]:
    """Returns the shape of an input or output of a session, `None` where a size is free."""
    return tuple(size if isinstance(size, int) else None for size in details.shape)


def dtype_of(details: Any) -> str:
    """Returns NumPy's name of the dtype of an input or output of a session."""
    kind = details.type.removeprefix("tensor(").removesuffix(")")
    return _DTYPES.get(kind, kind)
