"""The order in which another library would list a network's layers: by the paths of its graph."""

from collections.abc import Iterator

import keras

from modreduce_keras.keras_internals import calls_of, history_of


def weighted_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """Returns those of `all_layers` that have weights."""
    return [layer for layer in all_layers(model) if layer.weights]


def all_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """Returns the layers of a model, each once and after all that it reads.

    Where paths join, the paths of the first input come before those of the second: a block's
    convolutions before its shortcut. Unlike the order of `model.layers` it does not depend on how
    long the paths are. Layers of nested models stand where the model does; a layer that runs
    several times stands where it runs first.

    Args:
        model: Functional or built Sequential model.
    """
    return list({id(layer): layer for layer in _layers(model)}.values())


def _layers(model: keras.Model) -> Iterator[keras.layers.Layer]:
    if isinstance(model, keras.Sequential):
        for layer in model.layers:
            yield from _flat(layer)
        return
    ends = {id(tensor) for tensor in model.inputs}
    seen = set()
    waiting = [(tensor, False) for tensor in reversed(model.outputs)]
    while waiting:
        tensor, ready = waiting.pop()
        operation, index, _ = history_of(tensor)
        if ready:
            if isinstance(operation, keras.layers.Layer):
                yield from _flat(operation)
        elif id(tensor) not in ends and (id(operation), index) not in seen:
            seen.add((id(operation), index))
            read = calls_of(operation)[index].inputs
            waiting.append((tensor, True))
            waiting.extend((each, False) for each in reversed(read))


def _flat(layer: keras.layers.Layer) -> Iterator[keras.layers.Layer]:
    if isinstance(layer, keras.Sequential) or (
        isinstance(layer, keras.Model) and getattr(layer, "inputs", None)
    ):
        yield from _layers(layer)
    else:
        yield layer
