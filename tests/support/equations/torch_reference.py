"""Narrow networks whose outputs PyTorch has computed, and the numbers that were put into them."""

import numpy as np

import modreduce_keras as mr

SIZE, CLASSES = 16, 5
BUILDERS = {
    "resnet": (mr.models.resnet, {"depth": 14, "widths": (4, 4, 8, 12)}),
    "wide_resnet": (mr.models.wide_resnet, {"depth": 10, "widen_factor": 2}),
    "vgg": (mr.models.vgg, {"depth": 11, "widths": (4, 6, 8, 10, 12)}),
    "mobilenet_v2": (mr.models.mobilenet_v2, {"width_multiplier": 0.25}),
    "shufflenet_v1": (mr.models.shufflenet_v1, {"widths": (48, 96, 192), "blocks": (2, 2, 1)}),
    "shufflenet_v2": (mr.models.shufflenet_v2, {"widths": (8, 16, 24, 32), "blocks": (2, 3, 1)}),
    "resnet50": (mr.models.resnet50, {"widths": (4, 4, 6, 8, 10), "blocks": (2, 1, 2, 1)}),
}
"""By family, what builds the network, and its arguments."""


def narrow(family, **arguments):
    """Returns a family's network of few channels."""
    build, given = BUILDERS[family]
    given = {"num_classes": CLASSES, "input_shape": (SIZE, SIZE, 3), **given, **arguments}
    return build(**given)


def images():
    """Returns the images that PyTorch has seen, between -2 and 2."""
    return (4.0 * _uniform((2, SIZE, SIZE, 3), 0) - 2.0).astype("float32")


def state_dict(layout):
    """Returns the weights that the network in PyTorch had.

    Args:
        layout: Of each entry in order, its name and its sizes, as one string.
    """
    entries = {}
    for stream, line in enumerate(layout, start=1):
        name, *sizes = line.split()
        shape = tuple(int(size) for size in sizes)
        values = _uniform(shape, stream)
        if len(shape) > 1:
            values = (2.0 * values - 1.0) * np.sqrt(6.0 / np.prod(shape[1:]))
        elif name.endswith((".weight", ".running_var")):
            values = values + 0.5
        else:
            values = values - 0.5
        entries[name] = values.astype("float32")
    return entries


def _uniform(shape, stream):
    """Returns numbers between 0 and 1 that look random and are the same everywhere."""
    bits = np.arange(np.prod(shape), dtype="uint64") + np.uint64(stream * 1_000_003)
    bits = (bits * np.uint64(2_654_435_761) + np.uint64(12_345)) % np.uint64(2**32)
    bits = (bits ^ (bits >> np.uint64(15))) * np.uint64(2_246_822_519) % np.uint64(2**32)
    bits = bits ^ (bits >> np.uint64(13))
    return (bits / 2.0**32).reshape(shape)
