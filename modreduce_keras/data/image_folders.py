"""Image folders: a folder of images with one folder for each class, as a source."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from modreduce_keras.data.sources import TEST, TRAIN, VALIDATION, Source, part_of, split

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif")
_NAMES = {
    TRAIN: ("train", "training"),
    VALIDATION: ("validation", "val", "valid"),
    TEST: ("test",),
}
_BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM")


def image_folder(folder: str | os.PathLike, *, validation_split: float = 0.1) -> Source:
    """Returns the images below a folder, by class.

    A class is a folder, and its images lie anywhere below it. Where there is a folder `train`, it
    has the classes, and so have `validation` (or `val`) and `test`, if they exist.

    Args:
        folder: The folder.
        validation_split: Share of each class that is held out, where there is no validation part.
            Defaults to 0.1.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it has fewer than two classes, a class has no images, a file is not an image,
            or the parts have different classes.
    """
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"data must be a folder of images. Received: {str(root)!r}")
    found = {
        part: next((root / name for name in names if (root / name).is_dir()), None)
        for part, names in _NAMES.items()
    }
    base = found[TRAIN] or root
    names = _classes(base)
    paths, labels = _listed(base, names)
    held_out = found[TRAIN] is None or found[VALIDATION] is None
    parts = split(paths, labels, validation_split) if held_out else {TRAIN: part_of(paths, labels)}
    if found[TRAIN] is not None:
        for part in (VALIDATION, TEST):
            if found[part] is not None:
                parts[part] = part_of(*_listed(found[part], names))
    return Source(parts, _decoded, len(names), names, held_out)


def _classes(base: Path) -> list[str]:
    names = sorted(one.name for one in base.iterdir() if one.is_dir() and one.name[0] != ".")
    if len(names) < 2:
        raise ValueError(
            "data must be a folder with one folder of images for each class, two at least: "
            f"photos/cat/1.jpg, photos/dog/2.jpg. Received: {str(base)!r} with the folders {names}"
        )
    return names


def _listed(base: Any, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the paths of the images and their classes, in the order of the names."""
    if _classes(base) != names:
        raise ValueError(
            f"All parts of the data must have the classes {names}. Received: {str(base)!r} with "
            f"{_classes(base)}"
        )
    paths: list[str] = []
    labels: list[int] = []
    for index, name in enumerate(names):
        files = sorted(path for path in (base / name).rglob("*") if path.suffix.lower() in SUFFIXES)
        if not files:
            raise ValueError(
                f"Each class must have images, files that end in {', '.join(SUFFIXES)}. Received: "
                f"{str(base / name)!r} without any"
            )
        for path in files:
            _require_image(path)
        paths += map(str, files)
        labels += [index] * len(files)
    return np.array(paths), np.array(labels, "int64")


def _require_image(path: Path) -> None:
    with path.open("rb") as file:
        beginning = file.read(4)
    if not beginning.startswith(_BEGINNINGS):
        raise ValueError(
            f"The file {str(path)!r} is not a JPEG, PNG, GIF or BMP image, whatever its name says: "
            "remove or convert it"
        )


def _decoded(path: Any, channels: int) -> Any:
    return decoded(tf.io.read_file(path), channels)


def decoded(content: Any, channels: int) -> Any:
    """Returns an encoded image, of a GIF the first, as bytes (height, width, channels)."""
    image = tf.io.decode_image(content, channels=channels, expand_animations=False)
    return tf.ensure_shape(image, (None, None, channels))
