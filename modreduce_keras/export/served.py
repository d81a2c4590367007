"""Served: runs a SavedModel through the signature that it is served by."""

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from modreduce_keras.export.quiet import quiet
from modreduce_keras.export.runnable import RunnableFile, Tensor
from modreduce_keras.export.saved_model import MARK

_SERVED = "serving_default"


def is_saved_model(path: Path) -> bool:
    """Returns whether a path is the folder of a SavedModel."""
    return (path / MARK).is_file()


class SavedModelFolder(RunnableFile):
    """A SavedModel that is ready to run, with the threads that TensorFlow has in this process.

    Args:
        path: Its folder.

    Raises:
        UnusableFileError: If TensorFlow cannot load it, or it has no signature or several outputs.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            with quiet():
                # Kept: its variables live as long as it does.
                self._loaded = tf.saved_model.load(path)
                signatures = dict(getattr(self._loaded, "signatures", {}))
        except Exception as error:  # What damage leads to has no class of its own.
            raise self._unusable(f"TensorFlow cannot load it: {error}") from error
        if not signatures:
            raise self._unusable("it has no signature")
        key = _SERVED if _SERVED in signatures else next(iter(signatures))
        self._signature = signatures[key]
        outputs = sorted(self._signature.structured_outputs)
        if len(outputs) != 1:
            raise self._unusable(f"it has the outputs {outputs}, and one is needed")
        (self._output,) = outputs
        _, specs = self._signature.structured_input_signature
        self.inputs = {name: _tensor(spec) for name, spec in specs.items()}

    def _feed(self, arrays: dict[str, np.ndarray]) -> None:
        self._fed = {name: tf.constant(array) for name, array in arrays.items()}

    def _invoke(self) -> np.ndarray:
        try:
            return self._signature(**self._fed)[self._output].numpy()
        except tf.errors.OpError as error:
            raise self._unusable(f"TensorFlow fails to run it: {error.message}") from error


def _tensor(spec: Any) -> Tensor:
    known = spec.shape.rank is not None
    shape = tuple(-1 if size is None else size for size in spec.shape) if known else None
    return Tensor(shape, np.dtype(spec.dtype.as_numpy_dtype))
