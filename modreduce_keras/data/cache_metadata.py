"""Metadata of a teacher cache: its teacher and options, and the size of each complete view."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modreduce_keras import whole_files

MANIFEST = "cache.json"
DTYPES = ("float32", "float16")
WEIGHTS = "teacher's weights"
TOP_K = "top_k"


def manifest(folder: Path) -> dict[str, Any] | None:
    """Returns what the cache in a folder is of, or `None` if it does not say.

    Raises:
        ValueError: If its file is damaged.
    """
    return _content(folder / MANIFEST, _FIELDS)


def size_of(folder: Path, view: int) -> int | None:
    """Returns the number of samples of a view that is complete, or `None` of one that is not.

    Raises:
        ValueError: If its file is damaged.
    """
    content = _content(complete(folder, view), {"samples": _is_size})
    return None if content is None else content["samples"]


def write_size(folder: Path, view: int, samples: int) -> None:
    """Says that a view is complete."""
    whole_files.write(complete(folder, view), json.dumps({"samples": samples}).encode())


def complete(folder: Path, view: int) -> Path:
    """Returns the file that says that a view is complete."""
    return folder / f"view-{view:04d}.complete"


def encoded(described: dict[str, Any]) -> bytes:
    """Returns the content of the file that says what a cache is of."""
    return json.dumps(described, indent=1).encode()


def _content(path: Path, fields: dict[str, Callable[[Any], bool]]) -> dict[str, Any] | None:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        content = json.loads(raw)
    except ValueError:  # no JSON, or no text
        content = None
    if not isinstance(content, dict):
        raise _damaged(path, raw)
    wrong = [name for name, fits in fields.items() if not fits(content.get(name))]
    if wrong:
        raise _damaged(path, raw, f", without valid {wrong}")
    return content


def _damaged(path: Path, raw: bytes, detail: str = "") -> ValueError:
    return ValueError(
        f"{path} is damaged. cache.fill(dataset) writes it again, and keeps the outputs that are "
        f"there. Received: {len(raw)} bytes, {raw[:60]!r}{detail}"
    )


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_specs(value: Any) -> bool:
    if not (isinstance(value, list) and value):
        return False
    pairs = all(isinstance(one, list) and len(one) == 2 for one in value)
    return pairs and all(
        isinstance(shape, list) and all(map(_is_size, shape)) and isinstance(dtype, str)
        for shape, dtype in value
    )


_FIELDS = {
    WEIGHTS: lambda value: isinstance(value, str) and bool(value),
    "taps": _is_names,
    "outputs": _is_specs,
    "views": lambda value: _is_size(value) and value > 0,
    "dtype": DTYPES.__contains__,
    TOP_K: lambda value: value is None or (_is_size(value) and value > 0),  # `None` in older files
}
