"""SavedModels: a folder that TensorFlow or Keras has exported, as a Keras model that runs."""

import os
from pathlib import Path
from typing import Any

import keras


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
        A functional model of the signature's input.

    Raises:
        FileNotFoundError: If there is no SavedModel at the path.
        ValueError: If there is no such signature or output, or it takes several inputs.

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
    layer = keras.layers.TFSMLayer(str(folder), call_endpoint=endpoint, name="saved_model")
    inputs = _input_of(layer, endpoint)
    outputs = layer(inputs)
    if isinstance(outputs, dict):
        outputs = _chosen(outputs, output)
    elif output is not None:
        raise ValueError(f"The signature has one output without a name. Received: {output=}")
    return keras.Model(inputs, outputs, name=name or folder.name)


def _input_of(layer: keras.layers.Layer, endpoint: str) -> keras.KerasTensor:
    """Returns a symbolic input like that of a signature."""
    _, named = layer.call_endpoint_fn.structured_input_signature
    if len(named) != 1:
        raise ValueError(
            f"The signature {endpoint!r} must take one input. Received: {sorted(named)}"
        )
    ((key, spec),) = named.items()
    if spec.shape.rank is None:
        raise ValueError(
            f"The input {key!r} of the signature {endpoint!r} must have a known number of axes. "
            "Received: an unknown shape"
        )
    # Keras' own names of inputs cannot have the characters of TensorFlow's.
    return keras.Input(batch_shape=tuple(spec.shape), dtype=spec.dtype.name)


def _chosen(outputs: dict[str, Any], output: str | None) -> Any:
    if output is None:
        return next(iter(outputs.values())) if len(outputs) == 1 else outputs
    if output not in outputs:
        raise ValueError(f"output must be one of {sorted(outputs)}. Received: {output=}")
    return outputs[output]
