"""Interpreter: runs a TFLite file with LiteRT on batches of any size, and times it."""

import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from modreduce_keras.export.quiet import quiet

_WARM_UP = 10
_SERVED = "serving_default"


class UnusableFileError(RuntimeError):
    """A file that LiteRT cannot run, or that takes or gives something else than is needed."""


class _Tensor(NamedTuple):
    """An input or the output of a file; unknown sizes of the shape are -1."""

    index: int
    shape: tuple[int, ...]
    dtype: np.dtype


def require_interpreter() -> Any:
    """Returns the class of LiteRT's interpreter.

    Raises:
        ImportError: If its package is missing.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise ImportError(
            "verify runs files with LiteRT, whose package ai-edge-litert is missing: "
            "pip install 'modreduce-keras[export]'"
        ) from error
    return Interpreter


class TFLiteFile:
    """A TFLite file that is ready to run.

    Args:
        path: The file.
        threads: How many threads may run an operation.

    Raises:
        UnusableFileError: If LiteRT cannot run the file, or it has several outputs.
    """

    def __init__(self, path: Path, threads: int):
        self._path = path
        interpreter = require_interpreter()
        try:
            with quiet():
                self._interpreter = interpreter(model_path=str(path), num_threads=threads)
                inputs, outputs = self._tensors()
        except (ValueError, RuntimeError) as error:
            raise self._unusable(f"LiteRT cannot read it: {error}") from error
        if len(outputs) != 1:
            raise self._unusable(f"it has the outputs {sorted(outputs)}, and one is needed")
        self.inputs: dict[str, _Tensor] = inputs
        (self._output,) = outputs.values()

    def _unusable(self, reason: str) -> UnusableFileError:
        return UnusableFileError(f"{self._path} cannot be compared: {reason}")

    def _tensors(self) -> list[dict[str, _Tensor]]:
        signatures = list(self._interpreter.get_signature_list())
        if signatures:
            key = _SERVED if _SERVED in signatures else signatures[0]
            # Not kept: the interpreter cannot be resized while a runner holds it.
            runner = self._interpreter.get_signature_runner(key)
            both = [runner.get_input_details(), runner.get_output_details()]
        else:
            lists = [self._interpreter.get_input_details(), self._interpreter.get_output_details()]
            both = [{one["name"]: one for one in details} for details in lists]
        return [{name: _tensor(one) for name, one in details.items()} for details in both]

    def bind(self, shapes: dict[str, tuple[int | None, ...]], dtypes: dict[str, str]) -> None:
        """Ties inputs by name to those of the file, which differ in name only where there is one.

        Args:
            shapes: Of the inputs that will come, `None` where a size is not known.
            dtypes: Of these inputs.

        Raises:
            UnusableFileError: If the file takes others.
        """
        if set(shapes) != set(self.inputs) and (len(shapes), len(self.inputs)) != (1, 1):
            raise self._unusable(
                f"it takes the inputs {sorted(self.inputs)}, and the student {sorted(shapes)}"
            )
        same = set(shapes) == set(self.inputs)
        self._bound = {
            name: self.inputs[name] if same else next(iter(self.inputs.values())) for name in shapes
        }
        for name, tensor in self._bound.items():
            shape = shapes[name]
            known = zip(tensor.shape[1:], shape[1:], strict=False)
            fits = len(tensor.shape) == len(shape) and all(
                own in (-1, size) or size is None for own, size in known
            )
            if not fits or tensor.dtype != np.dtype(dtypes[name]):
                raise self._unusable(
                    f"its input {name!r} is {tensor.dtype} of shape {tensor.shape}, and the "
                    f"student's {dtypes[name]} of shape {shape}"
                )

    def run(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """Returns the output for a batch of inputs by name."""
        self._feed(inputs)
        try:
            self._interpreter.invoke()
        except (ValueError, RuntimeError) as error:
            raise self._unusable(f"LiteRT fails to run it: {error}") from error
        return self._interpreter.get_tensor(self._output.index)

    def milliseconds(self, inputs: dict[str, np.ndarray], repeats: int) -> float:
        """Returns the median time of one run, after some that do not count."""
        self._feed(inputs)
        seconds = []
        for _ in range(_WARM_UP + repeats):
            begin = time.perf_counter()
            self._interpreter.invoke()
            seconds.append(time.perf_counter() - begin)
        return 1e3 * statistics.median(seconds[_WARM_UP:])

    def _feed(self, inputs: dict[str, np.ndarray]) -> None:
        shapes = {name: array.shape for name, array in inputs.items()}
        if shapes != getattr(self, "_shapes", None):
            try:
                for name, shape in shapes.items():
                    self._interpreter.resize_tensor_input(self._bound[name].index, shape)
                with quiet():
                    self._interpreter.allocate_tensors()
            except (ValueError, RuntimeError) as error:
                raise self._unusable(f"it does not run on inputs of {shapes}: {error}") from error
            self._shapes = shapes
        for name, array in inputs.items():
            self._interpreter.set_tensor(self._bound[name].index, array)


def _tensor(details: dict[str, Any]) -> _Tensor:
    shape = tuple(int(size) for size in details.get("shape_signature", details["shape"]))
    return _Tensor(details["index"], shape, np.dtype(details["dtype"]))
