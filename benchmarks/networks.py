"""Untrained networks that benchmarks name on the command line."""

import keras

import modreduce_keras as mr


def network(identifier: str, *, classes: int, size: int = 32, name: str | None = None):
    """Returns an untrained network with logits as outputs.

    Args:
        identifier: A name from `mr.models`, such as `"resnet20"`, or one from keras.applications,
            such as `"ResNet50"`; for the MobileNets also with a width, `"MobileNetV2:0.35"`.
        classes: Number of classes.
        size: Height and width of the images.
        name: Name of the model.
    """
    shape, (family, _, width) = (size, size, 3), identifier.partition(":")
    if not is_application(identifier):
        return mr.models.get(identifier, num_classes=classes, input_shape=shape, name=name)
    arguments = {"alpha": float(width)} if width else {}
    if name is not None:
        arguments["name"] = name
    return getattr(keras.applications, family)(
        weights=None, classes=classes, classifier_activation=None, input_shape=shape, **arguments
    )


def is_application(identifier: str) -> bool:
    """Returns whether a network is one of keras.applications."""
    return hasattr(keras.applications, identifier.partition(":")[0])
