"""Augmentation: warns of random layers in students, whose results the teacher does not see."""

import warnings
from collections.abc import Iterator, Mapping

import keras

from modreduce_keras.calls import stacklevel_of_user
from modreduce_keras.copying import adapted_variables
from modreduce_keras.keras_internals import flatten_layers
from modreduce_keras.knowledge import Knowledge

_OF_IMAGES = keras.layers.RandomFlip.__bases__[0]  # of all layers that augment images
_DROPOUTS = (
    keras.layers.Dropout,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.SpatialDropout3D,
    keras.layers.AlphaDropout,
    keras.layers.GaussianDropout,
)


def warn_of_augmentation(
    students: Mapping[str, keras.Model],
    knowledge: Mapping[str, list[Knowledge]],
    has_own_inputs: bool,
) -> None:
    """Warns where a student changes its inputs at random, and its teacher does not see that.

    Args:
        students: The students, by name.
        knowledge: What each learns from a teacher.
        has_own_inputs: Whether the distiller takes `student_inputs`.
    """
    for name, student in students.items():
        layers = augmenting_layers(student)
        if not layers or not any(one.loss.needs_teacher for one in knowledge.get(name, ())):
            continue
        own = (
            f", or, where each student is to have its own, into student_inputs={{{name!r}: "
            "augment}, which the teacher sees too"
        )
        warnings.warn(
            f"The student {student.name!r} changes its inputs at random, in {layers}. The teacher "
            "does not see these changes, so the student learns to give the teacher's outputs for "
            "other inputs. Take these layers out of the student and into the dataset, which both "
            "see: dataset.map(lambda x, y: (augment(x, training=True), y))"
            f"{own if has_own_inputs else ''}.",
            stacklevel=stacklevel_of_user(),
        )


def augmenting_layers(model: keras.Model) -> list[str]:
    """Returns the names of layers that change a model's inputs at random in training.

    These are layers that augment images, and other layers with random numbers (such as
    `GaussianNoise`) before the first layer that learns. Dropout is none.
    """
    found, at_inputs = [], True
    for layer in _in_order(model):
        inside = [one for one in flatten_layers(layer) if _draws(one)]
        of_images = any(isinstance(one, _OF_IMAGES) for one in inside)
        others = any(not isinstance(one, _DROPOUTS) for one in inside)
        adapted = {id(variable) for variable in adapted_variables(layer)}
        at_inputs = at_inputs and all(id(weight) in adapted for weight in layer.weights)
        if of_images or (at_inputs and others):
            found.append(layer.name)
    return found


def _in_order(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """Yields the layers in the order in which they run, those of nested models among them."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _in_order(layer)
        else:
            yield layer


def _draws(layer: keras.layers.Layer) -> bool:
    """Returns whether a layer has random numbers of its own."""
    return any(isinstance(value, keras.random.SeedGenerator) for value in vars(layer).values())
