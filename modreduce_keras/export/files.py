"""Files: where an exported file may lie."""

import os
from pathlib import Path


def require_folder_of(path: str | os.PathLike) -> Path:
    """Returns a path as one whose parent is an existing folder."""
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path must be a string or a pathlib.Path. Received: path={path!r}")
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"path must lie in a folder that exists. Received: path={str(path)!r}, and there is "
            f"no {str(path.parent)!r}"
        )
    return path


def require_file(path: str | os.PathLike, suffix: str) -> Path:
    """Returns a path as one of a file with a suffix, in an existing folder."""
    path = require_folder_of(path)
    if path.suffix != suffix or path.is_dir():
        raise ValueError(f"path must be a file that ends in {suffix!r}. Received: {str(path)!r}")
    return path
