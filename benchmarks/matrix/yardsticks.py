"""Yardsticks: what a file is compared with where random weights amplify the rounding of each layer.

A trained network keeps its classes when a value is rounded differently; a deep random one does not.
Whether a file with a lower agreement is at fault is seen beside something that is not ours: the
same file run by TFLite's other kernels, the file of TFLite's converter alone, or the Keras model
with rounded weights.
"""

import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np

import modreduce_keras as mr


def of_other_kernels(
    path: Path, inputs: np.ndarray, expected: np.ndarray
) -> tuple[float, float, float]:
    """Compares a file with its model, and with itself on other kernels than XNNPACK's.

    Args:
        path: A TFLite file of one input.
        inputs: The test inputs.
        expected: The logits of the model that the file was made of.

    Returns:
        Root of the mean square of what the file is off the model, the same of both kinds of
        kernels, and in how many classes the kernels agree.
    """
    from ai_edge_litert.interpreter import OpResolverType

    usual = _run(path, inputs, OpResolverType.AUTO)
    other = _run(path, inputs, OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
    off, between = (float(np.sqrt(np.mean((usual - one) ** 2))) for one in (expected, other))
    return off, between, float(np.mean(usual.argmax(-1) == other.argmax(-1)))


def of_the_converter(
    model: keras.Model, representative: np.ndarray, inputs: np.ndarray
) -> np.ndarray:
    """Returns the logits of the int8 file that TFLite's converter makes of a model by itself."""
    import tensorflow as tf
    from ai_edge_litert.interpreter import OpResolverType

    with tempfile.TemporaryDirectory() as folder:
        model.export(folder, format="tf_saved_model", verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.representative_dataset = lambda: ([one[None]] for one in representative)
        path = Path(folder) / "alone.tflite"
        path.write_bytes(converter.convert())
        return _run(path, inputs, OpResolverType.AUTO)


def rounded_to_half(model: keras.Model) -> keras.Model:
    """Returns a folded copy of a model with its weights rounded to float16."""
    copy = mr.models.fold(model)
    copy.set_weights([one.astype("float16").astype("float32") for one in copy.get_weights()])
    return copy


def _run(path: Path, inputs: np.ndarray, kernels: Any) -> np.ndarray:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1, experimental_op_resolver_type=kernels)
    (given,) = interpreter.get_input_details()
    interpreter.resize_tensor_input(given["index"], inputs.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(given["index"], inputs)
    interpreter.invoke()
    (result,) = interpreter.get_output_details()
    return interpreter.get_tensor(result["index"]).astype("float64")
