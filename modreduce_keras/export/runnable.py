"""Runnable: base class of exported files that can be compared with a student."""

import abc
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

_WARM_UP = 10


class UnusableFileError(RuntimeError):
    """A file that cannot be run, or whose inputs or outputs do not fit."""


class Tensor(NamedTuple):
    """An input of a file; an unknown size is -1, a shape that is not known at all `None`."""

    shape: tuple[int, ...] | None
    dtype: np.dtype
    is_quantized: bool = False
    """Whether its integers stand for floats, which are given to the file as such."""

    def takes(self, dtype: str) -> bool:
        """Returns whether arrays of a dtype can be fed."""
        floats = self.is_quantized and np.issubdtype(dtype_of(dtype), np.floating)
        return floats or self.dtype == dtype_of(dtype)


class RunnableFile(abc.ABC):
    """A file that is ready to run batches of any size.

    A subclass reads the file in its constructor and sets `inputs`.

    Args:
        path: The file, or folder.
    """

    inputs: Mapping[str, Tensor]
    """What the file takes, by name."""
    threads: int | None = None
    """How many threads may run an operation; `None` where the file does not say."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @abc.abstractmethod
    def _feed(self, arrays: dict[str, np.ndarray]) -> None:
        """Takes inputs by the names of the file for the runs that follow."""

    @abc.abstractmethod
    def _invoke(self) -> np.ndarray:
        """Returns the output for what was fed."""

    @property
    def size(self) -> int:
        """Bytes of the file, or of all files in the folder."""
        files = [self._path] if self._path.is_file() else self._path.rglob("*")
        return sum(file.stat().st_size for file in files if file.is_file())

    def bind(self, shapes: Mapping[str, tuple[int | None, ...]], dtypes: Mapping[str, str]) -> None:
        """Ties inputs by name to those of the file, which differ in name only where there is one.

        Args:
            shapes: Of the inputs that will come, `None` where a size is not known.
            dtypes: Of these inputs.

        Raises:
            UnusableFileError: If the file takes others.
        """
        same = set(shapes) == set(self.inputs)
        if not same and (len(shapes), len(self.inputs)) != (1, 1):
            raise self._unusable(
                f"it takes the inputs {sorted(self.inputs)}, and the student {sorted(shapes)}"
            )
        self._names = dict(zip(shapes, shapes if same else self.inputs, strict=True))
        for name, shape in shapes.items():
            tensor = self.inputs[self._names[name]]
            if not _fits(tensor.shape, shape) or not tensor.takes(dtypes[name]):
                raise self._unusable(
                    f"its input {name!r} is {tensor.dtype} of shape {tensor.shape}, and the "
                    f"student's {dtypes[name]} of shape {shape}"
                )

    def run(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Returns the output for a batch of inputs by name."""
        self._feed({self._names[name]: array for name, array in inputs.items()})
        return self._invoke()

    def milliseconds(self, inputs: Mapping[str, np.ndarray], repeats: int) -> float:
        """Returns the median time of one run, after some that do not count."""
        self.run(inputs)
        seconds = []
        for _ in range(_WARM_UP + repeats):
            begin = time.perf_counter()
            self._invoke()
            seconds.append(time.perf_counter() - begin)
        return 1e3 * statistics.median(seconds[_WARM_UP:])

    def _unusable(self, reason: str) -> UnusableFileError:
        return UnusableFileError(f"{self._path} cannot be compared: {reason}")


def dtype_of(name: str) -> np.dtype:
    """Returns NumPy's dtype for the name of one in Keras; strings are objects."""
    return np.dtype(object if name == "string" else name)


def _fits(own: tuple[int, ...] | None, given: tuple[int | None, ...]) -> bool:
    """Returns whether samples of a shape can be fed; the first size is their number."""
    if own is None:
        return True
    sizes = zip(own[1:], given[1:], strict=False)
    return len(own) == len(given) and all(
        size in (-1, other) or other is None for size, other in sizes
    )
