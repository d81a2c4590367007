"""Reused classifiers: a student that ends in a projector and the teacher's last layers."""

from typing import Any

import keras
from keras import layers

from modreduce_keras.calls import by_name
from modreduce_keras.copying import copy_state
from modreduce_keras.models.clones import Cloner, copy_model
from modreduce_keras.models.graph import input_specs
from modreduce_keras.ops import adaptive_average_pool
from modreduce_keras.typing import Tensor


@by_name(
    "mr.models.reuse_classifier(student=..., teacher=...)",
    why="so that student and teacher are not swapped",
)
def reuse_classifier(
    *,
    student: keras.Model,
    teacher: keras.Model,
    student_at: str = "stage3",
    teacher_at: str = "stage3",
    factor: int = 2,
    name: str | None = None,
) -> keras.Model:
    """Builds SimKD's student: its own layers up to a tap, a projector, the teacher's classifier.

    The projector leads from the student's channels to the teacher's: a 1×1 convolution to
    `channels // factor`, a 3×3 one and a 1×1 one to `channels`, each with batch normalization and
    ReLU. A student's map that is larger than the teacher's is averaged down first; a smaller one
    stays, and the teacher's last layers run at its size.

    The result is a plain functional model: it is saved, loaded and deployed without the teacher
    and without this library. Its layers are those of the student up to the tap (shared, not
    copied: they train with it), the projector, whose last layer is `"projection"`, and
    `"classifier"`, a frozen copy of everything the teacher does after its tap.

    Args:
        student: Functional or Sequential model.
        teacher: Functional or Sequential model, trained, on the same inputs.
        student_at: Layer of the student whose output, (batch, height, width, channels), is
            projected.
        teacher_at: Layer of the teacher in whose place the projection comes. All of the teacher's
            paths must lead through it.
        factor: Divides the teacher's channels in the middle of the projector. Defaults to 2.
        name: Name of the model. Defaults to the student's, `"_reusing_"` and the teacher's.

    Returns:
        A functional model from the student's inputs to the teacher's kind of output.

    Raises:
        ValueError: If a model is not functional, a layer is unknown or does not give maps of a
            known size, some path leads around it, the classifier takes no maps of the student's
            size or cannot be copied, or `factor` is out of range.

    Example:
        >>> import modreduce_keras as mr
        >>> student = mr.models.convnet(num_classes=10, widths=(4, 4, 8))
        >>> teacher = mr.models.convnet(num_classes=10, widths=(8, 16, 32))
        >>> model = reuse_classifier(student=student, teacher=teacher)
        >>> model.get_layer("projection").output.shape
        (None, 4, 4, 32)

    Reference:
        Chen et al., Knowledge Distillation with the Reused Teacher Classifier, 2022.
    """
    feature = _maps(student, student_at, "student")
    target = _maps(teacher, teacher_at, "teacher")
    channels = target.shape[-1]
    if not (isinstance(factor, int) and 0 < factor <= channels):
        raise ValueError(
            "factor must be a positive integer, at most the teacher's number of channels, "
            f"{channels}. Received: {factor=}"
        )
    sizes = [min(pair) for pair in zip(feature.shape[1:3], target.shape[1:3], strict=True)]
    maps = feature
    if sizes != list(feature.shape[1:3]):
        maps = adaptive_average_pool(feature, *sizes)
    maps = _convolution(maps, channels // factor, 1, "projection_1")
    maps = _convolution(maps, channels // factor, 3, "projection_2")
    maps = _convolution(maps, channels, 1, "projection")
    outputs = _classifier(teacher, target, teacher_at, sizes)(maps)
    return keras.Model(
        input_specs(student), outputs, name=name or f"{student.name}_reusing_{teacher.name}"
    )


def _maps(model: keras.Model, layer: keras.layers.Layer, role: Any) -> Any:
    """Returns what a model's layer returns: symbolic maps of known size."""
    if not isinstance(model, keras.Model) or not getattr(model, "inputs", None):
        raise ValueError(
            f"reuse_classifier takes models apart, so the {role} must be a functional or a built "
            f"Sequential model. Received: {role}={model!r}"
        )
    names = [one.name for one in model.layers]
    if layer not in names:
        raise ValueError(
            f"{role}_at must name a layer of the {role} {model.name!r}, one of {names}. "
            f"Received: {role}_at={layer!r}"
        )
    output = model.get_layer(layer).output
    if keras.tree.is_nested(output) or len(output.shape) != 4 or None in output.shape[1:]:
        received = keras.tree.map_structure(lambda tensor: tuple(tensor.shape), output)
        raise ValueError(
            f"{role}_at must name a layer that returns maps (batch, height, width, channels) of "
            f"known size. Received: {role}_at={layer!r} with output of shape {received}"
        )
    return output


def _convolution(maps: Tensor, filters: int, size: Any, name: str) -> Tensor:
    maps = layers.Conv2D(filters, size, padding="same", use_bias=False, name=f"{name}_conv")(maps)
    maps = layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"{name}_norm")(maps)
    return layers.ReLU(name=name)(maps)


def _classifier(teacher: keras.Model, feature: Any, layer: keras.layers.Layer, sizes: Any) -> Any:
    """Returns a frozen copy of what the teacher does after a layer, for maps of a size."""
    try:
        original = keras.Model(feature, teacher.outputs[0])
    except ValueError as error:
        raise ValueError(
            "teacher_at must name a layer that all of the teacher's paths lead through. Received: "
            f"teacher_at={layer!r}, around which some lead ({error})"
        ) from error
    copy_model(original)  # It raises an error that names a layer that cannot be copied.
    inputs = keras.Input((*sizes, feature.shape[-1]), name="feature")
    try:
        copy = Cloner().clone(original, inputs)
        copy_state(original, copy)
    except ValueError as error:
        raise ValueError(
            f"The teacher's layers after {layer!r} take maps of {tuple(feature.shape[1:3])} only, "
            f"and the student's are {tuple(sizes)}: choose a larger map of the student. {error}"
        ) from error
    copy.name = "classifier"
    copy.trainable = False
    return copy
