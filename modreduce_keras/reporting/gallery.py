"""Gallery: the images that a student gets wrong and its teacher right, as PNG."""

import struct
import zlib
from typing import NamedTuple

import numpy as np

from modreduce_keras.reporting import measures

_LEAST_PIXELS, _MOST_PIXELS = 112, 224


class Mistake(NamedTuple):
    """An image that a student gets wrong.

    Attributes:
        sample: Its index in the data.
        image: Its pixels, (height, width, channels).
        label: The right class.
        said: The class that the student says.
        confidence: The probability that the student gives it.
        teacher_confidence: The probability that the teacher gives the right one, or `None`.
    """

    sample: int
    image: np.ndarray
    label: int
    said: int
    confidence: float
    teacher_confidence: float | None


class Gallery:
    """Keeps a student's most confident mistakes where its teacher, if any, is right.

    Args:
        most: How many to keep.
    """

    def __init__(self, most: int) -> None:
        self.mistakes: list[Mistake] = []
        self._most = most
        self._seen = 0

    def add(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        student: np.ndarray,
        teacher: np.ndarray | None,
    ) -> None:
        """Adds a batch, of images, labels and logits."""
        learnt = measures.probabilities(student)
        taught = None if teacher is None else measures.probabilities(teacher)
        wrong = learnt.argmax(axis=1) != labels
        if taught is not None:
            wrong &= taught.argmax(axis=1) == labels
        indices = np.flatnonzero(wrong)
        surest = indices[np.argsort(-learnt[indices].max(axis=1), kind="stable")][: self._most]
        self.mistakes += [
            Mistake(
                self._seen + int(index),
                images[index].copy(),
                int(labels[index]),
                int(learnt[index].argmax()),
                float(learnt[index].max()),
                None if taught is None else float(taught[index].max()),
            )
            for index in surest
        ]
        self.mistakes.sort(key=lambda one: (-one.confidence, one.sample))
        del self.mistakes[self._most :]
        self._seen += len(images)


def pixels(images: list[np.ndarray]) -> list[np.ndarray]:
    """Returns images as uint8 of a size to look at.

    Values from 0 to 1 or to 255 are shown as they are; any others, from the least to the largest.
    """
    least, most = min(map(np.min, images)), max(map(np.max, images))
    if least >= 0:
        least, most = 0, 1 if most <= 1 else 255 if most <= 255 else most
    span = (most - least) or 1
    scaled = [np.rint(255 * ((one.astype("float64") - least) / span)) for one in images]
    return [_sized(one.astype("uint8")) for one in scaled]


def _sized(image: np.ndarray) -> np.ndarray:
    """Returns an image with each pixel repeated, or some left out, a whole number of times."""
    longest = max(image.shape[:2])
    larger, smaller = -(-_LEAST_PIXELS // longest), -(-longest // _MOST_PIXELS)
    return image.repeat(larger, axis=0).repeat(larger, axis=1)[::smaller, ::smaller]


def png(image: np.ndarray) -> bytes:
    """Returns an image (height, width, 1 or 3), uint8, as the content of a PNG file."""
    height, width, channels = image.shape
    rows = image.reshape(height, width * channels)
    # Each row begins with its filter: none.
    raw = np.concatenate([np.zeros((height, 1), "uint8"), rows], axis=1).tobytes()
    header = struct.pack(">IIBBBBB", width, height, 8, 0 if channels == 1 else 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(raw, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
