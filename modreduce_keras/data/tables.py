"""Tables: a CSV file with a header, one sample in each row, as a source."""

import csv
import os
from pathlib import Path

import numpy as np

from modreduce_keras.data.sources import Source, split


def table(
    path: str | os.PathLike, *, label: str | None = None, validation_split: float = 0.1
) -> Source:
    """Returns the rows of a CSV file.

    The columns are numbers, in the order of the file; they make `x` (columns,), float32. Labels
    that are whole numbers are classes from 0 (if written as `1.0`, only where the file has at least
    twice as many rows as different labels), other numbers a regression, and words classes in
    alphabetical order.

    Args:
        path: The file.
        label: Name of the column of the labels. Defaults to the last one.
        validation_split: Share of each class that is held out. Defaults to 0.1.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a column is missing, a row has another length, or a cell is not a number.
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
    labels, names = _labels([row[place].strip() for _, row in rows])
    columns = [i for i in range(len(header)) if i != place]
    x = np.empty((len(rows), len(columns)), "float32")
    for line, (number, row) in enumerate(rows):
        for position, column in enumerate(columns):
            x[line, position] = _number(row[column], header[column], number)
    classes = int(labels.max()) + 1 if np.issubdtype(labels.dtype, np.integer) else None
    return Source(split(x, labels, validation_split), None, classes, names, True)


def _number(cell: str, column: str, line: int) -> float:
    try:
        return float(cell)
    except ValueError:
        raise ValueError(
            "All columns but the label must be numbers: write words as numbers, and fill gaps. "
            f"Received: {cell!r} in column {column!r}, line {line}"
        ) from None


def _labels(cells: list[str]) -> tuple[np.ndarray, list[str] | None]:
    """Returns labels, and the names of the classes if they are words."""
    if "" in cells:
        raise ValueError(
            f"Every row must have a label. Received: none in row {cells.index('') + 1}"
        )
    try:
        return np.array([int(cell) for cell in cells], "int64"), None
    except ValueError:
        pass
    try:
        numbers = np.array([float(cell) for cell in cells])
        # Programs that know gaps in a column write its whole numbers as 1.0.
        is_whole = (numbers >= 0).all() and (numbers % 1 == 0).all()
        recur = 2 * len(np.unique(numbers)) <= len(numbers)
        return numbers.astype("int64" if is_whole and recur else "float32"), None
    except ValueError:
        names = sorted(set(cells))
        index = {name: number for number, name in enumerate(names)}
        return np.array([index[cell] for cell in cells], "int64"), names
