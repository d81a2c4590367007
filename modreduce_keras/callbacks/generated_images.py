"""GeneratedImages: pictures of what a generator makes, one for each epoch."""

import math
from pathlib import Path
from typing import Any

import keras
import numpy as np

from modreduce_keras import whole_files
from modreduce_keras.arguments import require_integer
from modreduce_keras.callbacks.plots import require_folder, require_matplotlib


class GeneratedImages(keras.callbacks.Callback):
    """Saves images that the generator of a `DataFreeDistiller` makes, in a grid.

    The files are `epoch_0001.png`, `epoch_0002.png`, ... in a folder. The noise is the same each
    time, so they show how the same images change. The smallest pixel of a grid is black, the
    largest white.

    Such images are made to train a student, and seldom look like the teacher's training data. They
    may still show something of these: treat them as you would treat the teacher.

    Args:
        folder: Where the files are written; it is made if it is missing.
        count: Number of images in a grid. Defaults to 64.
        every: A grid is saved every so many epochs. Defaults to 1.
        seed: Of the noise, an integer that is not negative. Defaults to 0.

    Raises:
        ImportError: If matplotlib is missing.
        ValueError: If an argument is something else, or the model has no generator.

    Example:
        >>> import tempfile, keras, modreduce_keras as mr
        >>> distiller = mr.DataFreeDistiller(
        ...     student=mr.models.get("convnet", num_classes=3, widths=(4,)),
        ...     teacher=mr.models.get("convnet", num_classes=3, widths=(8,)),
        ...     generator=mr.models.image_generator((28, 28, 1), image_range=(0.0, 1.0), width=4),
        ... )
        >>> distiller.compile("adam")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     images = mr.callbacks.GeneratedImages(folder, count=4)
        ...     history = distiller.fit(
        ...         steps_per_epoch=1, batch_size=4, verbose=0, callbacks=[images]
        ...     )
        ...     [path.name for path in images.files]
        ['epoch_0001.png']
    """

    def __init__(self, folder: str | Path, *, count: int = 64, every: int = 1, seed: int = 0):
        super().__init__()
        require_matplotlib()
        given = require_folder("folder", folder)
        if given is None:
            raise ValueError(f"folder must be the path of a folder. Received: {folder=}")
        self.folder = given
        self.count = require_integer("count", count)
        self.every = require_integer("every", every)
        self.seed = require_integer("seed", seed, least=0)
        self.files: list[Path] = []

    def on_train_begin(self, logs: Any = None) -> None:
        """Looks whether there is a generator."""
        if not hasattr(self.model, "generate"):
            raise ValueError(
                "GeneratedImages shows what the generator of a mr.DataFreeDistiller makes. "
                f"Received: a {type(self.model).__name__}, which has none"
            )

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Saves a grid, if it is time to."""
        if (epoch + 1) % self.every:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"epoch_{epoch + 1:04d}.png"
        save_grid(self.model.generate(self.count, self.seed), path)
        self.files.append(path)


def save_grid(images: np.ndarray, path: str | Path) -> None:
    """Saves images side by side in a PNG file.

    Args:
        images: (number, height, width, channels), of 1 or 3 channels; of others the first is shown.
        path: The file.
    """
    from matplotlib.image import imsave

    with whole_files.naming(Path(path)):
        imsave(path, grid(images), format="png")


def grid(images: np.ndarray) -> np.ndarray:
    """Returns images side by side, (height, width, 3), from 0 to 1, a pixel apart."""
    images = np.asarray(images, "float64")
    images = images if images.shape[-1] == 3 else np.repeat(images[..., :1], 3, axis=-1)
    low, high = images.min(), images.max()
    images = (images - low) / (high - low) if high > low else np.zeros_like(images)
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    height, width = images.shape[1] + 1, images.shape[2] + 1
    whole = np.ones((rows * height - 1, columns * width - 1, 3))
    for number, image in enumerate(images):
        row, column = divmod(number, columns)
        top, left = row * height, column * width
        whole[top : top + height - 1, left : left + width - 1] = image
    return whole
