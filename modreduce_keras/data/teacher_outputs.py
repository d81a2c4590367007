"""Teacher outputs: a model's outputs for a batch, and their shapes."""

from typing import Any

import keras
import tensorflow as tf

from modreduce_keras.models.graph import to_float
from modreduce_keras.taps import ModelOutput, TapReader, activations_told


def outputs_of(reader: TapReader, inputs: Any) -> dict[str, Any]:
    """Returns a model's `"logits"` and `"features"` for a batch, in inference mode."""
    return _by_name(reader(inputs, training=False))


def specs_of_outputs(reader: TapReader, inputs: Any) -> dict[str, Any]:
    """Returns the specs of what `outputs_of` returns.

    Args:
        reader: Reads the model's taps.
        inputs: Specs of a batch.

    Raises:
        ValueError: If the model takes other inputs, or an output has no fixed size or is not
            floating-point.
    """
    declared = keras.tree.flatten(getattr(reader.model, "inputs", None) or ())
    for own, given in zip(declared, keras.tree.flatten(inputs), strict=False):
        if given.dtype.is_integer and "float" in keras.backend.standardize_dtype(own.dtype):
            raise ValueError(
                f"The teacher takes float inputs. {to_float([reader.model])} "
                f"Received: inputs of {given}"
            )
    symbols = keras.tree.map_structure(
        lambda spec: keras.KerasTensor((None, *spec.shape[1:]), spec.dtype.name), inputs
    )
    with activations_told([reader.model], "teacher"):
        given = reader.specs(symbols)
    outputs = keras.tree.map_structure(
        lambda tensor: tf.TensorSpec(tensor.shape, tensor.dtype), _by_name(given)
    )
    unfit = [
        spec
        for spec in tf.nest.flatten(outputs)
        if None in spec.shape[1:] or not spec.shape.rank or not spec.dtype.is_floating
    ]
    if unfit:
        raise ValueError(
            "A TeacherCache holds floating-point outputs (batch, ...) of a fixed size. "
            f"Received: the teacher {reader.model.name!r} with {unfit}"
        )
    return outputs


def _by_name(output: ModelOutput) -> dict[str, Any]:
    return {"logits": output.logits, "features": output.features}
