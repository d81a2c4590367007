"""SavedModel: exports a student as a folder that TensorFlow runs without the model's code."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from modreduce_keras import whole_files
from modreduce_keras.export.files import require_folder_of
from modreduce_keras.export.quiet import quiet
from modreduce_keras.export.students import OUTPUT, Inputs, inference_model, require_student

MARK = "saved_model.pb"


def to_saved_model(student: keras.Model, path: str | os.PathLike) -> Path:
    """Exports a student as a TensorFlow SavedModel.

    It runs without this library, with `tf.saved_model.load(path)`, in TensorFlow Serving, or as
    `keras.layers.TFSMLayer(path)`. Its endpoints `"serve"` and `"serving_default"` take the inputs
    by their names in the student (with `_` in the place of all but letters and digits, and a number
    where that is the name of another one), with any number of samples, and return
    `{"logits": ...}`.

    The folder holds an inference model in float32, as in `to_tflite`. An existing folder is
    replaced only when the new one is complete.

    Args:
        student: A built Keras model with one output.
        path: Folder to write. An existing SavedModel is replaced; anything else raises an error.

    Returns:
        The path.

    Raises:
        TypeError: If the student is not a Keras model.
        ValueError: If the student is a distiller or a branched model (export one of its students),
            has several outputs, or is in another precision and cannot be rebuilt.
        FileNotFoundError: If the parent folder is missing.
        FileExistsError: If there is something else at `path`.

    Example:
        >>> import tempfile, numpy as np, tensorflow as tf, modreduce_keras as mr
        >>> student = mr.models.get("convnet", num_classes=3, widths=(4, 8))
        >>> path = to_saved_model(student, f"{tempfile.mkdtemp()}/student")
        >>> served = tf.saved_model.load(path)
        >>> served.serve({"image": np.ones((2, 28, 28, 1), "float32")})["logits"].shape
        TensorShape([2, 3])
    """
    inputs = require_student(student)
    path = require_folder_of(path)
    if path.exists() and not (path / MARK).is_file():
        raise FileExistsError(
            f"path must be new, or a SavedModel to replace. Received: path={str(path)!r}, where "
            "something else stands"
        )
    model = inference_model(student)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as beside:
        made = Path(beside) / "new"
        write_saved_model(model, inputs, made)
        whole_files.put_folder(made, path)
    return path


def write_saved_model(model: keras.Model, inputs: Inputs, folder: Path) -> None:
    """Writes a model in inference as a SavedModel, its inputs and its output by name."""
    specs = {
        name: tf.TensorSpec(tensor.shape, tensor.dtype, name=name)
        for name, tensor in inputs.by_name.items()
    }

    def serve(by_name: Any) -> dict[str, Any]:
        return {OUTPUT: model(inputs.pack(by_name), training=False)}

    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("serve", serve, input_signature=[specs])
    try:
        with quiet():
            archive.write_out(folder, verbose=False)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
