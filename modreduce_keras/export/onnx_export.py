"""ONNX: exports a student for the runtimes of other frameworks."""

import os
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from modreduce_keras import whole_files
from modreduce_keras.distribute.host_functions import functions_run_eagerly
from modreduce_keras.export.equivalents import equivalents
from modreduce_keras.export.files import require_file
from modreduce_keras.export.quiet import quiet
from modreduce_keras.export.students import (
    OUTPUT,
    Inputs,
    inference_model,
    require_student,
)
from modreduce_keras.keras_internals import flatten_layers
from modreduce_keras.models.graph import advice_on_sizes

_LOOKUPS = (
    keras.layers.TextVectorization,
    keras.layers.StringLookup,
    keras.layers.IntegerLookup,
)


def to_onnx(student: keras.Model, path: str | os.PathLike) -> Path:
    """Exports a student as an ONNX file, which ONNX Runtime and many others run.

    The file holds an inference model in float32, as in `to_tflite`. Inputs have the same names as
    in the student, with `_` in the place of all but letters and digits, and a number where that is
    the name of another one. The output is `"logits"`, and the number of samples is free.
    Fourier transforms of `keras.ops` are products with matrices, where the sizes are known. An
    existing file is replaced only when the new one is complete and checked.

    Args:
        student: A built Keras model with one output.
        path: File to write, which ends in `.onnx`.

    Returns:
        The path.

    Raises:
        TypeError: If the student is not a Keras model.
        ValueError: If the student is a distiller or a branched model (export one of its students),
            has several outputs, is in another precision and cannot be rebuilt, or has an operation
            that ONNX or its converter does not support; or if the path does not end in `.onnx`.
        FileNotFoundError: If the folder of the file is missing.
        ImportError: If a package is missing that `pip install 'modreduce-keras[onnx]'` installs.

    Example:
        >>> import modreduce_keras as mr
        >>> student = mr.models.get("convnet", num_classes=3, widths=(4, 8))
        >>> path = mr.export.to_onnx(student, "student.onnx")  # doctest: +SKIP
        >>> mr.export.verify(path, student, images).agreement  # doctest: +SKIP
        1.0
    """
    inputs = require_student(student)
    path = require_file(path, ".onnx")
    onnx, tf2onnx = _packages()
    content = _convert(onnx, tf2onnx, inference_model(student), inputs)
    whole_files.write(path, content)
    return path


def _packages() -> tuple[Any, Any]:
    try:
        import onnx
        import tf2onnx
    except ImportError as error:
        raise ImportError(
            "to_onnx converts with tf2onnx, and it or its package onnx is missing: "
            "pip install 'modreduce-keras[onnx]'"
        ) from error
    return onnx, tf2onnx


def _convert(onnx: Any, tf2onnx: Any, model: keras.Model, inputs: Inputs) -> bytes:
    specs = [
        tf.TensorSpec(tensor.shape, tensor.dtype, name=name)
        for name, tensor in inputs.by_name.items()
    ]

    @tf.function(autograph=False)
    def serve(*tensors: Any) -> dict[str, Any]:
        by_name = dict(zip(inputs.by_name, tensors, strict=True))
        return {OUTPUT: model(inputs.pack(by_name), training=False)}

    try:
        with quiet():
            # The converter finds what is traced here. Keras wraps grouped convolutions in functions
            # that XLA compiles, which the converter would keep as they are.
            with functions_run_eagerly(), equivalents():
                traced = serve.get_concrete_function(*specs)
            converted, _ = tf2onnx.convert.from_function(
                serve, input_signature=specs, custom_op_handlers={"Erfc": (_erfc, [])}
            )
        _store_constants(onnx, converted.graph, traced)
    except Exception as error:  # It raises what it comes across.
        raise _refused(model, error) from error
    nodes = converted.graph.node
    # The converter hands on what it does not know.
    lacking = sorted({n.op_type for n in nodes if not onnx.defs.has(n.op_type, n.domain)})
    if lacking:
        raise ValueError(
            f"The student {model.name!r} has operations that ONNX or its converter lacks: "
            f"{lacking}. Replace their layers by ones of other operations, "
            f"{advice_on_sizes(model)}or export with to_saved_model."
        )
    try:
        onnx.checker.check_model(converted, full_check=True)
    except Exception as error:  # Errors of the checker and of its inference of shapes.
        raise _refused(model, error) from error
    return converted.SerializeToString()


def _store_constants(onnx: Any, graph: Any, traced: Any) -> None:
    """Stores the tensors that layers hold in a file; the converter makes them inputs."""
    held = traced.captured_inputs
    names = [one.name for one in traced.inputs[len(traced.inputs) - len(held) :]]
    for name, value in zip(names, held, strict=True):
        for one in [one for one in graph.input if one.name == name]:
            graph.input.remove(one)
            graph.initializer.append(onnx.numpy_helper.from_array(value.numpy(), name))


def _erfc(context: Any, node: Any, name: str, _: Any) -> None:
    """Converts erfc(x) = 1 - erf(x), which the converter lacks and Keras computes GELU from."""
    inputs, shapes, dtypes = node.input, node.output_shapes, node.output_dtypes
    context.remove_node(name)
    one = context.make_const(f"{name}_one", np.array(1.0, "float32")).output[0]
    erf = context.make_node("Erf", inputs, shapes=shapes, dtypes=dtypes)
    context.make_node(
        "Sub", [one, erf.output[0]], outputs=node.output, name=name, shapes=shapes, dtypes=dtypes
    )


def _refused(model: keras.Model, error: Exception) -> ValueError:
    lookups = [one.name for one in flatten_layers(model) if isinstance(one, _LOOKUPS)]
    if lookups:
        return ValueError(
            f"The student {model.name!r} has layers that look up words or numbers in tables, "
            f"which ONNX files do not hold: {lookups}. Apply them in the data, dataset.map(layer), "
            "and export a model that takes what they give; or export with to_saved_model."
        )
    return ValueError(
        f"The student {model.name!r} cannot be converted to ONNX: replace the layers that are "
        f"named here, or export with to_saved_model. tf2onnx or onnx said: "
        f"{str(error).strip()[:2000]}"
    )
