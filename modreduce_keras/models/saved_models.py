"""SavedModels: a folder that TensorFlow or Keras has exported, as a Keras model that runs."""

import os
from pathlib import Path
from typing import Any

import keras

from modreduce_keras.models.graph import inputs_by_name


def from_saved_model(
    path: str | os.PathLike[str],
    *,
    endpoint: str = "serving_default",
    output: str | None = None,
    name: str | None = None,
) -> keras.Model:
    """Returns a SavedModel as a Keras model, to be a teacher.

    It runs what the folder holds, in a layer `keras.layers.TFSMLayer`. There are no layers inside
    to tap, so it teaches responses. A distiller's file cannot hold it: save the student
    (`distiller.student.save(...)`) or the weights (`distiller.save_weights(...)`). Load folders
    that you trust only, as a SavedModel may run any operation of TensorFlow.

    Args:
        path: The folder, with `saved_model.pb` in it.
        endpoint: Name of the signature to run. Defaults to `"serving_default"`.
        output: Name of the output to return, of several. Defaults to `None`: the only one, or a
            dict of all.
        name: Name of the model. Defaults to that of the folder.

    Returns:
        A functional model of the signature's input, or of a dict of several by name.

    Raises:
        FileNotFoundError: If there is no SavedModel at the path.
        ValueError: If there is no such signature or output, or an input has no known number of
            axes.

    Example:
        >>> import tempfile, keras, numpy as np, modreduce_keras as mr
        >>> network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        >>> folder = tempfile.mkdtemp()
        >>> network.export(folder, format="tf_saved_model", verbose=False)
        >>> teacher = mr.models.from_saved_model(folder)
        >>> teacher.input_shape, teacher.output_shape
        ((None, 4), (None, 3))
    """
    folder = Path(path)
    if not (folder / "saved_model.pb").is_file():
        raise FileNotFoundError(
            "path must be the folder of a SavedModel, with saved_model.pb in it. Received: "
            f"path={str(path)!r}"
        )
    layer = SignatureLayer(str(folder), call_endpoint=endpoint, name="saved_model")
    inputs, given = _inputs_of(layer, endpoint)
    outputs = layer(given)
    if isinstance(outputs, dict):
        outputs = _chosen(outputs, output)
    elif output is not None:
        raise ValueError(f"The signature has one output without a name. Received: {output=}")
    return keras.Model(inputs, outputs, name=name or folder.name)


@keras.saving.register_keras_serializable(package="modreduce_keras")
class SignatureLayer(keras.layers.TFSMLayer):
    """Runs a signature, which takes several inputs by their names."""

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Returns what the signature gives for one input, or for a dict of several."""
        run = self.call_endpoint_fn
        return run(**inputs) if isinstance(inputs, dict) else run(inputs)


def _inputs_of(layer: keras.layers.Layer, endpoint: str) -> tuple[Any, Any]:
    """Returns symbolic inputs like those of a signature; see `inputs_by_name`."""
    _, named = layer.call_endpoint_fn.structured_input_signature
    if not named:
        raise ValueError(
            f"{endpoint!r} must be a signature, whose inputs have names, such as the default of "
            "endpoint=. Received: none with a name"
        )
    for key, spec in named.items():
        if spec.shape.rank is None:
            raise ValueError(
                f"The input {key!r} of the signature {endpoint!r} must have a known number of "
                "axes. Received: an unknown shape"
            )
    return inputs_by_name({key: (tuple(s.shape), s.dtype.name) for key, s in named.items()})


def _chosen(outputs: dict[str, Any], output: str | None) -> Any:
    if output is None:
        return next(iter(outputs.values())) if len(outputs) == 1 else outputs
    if output not in outputs:
        raise ValueError(f"output must be one of {sorted(outputs)}. Received: {output=}")
    return outputs[output]
