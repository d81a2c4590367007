"""ONNX models: an ONNX file as a Keras model that ONNX Runtime runs."""

import os
from pathlib import Path
from typing import Any

import keras
import numpy as np

from modreduce_keras.distribute import on_host
from modreduce_keras.held import Held
from modreduce_keras.models import onnx_runtime
from modreduce_keras.models.graph import inputs_by_name


def from_onnx(
    path: str | os.PathLike[str], *, output: str | None = None, name: str | None = None
) -> keras.Model:
    """Returns an ONNX file as a Keras model, to be a teacher.

    ONNX Runtime runs it on the processor, inside of the step, which XLA cannot compile. There are
    no layers inside to tap, so it teaches responses. A saved distiller holds the path. Images of
    most ONNX files have their channels first: `teacher_input=keras.layers.Permute((3, 1, 2))`.

    Args:
        path: The file. Its inputs have a free batch size and otherwise known sizes.
        output: Name of the output to return, of several. Defaults to `None`: the only one.
        name: Name of the model. Defaults to that of the file.

    Returns:
        A functional model of the file's input, or of a dict of several by name.

    Raises:
        FileNotFoundError: If there is no file at the path.
        ImportError: If ONNX Runtime is missing: `pip install 'modreduce-keras[onnx]'`.
        ValueError: If ONNX Runtime cannot read the file, a size of an input is not as described, or
            there are several outputs and none is chosen.

    Example:
        >>> import modreduce_keras as mr
        >>> network = mr.models.get("convnet", num_classes=3, widths=(4, 8))
        >>> path = mr.export.to_onnx(network, "network.onnx")  # doctest: +SKIP
        >>> mr.models.from_onnx(path).output_shape  # doctest: +SKIP
        (None, 3)
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(
            f"path must be the path of an ONNX file. Received: path={str(path)!r}"
        )
    layer = ONNXLayer(str(file), output, name="onnx")
    specs = {key: ((None, *shape), dtype) for key, (shape, dtype) in layer.takes.items()}
    inputs, given = inputs_by_name(specs)
    return keras.Model(inputs, layer(given), name=name or file.stem)


@keras.saving.register_keras_serializable(package="modreduce_keras")
class ONNXLayer(keras.layers.Layer):
    """Runs an ONNX file.

    Args:
        filepath: The file.
        output_name: Name of the output; `None` for the only one.
        name: Name of the layer.
    """

    def __init__(
        self, filepath: str, output_name: str | None = None, *, name: str | None = None
    ) -> None:
        super().__init__(name=name, dtype="float32", autocast=False, trainable=False)
        self.filepath, self.output_name = filepath, output_name
        try:
            session = onnx_runtime.opened(Path(filepath), "mr.models.from_onnx runs")
        except ImportError:
            raise
        except Exception as error:  # Its errors have no class in common.
            raise ValueError(f"ONNX Runtime cannot run {filepath}: {error}") from error
        self._session = Held(session)
        self.takes = {one.name: self._taken(one) for one in session.get_inputs()}
        self._chosen = self._require_output(session, output_name)
        self._shape = self._shape_of_sample(session)
        self.supports_jit = False
        self.built = True

    def _taken(self, details: Any) -> tuple[tuple[int, ...], str]:
        shape = onnx_runtime.shape_of(details)
        sizes = tuple(size for size in shape[1:] if size is not None)
        if not shape or shape[0] is not None or len(sizes) < len(shape) - 1:
            raise ValueError(
                "An ONNX file must take a free number of samples, and otherwise known sizes. "
                f"Received: {self.filepath} with the input {details.name!r} of shape "
                f"{details.shape}"
            )
        return sizes, onnx_runtime.dtype_of(details)

    def _require_output(self, session: Any, output: str | None) -> str:
        names = [one.name for one in session.get_outputs()]
        if (output is None and len(names) > 1) or output not in (None, *names):
            raise ValueError(
                f"output must be one of {names}, the outputs of {self.filepath}. "
                f"Received: {output=}"
            )
        return output or names[0]

    def _shape_of_sample(self, session: Any) -> tuple[int, ...]:
        """Returns the shape of the output for one sample, which files need not say."""
        zeros = {key: np.zeros((1, *shape), dtype) for key, (shape, dtype) in self.takes.items()}
        return session.run([self._chosen], zeros)[0].shape[1:]

    def call(self, inputs: Any) -> Any:
        return on_host(self._run, inputs, self._shape)

    def _run(self, inputs: Any) -> np.ndarray:
        arrays = inputs if isinstance(inputs, dict) else {next(iter(self.takes)): inputs}
        fed = {key: np.asarray(arrays[key], dtype) for key, (_, dtype) in self.takes.items()}
        return np.asarray(self._session().run([self._chosen], fed)[0], "float32")

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        return {"filepath": self.filepath, "output_name": self.output_name, "name": self.name}
