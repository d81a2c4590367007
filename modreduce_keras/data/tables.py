"""Tables: a CSV file with a header, one sample in each row, as a source."""

import csv
import math
import os
from pathlib import Path

import numpy as np

from modreduce_keras.data.sources import Source, split

_GAPS = ("", "nan", "inf", "-inf", "+inf", "infinity", "-infinity", "+infinity")
"""Cells, in lower case, that are no label, though Python reads most of them as numbers."""


def table(
    path: str | os.PathLike, *, label: str | None = None, validation_split: float = 0.1
) -> Source:
    """Returns the rows of a CSV file.

    The columns are numbers, in the order of the file; they make `x` (columns,), float32. Labels
    that are whole numbers are classes from 0, other numbers a regression, and words classes in
    alphabetical order. Whole numbers are a regression too if some are negative, or if no two rows
    have the same; and if written as `1.0`, if the file has less than twice as many rows as
    different labels.

    Args:
        path: The file.
        label: Name of the column of the labels. Defaults to the last one.
        validation_split: Share of each class that is held out. Defaults to 0.1.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a column is missing, a row has another length, a cell is not a finite number,
            or each row has another word as its label.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"data must be a CSV file. Received: {str(path)!r}")
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = csv.reader(file)
        header = [name.strip() for name in next(lines, [])]
        rows = [(lines.line_num, row) for row in lines if row]
    if len(header) < 2 or not rows:
        raise ValueError(
            "A table must have a header of two columns at least, and rows. Received: "
            f"{str(path)!r} with the columns {header} and {len(rows)} rows"
        )
    label = header[-1] if label is None else label
    if label not in header:
        raise ValueError(f"label must be one of the columns {header}. Received: {label!r}")
    wrong = next((number for number, row in rows if len(row) != len(header)), None)
    if wrong is not None:
        raise ValueError(
            f"All rows must have {len(header)} cells, as the header. Received: another number in "
            f"line {wrong} of {str(path)!r}"
        )
    place = header.index(label)
    labels, names = _labels([row[place].strip() for _, row in rows], label)
    columns = [i for i in range(len(header)) if i != place]
    x = np.empty((len(rows), len(columns)), "float32")
    for line, (number, row) in enumerate(rows):
        for position, column in enumerate(columns):
            x[line, position] = _number(row[column], header[column], number)
    classes = int(labels.max()) + 1 if np.issubdtype(labels.dtype, np.integer) else None
    return Source(split(x, labels, validation_split), None, classes, names, True)


def _number(cell: str, column: str, line: int) -> float:
    try:
        number = float(cell)
        if math.isfinite(number):
            return number
    except ValueError:
        pass
    raise ValueError(
        "All columns but the label must be finite numbers: write words as numbers, and fill gaps. "
        f"Received: {cell!r} in column {column!r}, line {line}"
    )


def _labels(cells: list[str], column: str) -> tuple[np.ndarray, list[str] | None]:
    """Returns labels, and the names of the classes if they are words."""
    gap = next((i for i, cell in enumerate(cells) if cell.lower() in _GAPS), None)
    if gap is not None:
        raise ValueError(
            "Every row must have a word or a finite number as a label. Received: "
            f"{cells[gap] or 'none'} in row {gap + 1}"
        )
    try:
        numbers = np.array([float(cell) for cell in cells])
    except ValueError:
        return _classes(cells, column)
    is_whole = (numbers >= 0).all() and (numbers % 1 == 0).all()
    different = len(np.unique(numbers))
    if all(map(_is_integer, cells)):
        recur = different < len(numbers)
    else:  # Programs that know gaps in a column write its whole numbers as 1.0.
        recur = 2 * different <= len(numbers)
    return numbers.astype("int64" if is_whole and recur else "float32"), None


def _is_integer(cell: str) -> bool:
    try:
        int(cell)
    except ValueError:
        return False
    return True


def _classes(cells: list[str], column: str) -> tuple[np.ndarray, list[str]]:
    """Returns the classes that words are, and their names."""
    names = sorted(set(cells))
    if len(names) == len(cells):
        raise ValueError(
            "Labels that are words must be classes, of several rows each: name the column of the "
            f"labels with label=. Received: the column {column!r}, with another word in each row, "
            f"such as {cells[:3]}"
        )
    index = {name: number for number, name in enumerate(names)}
    return np.array([index[cell] for cell in cells], "int64"), names
