"""Generators of images: the one that suits a student and a teacher, or what is wrong with one."""

from collections.abc import Sequence
from typing import Any

import keras

from modreduce_keras.distillers import checks
from modreduce_keras.distillers.checks import heads
from modreduce_keras.distillers.generation.methods import GENERATOR
from modreduce_keras.models.graph import input_specs
from modreduce_keras.models.image_generator import image_generator
from modreduce_keras.models.preprocessing import preprocessing


def generator_for(
    student: keras.Model,
    teacher: keras.Model,
    given: keras.Model | None,
    image_range: Sequence[float] | None,
) -> keras.Model:
    """Returns the generator that was given, or a new one for the student's images.

    Args:
        student: What learns from the images.
        teacher: Tells the range of pixels, where neither of the other two does.
        given: A generator, or `None`.
        image_range: Lowest and highest value of a pixel, or `None`.

    Raises:
        TypeError: If the generator is not a Keras model.
        ValueError: If it does not make the student's images, or the range is not known.
    """
    shape = _image_shape(student)
    if given is None:
        given = image_generator(shape, image_range=_range(image_range, teacher))
    elif image_range is not None:
        raise ValueError(
            "image_range is for the default generator: give it to mr.models.image_generator, "
            f"or leave generator= out. Received: {image_range=} with a generator"
        )
    _require_generator(given, shape)
    return given


def require_classes(student: keras.Model, output: Any, teacher: keras.Model) -> None:
    """Raises unless a student's symbolic output, and its teacher's, are logits of classes."""
    checks.require_single_output(output, student, "student")
    if len(output.shape) != 2 or output.shape[-1] < 2:
        raise ValueError(
            "A student learns without data from logits (batch, classes) of at least two "
            f"classes. Received: {student.name!r} with output of shape {tuple(output.shape)}"
        )
    heads.require_logits(teacher, "teacher")


def _image_shape(student: keras.Model) -> tuple[int, int, int]:
    specs = input_specs(student)
    shape = None if keras.tree.is_nested(specs) else tuple(specs.shape[1:])
    if shape is None or len(shape) != 3 or None in shape:
        received = keras.tree.map_structure(lambda spec: tuple(spec.shape), specs)
        raise ValueError(
            "A generator makes images for a student with one input (batch, height, width, "
            "channels) of known size. Where a distribution of other inputs is known, "
            "mr.data.sampled(function, steps=100) draws them for mr.Distiller. Received: a student "
            f"with inputs {received}"
        )
    return shape


def _range(given: Sequence[float] | None, teacher: keras.Model) -> Sequence[float]:
    if given is not None:
        return given
    found = preprocessing(teacher)
    if found is None:
        raise ValueError(
            f"The teacher {teacher.name!r} does not say which range of pixels it was trained on: "
            "give image_range=(0.0, 1.0), the lowest and the highest value. Received: "
            "image_range=None"
        )
    return found.range


def _require_generator(generator: Any, shape: tuple[int, int, int]) -> None:
    checks.require_model(generator, GENERATOR)
    specs = input_specs(generator)
    single = specs is not None and not keras.tree.is_nested(specs)
    known = single and len(specs.shape) > 1 and None not in specs.shape[1:]
    output = tuple(generator.output_shape[1:]) if known else None
    if output != shape:
        raise ValueError(
            "generator must be a built model from noise (batch, n) to images of the student's "
            f"shape {(None, *shape)}: mr.models.image_generator({shape}, image_range=(0.0, 1.0)). "
            f"Received: {generator.name!r} with output {output and (None, *output)}"
        )
