"""What every adapter shares: it makes a student's and a teacher's feature comparable."""

from typing import ClassVar

import keras


class Adapter(keras.layers.Layer):
    """Base class of all adapters: a layer that owns every weight and state a method needs.

    `adapter(student, teacher)` takes the features that the taps read and returns the pair that
    the loss compares. Its weights train with the student's and are thrown away with the distiller.

    To add one, write `build(student_shape, teacher_shape)` and
    `call(student, teacher, training=None)`, declare `example_shapes` and register the class.
    """

    identifier: ClassVar[str]
    example_shapes: ClassVar[list[tuple[tuple[int, ...], tuple[int, ...]]]]
    """Shapes without the batch of valid (student, teacher) pairs, for the conformance tests."""

    def build(self, student_shape, teacher_shape):
        """Creates the weights from the shapes of both features, batch included."""

    def call(self, student, teacher, training=None):
        """Returns the comparable pair (student, teacher)."""
        raise NotImplementedError
