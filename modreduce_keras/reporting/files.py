"""Files: writes a finished report completely or not at all."""

import os
import tempfile
from pathlib import Path
from typing import Any

from modreduce_keras import whole_files

MARKDOWN, HTML, PICTURES = "report.md", "report.html", "report_files"
_OURS = (".svg", ".png")


def require_folder(path: Any) -> Path:
    """Returns the folder that a report is to be written to, there already or not.

    Raises:
        TypeError: If it is not a path.
        ValueError: If it is a file, or something other than a report stands in the places of one.
    """
    if not isinstance(path, (str, os.PathLike)) or not str(path):
        raise TypeError(f"path must be that of a folder. Received: path={path!r}")
    folder = Path(path)
    above = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    if not above.is_dir():
        raise ValueError(
            f"path must be a folder to write to. Received: path={str(path)!r}, and "
            f"{str(above)!r} is a file"
        )
    pictures = folder / PICTURES
    foreign = not pictures.is_dir() or any(one.suffix not in _OURS for one in pictures.iterdir())
    if pictures.exists() and foreign:
        raise ValueError(
            f"path must have nothing but a report's pictures at {PICTURES!r}, which is replaced. "
            f"Received: path={str(path)!r}, where something else stands there"
        )
    for name in (MARKDOWN, HTML):
        if (folder / name).is_dir():
            raise ValueError(
                f"path must have no folder named {name!r}. Received: path={str(path)!r}"
            )
    return folder


def write(folder: Path, markdown: str, html: str, pictures: dict[str, bytes]) -> None:
    """Writes a report beside its place and moves it there: an old one stays until then."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".report.") as beside:
        made = Path(beside, PICTURES)
        made.mkdir()
        for name, content in pictures.items():
            _write(made / name, content)
        _write(Path(beside, MARKDOWN), markdown.encode())
        _write(Path(beside, HTML), html.encode())
        whole_files.put_folder(made, folder / PICTURES)
        for name in (MARKDOWN, HTML):
            Path(beside, name).replace(folder / name)


def _write(path: Path, content: bytes) -> None:
    with whole_files.naming(path):
        path.write_bytes(content)
