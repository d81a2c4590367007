"""What every adapter shares: it makes a student's and a teacher's feature comparable."""

from typing import Any, ClassVar

import keras

from modreduce_keras import knobs


class Adapter(keras.layers.Layer):
    """Base class of all adapters: a layer that owns every weight and state a method needs.

    `adapter(student, teacher)` takes the features that the taps read, tensors or lists of them,
    and returns the pair that the loss compares. Its weights train with the student's and are
    thrown away with the distiller.

    To add one, write `build(student_shape, teacher_shape)` and
    `call(student, teacher, training=None)`, declare `example_shapes` and register the class.
    Numbers that a user may want to change while training are declared with `Knob`.
    """

    identifier: ClassVar[str]
    needs_index: ClassVar[bool] = False
    """Whether `call` has a further argument `index`, the samples' places in the training data
    (batch,), int; `None` only while the distiller is being built."""
    example_shapes: ClassVar[list[tuple[Any, Any]]]
    """Shapes without the batch of valid (student, teacher) pairs, for the conformance tests."""
    example_arguments: ClassVar[dict[str, Any]] = {}
    """Constructor arguments that have no default, for the conformance tests."""

    def adopt(self, student: keras.Model, teacher: keras.Model) -> None:
        """Takes what the adapter reuses of the two models (a classifier), before it is built.

        What it keeps must not be an attribute that Keras tracks: the models' weights are theirs.
        """

    def build(self, student_shape, teacher_shape):
        """Creates the weights from the shapes of both features, batch included."""

    def call(self, student, teacher, training=None):
        """Returns the comparable pair (student, teacher)."""
        raise NotImplementedError

    def pretraining_loss(self, student, teacher):
        """Returns the values per sample, (batch,), of the adapter's own stage before training.

        `None`, the default, where the adapter has none. `pretraining_variables` are trained.
        """
        return

    def pretraining_variables(self) -> list[keras.Variable]:
        """Returns the variables that the adapter's own stage trains, and only that stage."""
        return []

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        return {**super().get_config(), **knobs.config(self)}
