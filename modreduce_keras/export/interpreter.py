"""Interpreter: runs a TFLite file with LiteRT on batches of any size."""

from pathlib import Path
from typing import Any

import numpy as np

from modreduce_keras.export.quiet import quiet
from modreduce_keras.export.runnable import RunnableFile, Tensor

_SERVED = "serving_default"


def require_interpreter() -> Any:
    """Returns the class of LiteRT's interpreter.

    Raises:
        ImportError: If its package is missing.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise ImportError(
            "verify runs TFLite files with LiteRT, whose package ai-edge-litert is missing: "
            "pip install 'modreduce-keras[export]'"
        ) from error
    return Interpreter


class TFLiteFile(RunnableFile):
    """A TFLite file that is ready to run.

    Where its ends are integers that stand for floats, it takes and gives these floats: they are
    quantized, and turned back, by the scale and the zero point in the file.

    Args:
        path: The file.
        threads: How many threads may run an operation.

    Raises:
        ImportError: If LiteRT is missing.
        UnusableFileError: If LiteRT cannot run the file, or it has several outputs.
    """

    def __init__(self, path: Path, threads: int) -> None:
        super().__init__(path)
        self.threads = threads
        interpreter = require_interpreter()
        try:
            with quiet():
                self._interpreter = interpreter(model_path=str(path), num_threads=threads)
                inputs, outputs = self._ends()
        except (ValueError, RuntimeError) as error:
            raise self._unusable(f"LiteRT cannot read it: {error}") from error
        if len(outputs) != 1:
            raise self._unusable(f"it has the outputs {sorted(outputs)}, and one is needed")
        self.inputs = {name: _tensor(details) for name, details in inputs.items()}
        self._inputs = {name: _End(details) for name, details in inputs.items()}
        (output,) = outputs.values()
        self._output = _End(output)
        self._shapes: dict[str, tuple[int, ...]] | None = None

    def _ends(self) -> list[dict[str, dict[str, Any]]]:
        signatures = list(self._interpreter.get_signature_list())
        if signatures:
            key = _SERVED if _SERVED in signatures else signatures[0]
            # Not kept: the interpreter cannot be resized while a runner holds it.
            runner = self._interpreter.get_signature_runner(key)
            return [runner.get_input_details(), runner.get_output_details()]
        lists = [self._interpreter.get_input_details(), self._interpreter.get_output_details()]
        return [{one["name"]: one for one in details} for details in lists]

    def _feed(self, arrays: dict[str, np.ndarray]) -> None:
        shapes = {name: array.shape for name, array in arrays.items()}
        if shapes != self._shapes:
            try:
                for name, shape in shapes.items():
                    self._interpreter.resize_tensor_input(self._inputs[name].index, shape)
                with quiet():
                    self._interpreter.allocate_tensors()
            except (ValueError, RuntimeError) as error:
                raise self._unusable(f"it does not run on inputs of {shapes}: {error}") from error
            self._shapes = shapes
        for name, array in arrays.items():
            end = self._inputs[name]
            self._interpreter.set_tensor(end.index, end.quantized(array))

    def _invoke(self) -> np.ndarray:
        try:
            self._interpreter.invoke()
        except (ValueError, RuntimeError) as error:
            raise self._unusable(f"LiteRT fails to run it: {error}") from error
        return self._output.dequantized(self._interpreter.get_tensor(self._output.index))


def _tensor(details: dict[str, Any]) -> Tensor:
    shape = tuple(int(size) for size in details.get("shape_signature", details["shape"]))
    end = _End(details)
    return Tensor(shape, end.dtype, is_quantized=end.is_quantized)


class _End:
    """An input or output of a file, whose integers may stand for floats.

        float = scale (integer - zero point)

    Args:
        details: What LiteRT says of it.
    """

    def __init__(self, details: dict[str, Any]) -> None:
        self.index = details["index"]
        self.dtype = np.dtype(details["dtype"])
        scale, self._zero_point = details.get("quantization", (0.0, 0))
        self._scale = np.float32(scale)

    @property
    def is_quantized(self) -> bool:
        """Whether the integers stand for floats."""
        return bool(self._scale > 0.0) and np.issubdtype(self.dtype, np.integer)

    def quantized(self, array: np.ndarray) -> np.ndarray:
        """Returns an array as the file takes it: integers are those of the file already."""
        if not self.is_quantized or not np.issubdtype(array.dtype, np.floating):
            return array
        ends = np.iinfo(self.dtype)
        levels = np.rint(array.astype("float32") / self._scale) + self._zero_point
        # What is not a number has no integer.
        levels = np.nan_to_num(levels, nan=self._zero_point, posinf=ends.max, neginf=ends.min)
        return np.clip(levels, ends.min, ends.max).astype(self.dtype)

    def dequantized(self, array: np.ndarray) -> np.ndarray:
        """Returns an array of the file as the numbers that it stands for."""
        if not self.is_quantized:
            return array
        return self._scale * (array.astype("float32") - self._zero_point)
