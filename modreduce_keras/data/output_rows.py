"""Output rows: a teacher's outputs as arrays, from memory or files, checked and made logits."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from modreduce_keras.arguments import is_number
from modreduce_keras.calls import shown

_CHUNK = 2**16
"""Rows of an array in memory that are checked at a time; of a file these alone, at the start."""
_SUM_TOLERANCE = 1e-2  # of half precision, as in `head_kinds`
_BEYOND = 1e-5
"""How far beyond 0 and 1 rounding may bring a probability."""


def of_each_teacher(source: Any, argument: str) -> list[Any]:
    """Returns the outputs of each teacher: those of one, or several in a list.

    Raises:
        ValueError: If a list is of numbers, which may be rows or teachers.
    """
    if not isinstance(source, (list, tuple)):
        return [source]
    if not source or any(isinstance(one, (list, tuple)) or is_number(one) for one in source):
        raise ValueError(
            f"{argument} of one teacher must be an array, np.asarray({argument}), and a list has "
            f"an array, path or function for each of several. Received: {argument}={shown(source)}"
        )
    return list(source)


def opened(source: Any, index: Any, argument: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns outputs (samples, ...), and the index of each row where one is given.

    Args:
        source: An array; the path of a `.npy` file, which is memory-mapped, or of a `.parquet`
            file with a column for each class.
        index: An array, the name of a column of the Parquet file, or `None`.
        argument: What `source` was given as, for messages.

    Raises:
        ImportError: If there is no package that reads Parquet.
        ValueError: If it is not an array of numbers (samples, ...), or a file of another kind.
    """
    if is_path(source):
        array, index = _from_file(Path(source), index, argument)
    else:
        array = source if isinstance(source, np.ndarray) else np.asarray(source)
    if array.ndim == 1 and array.dtype.kind in "iuf":
        array = array[:, np.newaxis]
    if array.ndim < 2 or array.dtype.kind not in "iuf" or not len(array):
        raise ValueError(
            f"{argument} must be an array of numbers (samples, ..., classes), the path of a .npy "
            "or .parquet file, a function of a batch, or a list of those for several teachers. "
            f"Received: {argument}={_described(source)}"
        )
    if isinstance(index, str):
        raise ValueError(
            "index is the name of a column of a Parquet file only; else it is an array of whole "
            f"numbers, one for each row. Received: {index=}, {argument}={_described(source)}"
        )
    return array, None if index is None else np.asarray(index)


def is_path(source: Any) -> bool:
    """Returns whether a source is the path of a file."""
    return isinstance(source, (str, os.PathLike))


def _from_file(path: Path, index: Any, argument: str) -> tuple[np.ndarray, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{argument} must be a file. Received: {argument}={str(path)!r}")
    if path.suffix == ".npy":
        return np.load(path, mmap_mode="r", allow_pickle=False), index
    if path.suffix == ".parquet":
        return _from_parquet(path, index)
    raise ValueError(
        f"{argument} must be the path of a .npy file (numpy.save writes it) or of a .parquet file. "
        f"Received: {argument}={str(path)!r}"
    )


def _from_parquet(path: Path, index: Any) -> tuple[np.ndarray, Any]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError(
            "Parquet files need the package pyarrow: pip install pyarrow. Or save the outputs as a "
            ".npy file with numpy.save"
        ) from error
    table = parquet.read_table(path)
    columns = {name: table[name].to_numpy() for name in table.column_names}
    if isinstance(index, str):
        if index not in columns:
            raise ValueError(
                f"index must be a column of {str(path)!r}, one of {list(columns)}. "
                f"Received: {index=}"
            )
        index = columns.pop(index)
    text = [name for name, column in columns.items() if column.dtype.kind not in "iuf"]
    if text or not columns:
        raise ValueError(
            f"A Parquet file of outputs has a column of numbers for each class, in their order. "
            f"Received: {str(path)!r} with other columns {text}"
        )
    return np.stack(list(columns.values()), axis=-1), index


def require_index(index: np.ndarray | None, rows: int) -> None:
    """Raises unless an index has a whole number of its own for each row."""
    if index is None:
        return
    whole = index.ndim == 1 and index.dtype.kind in "iu"
    if not whole or len(index) != rows or index.min() < 0 or len(np.unique(index)) != rows:
        raise ValueError(
            "index must be whole numbers from 0 on, a different one for each of the "
            f"{rows} rows: the samples that they are of. Received: index of shape {index.shape}, "
            f"{len(np.unique(index))} different numbers of dtype {index.dtype}"
        )


def looked_at(array: np.ndarray, argument: str, independent: bool) -> None:
    """Raises if outputs are not what they are called; of a file, the first rows are looked at."""
    in_file = isinstance(array, np.memmap)
    for begin in range(0, _CHUNK if in_file else len(array), _CHUNK):
        require(np.asarray(array[begin : begin + _CHUNK], "float32"), argument, independent)


def require(rows: np.ndarray, argument: str, independent: bool) -> None:
    """Raises unless rows are finite, and logits or probabilities as they are called."""
    if not np.isfinite(rows).all():
        raise ValueError(
            f"{argument} must be finite numbers. Received: NaN or infinity in "
            f"{(~np.isfinite(rows)).reshape(len(rows), -1).any(axis=1).sum()} of {len(rows)} rows"
        )
    if argument == "logits":
        # Logits of one position alone may sum to one by chance.
        several = rows.shape[-1] > 1 and rows.size > rows.shape[-1]
        if several and _are_distributions(rows):
            raise ValueError(
                "logits must be logits: each row looks like probabilities, which sum to one. Give "
                f"them as probabilities=. Received: logits of shape {rows.shape}"
            )
        return
    if rows.min() < -_BEYOND or rows.max() > 1 + _BEYOND:
        raise ValueError(
            f"{argument} must lie from 0 to 1. Received: numbers from {rows.min():g} to "
            f"{rows.max():g}; logits are given as logits="
        )
    if not independent and not _are_distributions(rows):
        raise ValueError(
            f"{argument} of classes must sum to one in each row; of labels that do not exclude one "
            f"another, say so: independent=True. Received: rows that sum to "
            f"{rows.sum(axis=-1).min():g} to {rows.sum(axis=-1).max():g}"
        )


def _are_distributions(rows: np.ndarray) -> bool:
    sums = rows.sum(axis=-1, dtype="float64")
    return bool((rows >= -_BEYOND).all() and (np.abs(sums - 1.0) <= _SUM_TOLERANCE).all())


def as_logits(rows: np.ndarray, independent: bool, clip: float) -> np.ndarray:
    """Returns logits of probabilities: log p, or log(p / (1 - p)) of independent labels.

    Args:
        rows: (..., classes).
        independent: Whether each is a yes or no of its own.
        clip: The smallest probability, and of independent labels 1 minus the largest.
    """
    rows = rows.astype("float64")
    logs = np.log(np.maximum(rows, clip))
    logits = logs - np.log(np.maximum(1.0 - rows, clip)) if independent else logs
    return logits.astype("float32")


def _described(source: Any) -> str:
    shape, dtype = getattr(source, "shape", None), getattr(source, "dtype", None)
    return repr(source) if shape is None else f"an array of shape {shape} and dtype {dtype}"
