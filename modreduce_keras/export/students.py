"""Students to export: checks models, names their inputs, and builds inference models."""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from modreduce_keras.distillers import checks
from modreduce_keras.distillers.base import BaseDistiller
from modreduce_keras.distillers.self_distiller import SelfDistiller
from modreduce_keras.keras_internals import flatten_layers, operation_of
from modreduce_keras.models.branch import Branches
from modreduce_keras.models.fake_quantization import is_quantization_aware, require_ranges
from modreduce_keras.models.folding import fold
from modreduce_keras.models.graph import input_specs, output_specs
from modreduce_keras.models.kernel_wrapper import warn_of_unfinished
from modreduce_keras.models.names import free_name
from modreduce_keras.taps import TapReader

OUTPUT = "logits"
"""Name of the output in every exported file."""


class Inputs(NamedTuple):
    """The inputs of a student.

    Attributes:
        structure: Symbolic tensors, nested as calls of the student take them.
        by_name: The same ones by their names in a file, in that order.
        student: The student.
    """

    structure: Any
    by_name: dict[str, keras.KerasTensor]
    student: keras.Model

    def pack(self, by_name: dict[str, Any]) -> Any:
        """Returns tensors by name as calls of the student take them."""
        return keras.tree.pack_sequence_as(self.structure, [by_name[name] for name in self.by_name])


def compiled(model: keras.Model, inputs: Inputs) -> Callable[[list[Any]], Any]:
    """Returns a graph of a model in inference, for batches of any size, float32.

    Args:
        model: The model.
        inputs: Its inputs. The graph takes a list of arrays in their order by name.
    """
    specs = [tf.TensorSpec((None, *one.shape[1:]), one.dtype) for one in inputs.by_name.values()]

    @tf.function(input_signature=[specs], autograph=False)
    def forward(arrays: Any) -> Any:
        packed = inputs.pack(dict(zip(inputs.by_name, arrays, strict=True)))
        return keras.ops.cast(model(packed, training=False), "float32")

    return forward


def require_student(student: Any) -> Inputs:
    """Returns the inputs of a student that can be exported.

    Raises:
        TypeError: If the model is not a Keras model.
        ValueError: If it is a distiller or a branched model, which has students; has several
            outputs; is quantized by Keras; or is not built.
    """
    remedy = _remedy(student)
    if remedy:
        raise ValueError(
            f"student must be one plain Keras model: {remedy}. Received: {type(student).__name__} "
            f"{student.name!r}"
        )
    checks.require_model(student, "student")
    structure = input_specs(student)
    if structure is None:
        raise ValueError(
            f"The student {student.name!r} must be built: start it with keras.Input(shape), or "
            "call it once on a batch."
        )
    quantized = [layer.name for layer in _layers(student) if _quantized_by_keras(layer)]
    if quantized:
        raise ValueError(
            "student must not be quantized by Keras, which cannot be converted to TFLite: export "
            "the model from before student.quantize(...), with quantization='int8'. Received: "
            f"{student.name!r} with the quantized layers {quantized}"
        )
    _require_one_output(student, structure)
    tensors = keras.tree.flatten(structure)
    return Inputs(structure, dict(zip(_names(student, tensors), tensors, strict=True)), student)


def _remedy(student: Any) -> str | None:
    """Returns which models of what has several are to be exported."""
    if isinstance(student, SelfDistiller):
        exits = " or ".join(f"distiller.exit_model({name!r})" for name in student.exits)
        return f"export distiller.student, or one of its exits, {exits}"
    if isinstance(student, BaseDistiller) and hasattr(student, "student"):
        return "export distiller.student"
    if isinstance(student, (BaseDistiller, Branches)):
        owner = "branches" if isinstance(student, Branches) else "distiller"
        students = " or ".join(f"{owner}.students[{name!r}]" for name in student.students)
        return f"export one of its students, {students}"
    return None


def _layers(model: keras.Model) -> list[keras.layers.Layer]:
    return list(flatten_layers(model))


def _quantized_by_keras(layer: keras.layers.Layer) -> bool:
    return getattr(layer.dtype_policy, "quantization_mode", None) is not None


def _require_one_output(student: keras.Model, structure: Any) -> None:
    spec = output_specs(student)
    if spec is None:
        spec = TapReader(student).specs(structure).logits
    if keras.tree.is_nested(spec):
        received = keras.tree.map_structure(lambda tensor: tuple(tensor.shape), spec)
        raise ValueError(
            "student must have one output; of a functional model with several, export "
            "keras.Model(model.input, model.output['NAME']) (of a SelfDistiller's network, "
            f"distiller.exit_model('NAME')). Received: {student.name!r} with outputs of shape "
            f"{received}"
        )


def _names(student: keras.Model, tensors: Sequence[keras.KerasTensor]) -> list[str]:
    """Returns a name for each input that all kinds of files can hold, and that no other has."""
    own = [f"input_{index}" for index in range(len(tensors))]
    if getattr(student, "inputs", None):
        own = [operation_of(tensor).name for tensor in tensors]
    # In ONNX, an input and an output are two tensors of one name.
    kept = {name for name in own if _plain(name) == name != OUTPUT}
    taken, names = {OUTPUT, *kept}, []
    for name in own:
        # What is left of a name may be the whole name of another input.
        names.append(name if name in kept else free_name(_plain(name), taken))
        taken.add(names[-1])
    return names


def _plain(name: str) -> str:
    """Returns a name with letters, digits and underscores alone, which begins with a letter."""
    name = re.sub(r"\W", "_", name, flags=re.ASCII)
    return name if name[:1].isalpha() else f"input_{name}"


def require_finite_weights(student: keras.Model) -> None:
    """Raises if a student has weights that 8 bits cannot hold: infinities or no numbers."""
    for variable in student.variables:
        if (
            "float" in variable.dtype
            and not np.isfinite(
                keras.ops.convert_to_numpy(keras.ops.cast(variable, "float32"))
            ).all()
        ):
            raise ValueError(
                "student must have finite weights, from which the ranges of 8 bits are measured: "
                "train it again, with a smaller learning rate or clipnorm= in the optimizer, or "
                f"load an earlier checkpoint. Received: {student.name!r} with infinities or what "
                f"is not a number in {variable.path!r}"
            )


def inference_model(student: keras.Model) -> keras.Model:
    """Returns a student for inference in float32: folded where it can be, else as it is.

    Raises:
        ValueError: If it cannot be folded and is not in float32, or is quantization-aware and has
            no ranges yet.
    """
    require_ranges(student)
    warn_of_unfinished(student)
    try:
        return fold(student)
    except ValueError as error:
        if is_quantization_aware(student):
            raise  # As it is, it would not be what a file computes.
        reason = error
    dtypes = {layer.compute_dtype for layer in _layers(student)}
    dtypes |= {variable.dtype for variable in student.variables}
    low = sorted(dtype for dtype in dtypes if "float" in dtype and dtype != "float32")
    if low:
        raise ValueError(
            "Files hold a model in float32. One in another precision must be a functional or a "
            "Sequential model of layers that can be rebuilt from their config: build it as one, "
            "or build the student again with dtype='float32', and give it the state of the trained "
            "one: mr.models.copy_state(student, rebuilt). "
            f"Received: {student.name!r} of {low}, and {reason}"
        ) from reason
    return student
