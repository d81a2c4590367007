"""The embedded data sample: a balanced cut of Fashion-MNIST that needs no download.

The file is an ordinary `.npz`: a zip of four uint8 `.npy` members, named in `ARRAYS`, compressed
losslessly with bzip2, whose output, unlike that of xz, has not changed between versions.
`build_sample.py` writes it.
"""

import hashlib
import io
from importlib.resources import files

import numpy as np

__all__ = ["SAMPLE_CLASSES", "load_sample"]

SAMPLE_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

FILE_NAME = "fashion_mnist_sample.npz"
FILE_SHA256 = "3664555073f5201ecbca8e082aa65c8197fc8a5ad48cc72d0c52d6b777890f6b"
ARRAYS = ("x_train", "y_train", "x_test", "y_test")

Split = tuple[np.ndarray, np.ndarray]


def load_sample() -> tuple[Split, Split]:
    """Load 10,000 training and 2,000 test images of Fashion-MNIST from the package itself.

    Both splits are balanced, 1,000 and 200 images per class, and come shuffled in an order that
    never changes. A label is an index into `SAMPLE_CLASSES`. A number measured on these 2,000
    images is not one measured on the 10,000 of the full test set.

    Returns:
        `((x_train, y_train), (x_test, y_test))`, new arrays on each call. `x_train` and `x_test`
        have shape `(10000, 28, 28, 1)` and `(2000, 28, 28, 1)`, float32: grey levels in
        `[0, 1]` in steps of 1/255, 0 being the background. `y_train` and `y_test` have shape
        `(10000,)` and `(2000,)`, int64 in `[0, 9]`.

    Raises:
        ValueError: If the data file is damaged.

    Example:
        >>> from modreduce_keras.data import SAMPLE_CLASSES, load_sample
        >>> (x_train, y_train), (x_test, y_test) = load_sample()
        >>> x_train.shape, x_test.shape
        ((10000, 28, 28, 1), (2000, 28, 28, 1))
        >>> round(float(x_train.mean()), 3)
        0.287
        >>> SAMPLE_CLASSES[y_train[0]]
        'Coat'

    Reference:
        [Xiao et al., 2017](https://arxiv.org/abs/1708.07747), Fashion-MNIST: a Novel Image
        Dataset for Benchmarking Machine Learning Algorithms. Copyright 2017 Zalando SE, MIT
        licence: `FASHION_MNIST_LICENSE.txt` beside this file.
    """
    raw = files(__package__).joinpath(FILE_NAME).read_bytes()
    digest = hashlib.sha256(raw).hexdigest()
    if digest != FILE_SHA256:
        raise ValueError(
            f"The data file {FILE_NAME} is damaged; install the package again. Expected sha256 "
            f"{FILE_SHA256}. Received: {len(raw)} bytes with sha256 {digest}"
        )
    with np.load(io.BytesIO(raw), allow_pickle=False) as arrays:
        x_train, y_train, x_test, y_test = (arrays[name] for name in ARRAYS)
    return (_scale(x_train), y_train.astype("int64")), (_scale(x_test), y_test.astype("int64"))


def _scale(pixels: np.ndarray) -> np.ndarray:
    return pixels[..., np.newaxis].astype("float32") / 255
