"""Tables that are printed as text, as Markdown, or become a DataFrame."""

from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any

from modreduce_keras.escapes import markdown


class Table(Sequence[Any]):
    """Rows, named tuples of one class, that print as a table.

    Args:
        rows: The rows.
        columns: The names of the attributes that are printed.

    Example:
        >>> import modreduce_keras as mr
        >>> model = mr.models.get("convnet", num_classes=3, widths=(4, 8))
        >>> table = mr.models.taps(model)
        >>> len(table), table[0].path
        (8, 'stage1_conv')
    """

    def __init__(self, rows: Sequence[Any], columns: Sequence[str]) -> None:
        self.rows, self.columns = list(rows), list(columns)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return self.rows[index]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.rows)

    def __str__(self) -> str:
        lines = [self.columns, *self._cells()]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        padded = (zip(line, widths, strict=True) for line in lines)
        return "\n".join("  ".join(c.ljust(w) for c, w in line).rstrip() for line in padded)

    __repr__ = __str__

    def to_markdown(self) -> str:
        """Returns the table in Markdown."""
        lines = [self.columns, ["---"] * len(self.columns)]
        lines += [[markdown(cell) for cell in line] for line in self._cells()]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def to_dataframe(self) -> Any:
        """Returns the table, with all attributes of the rows, as a DataFrame of pandas.

        Raises:
            ImportError: If pandas is not installed.
        """
        try:
            pandas: Any = import_module("pandas")
        except ImportError as error:
            raise ImportError(
                "to_dataframe needs pandas, which is not installed: pip install pandas"
            ) from error
        return pandas.DataFrame([row._asdict() for row in self.rows])

    def _cells(self) -> list[list[str]]:
        return [[_shown(getattr(row, column)) for column in self.columns] for row in self.rows]


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, tuple):
        return " x ".join("?" if one is None else str(one) for one in value)
    return str(value)
