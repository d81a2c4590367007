"""Networks: loads teachers and students, and builds new students by name."""

import inspect
import zipfile
from typing import Any

import keras

from modreduce_keras import models
from modreduce_keras.command.mistakes import MistakeError, did_you_mean, one_line
from modreduce_keras.command.model_files import require_file
from modreduce_keras.compression import strip
from modreduce_keras.data.sources import PIXELS
from modreduce_keras.models import head_kinds
from modreduce_keras.models.fake_quantization import is_quantization_aware
from modreduce_keras.models.graph import input_specs
from modreduce_keras.models.kernel_wrapper import wrappers_in
from modreduce_keras.registry import components

KERAS, OURS = "keras", "mr"
_MOST_OF_A_MESSAGE = 300


def load(path: str, role: str) -> keras.Model:
    """Loads a saved model that ends in logits; a softmax or sigmoid at its end is taken off.

    Args:
        path: The file.
        role: What the messages call the model: the name of its flag.

    Raises:
        MistakeError: If there is no such file, or it cannot be used.
    """
    file = require_file(path, role)
    try:
        model = keras.saving.load_model(file, compile=False)
    except Exception as error:  # Keras raises what the file's content happens to raise
        if file.suffix == ".keras" and not zipfile.is_zipfile(file):
            raise MistakeError(
                f"--{role} must be a file that model.save('{role}.keras') writes. Received: "
                f"{path!r}, which is no Keras file, or a damaged one."
            ) from error
        message = one_line(error)[:_MOST_OF_A_MESSAGE]
        raise MistakeError(f"--{role}: {path!r} cannot be loaded: {message}") from error
    specs = input_specs(model)
    if specs is None or keras.tree.is_nested(specs):
        raise MistakeError(
            f"--{role} must be a built model with one input; of others, use the Python API. "
            f"Received: {path!r} with {specs}"
        )
    return _with_logits(model)


def _with_logits(model: keras.Model) -> keras.Model:
    """Returns a loaded model that gives logits: a softmax or sigmoid at its end is taken off."""
    head = head_kinds.of_model(model)
    outputs = getattr(model, "outputs", None) or []
    if head not in (head_kinds.SOFTMAX, head_kinds.SIGMOID) or len(outputs) != 1:
        return model
    return models.as_logits(model)


def input_shape(model: keras.Model) -> tuple[int | None, ...]:
    """Returns the shape of a model's input for one sample."""
    return tuple(input_specs(model).shape[1:])


def units(model: keras.Model) -> int:
    """Returns how many outputs a model has for a sample."""
    return int(model.output_shape[-1])


def plain(model: keras.Model) -> keras.Model:
    """Returns what a pruned or clustered student is after its training, or any other as it is."""
    wrapped = next(wrappers_in(model), None) is not None
    return model if is_quantization_aware(model) or not wrapped else strip(model)


def build(student: str, shape: tuple[int, ...], classes: int, pixels: str) -> keras.Model:
    """Builds a student by its name.

    Args:
        student: A name of `mr.models` or `keras.applications`, in the latter's spelling or in
            snake case. Where both have it, `mr:NAME` and `keras:NAME` tell them apart.
        shape: (height, width, channels).
        classes: Number of outputs.
        pixels: Range of the pixels that it will be given.

    Raises:
        MistakeError: If there is no such network, or it does not take such images.
    """
    where, name = found(student)
    if len(shape) != 3:
        raise MistakeError(
            "--student must be a saved model for tables: --student=student.keras. Received: "
            f"{student!r}, a network for images."
        )
    try:
        if where == OURS:
            return models.get(name, num_classes=classes, input_shape=shape)
        return _application(name, shape, classes, pixels)
    except ValueError as error:
        raise MistakeError(
            f"--student={student} cannot be built for images of {shape}: {one_line(error)} "
            "--image_size=N sets their size."
        ) from error


def found(student: str) -> tuple[str, str]:
    """Returns which library a student's name is of, and its name there.

    Raises:
        MistakeError: If there is no such network, or there are two.
    """
    ours, theirs = list(components("model")), _applications()
    prefix, _, name = student.rpartition(":")
    plain = _plain(name)
    fitting = []
    if prefix in ("", OURS):
        fitting += [(OURS, one) for one in ours if _plain(one) == plain]
    if prefix in ("", KERAS):
        fitting += [(KERAS, one) for one in theirs if _plain(one) == plain]
    if not prefix and (KERAS, name) in fitting:
        return KERAS, name
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise MistakeError(
            f"--student={student} is ambiguous: {KERAS}:{name} is that of keras.applications, "
            f"for photographs, {OURS}:{name} is that of mr.models, for images of 32 pixels."
        )
    raise MistakeError(
        "--student must be a file that ends in .keras, or a network of keras.applications or "
        f"mr.models. Received: {student!r}.{did_you_mean(name, [*ours, *map(_snake, theirs)])}"
    )


def _applications() -> list[str]:
    return [
        name
        for name in dir(keras.applications)
        if name[0].isupper() and callable(getattr(keras.applications, name))
    ]


def _application(name: str, shape: tuple[int, ...], classes: int, pixels: str) -> keras.Model:
    """Returns a network of `keras.applications` that scales pixels as it wants them."""
    function: Any = getattr(keras.applications, name)
    options: dict[str, Any] = {}
    if "include_preprocessing" in inspect.signature(function).parameters:
        options["include_preprocessing"] = False
    wanted = "0..255" if name.startswith("EfficientNetB") else "-1..1"
    inputs = scaled = keras.Input(shape, name="image")
    if pixels != wanted:
        (given, shift), (factor, offset) = PIXELS[pixels], PIXELS[wanted]
        scale = factor / given
        layer = keras.layers.Rescaling(scale, offset - shift * scale, name="pixels")
        scaled = layer(inputs)
    return function(
        input_tensor=scaled,
        input_shape=shape,
        weights=None,
        classes=classes,
        classifier_activation=None,
        **options,
    )


def resized(model: keras.Model, shape: tuple[int, ...]) -> keras.Model:
    """Returns a model that takes images of another size, which it resizes first."""
    own = input_shape(model)
    if len(own) != len(shape) or own[-1] != shape[-1]:
        raise MistakeError(
            f"The teacher takes inputs of shape {own}, and the student of {shape}: only heights "
            "and widths may differ."
        )
    if all(one in (None, other) for one, other in zip(own, shape, strict=True)):
        return model
    inputs = keras.Input(shape, name="image")
    outputs = model(keras.layers.Resizing(*own[:2], name="resized")(inputs))
    return keras.Model(inputs, outputs, name=model.name)


def _plain(name: str) -> str:
    return name.lower().replace("_", "")


def _snake(name: str) -> str:
    """Returns a name of `keras.applications` in snake case: MobileNetV3Small."""
    parts = [
        f"_{char.lower()}" if char.isupper() and i and not name[i - 1].isupper() else char.lower()
        for i, char in enumerate(name)
    ]
    return "".join(parts).replace("_net", "net").replace("_ne_xt", "next")
