"""Fusing: which layers an int8 file runs as one operation, so that it rounds once."""

import keras
from keras import layers

from modreduce_keras.models.folding import normalized_layer
from modreduce_keras.models.graph import Graph
from modreduce_keras.models.integer_layers import (
    AFFINE,
    FUSED,
    KERNEL_LAYERS,
    NOTHING_IN_INFERENCE,
    PASSED,
    activation_of,
    function_of,
)

_SUMS = (*KERNEL_LAYERS, *AFFINE, layers.Add, layers.Multiply, layers.Subtract)


def is_relu(layer: keras.Operation | None) -> bool:
    """Returns whether a layer runs as one operation with what it reads."""
    return type(layer) in (layers.Activation, layers.ReLU) and activation_of(layer) in FUSED


def is_fused_pool(layer: keras.Operation | None, graph: Graph) -> bool:
    """Returns whether a layer is a pooling that runs as one operation with what reads it."""
    if type(layer) is not layers.AveragePooling2D:
        return False
    # Ranges are not known from one model to another.
    return all(one is not None and one.graph is graph for one in graph.readers(layer)) and is_relu(
        _reader(layer, graph)
    )


def is_relu_of_pool(layer: keras.Operation, graph: Graph) -> bool:
    """Returns whether a layer runs as one operation with the pooling before it."""
    source = graph.source(layer) if is_relu(layer) else None
    while type(source) in NOTHING_IN_INFERENCE:
        source = graph.source(source)
    return is_fused_pool(source, graph)


def is_fused(layer: keras.layers.Layer, graph: Graph) -> bool:
    """Returns whether the layer that reads another's result runs as one operation with it."""
    reader = graph.only_reader(layer)
    if type(reader) is layers.BatchNormalization:
        return normalized_layer(reader, graph) is layer
    sums = type(layer) in _SUMS or function_of(layer) in ("Add", "Multiply", "Subtract")
    return sums and activation_of(layer) == "linear" and is_relu(_reader(layer, graph))


def is_joined(operation: keras.Operation, graph: Graph) -> bool:
    """Returns whether a concatenation alone reads a result, in a range of its own.

    What it joins has that range in the file.
    """
    return type(_reader(operation, graph, through=PASSED)) is layers.Concatenate


def _reader(
    operation: keras.Operation, graph: Graph, through: tuple[type, ...] = NOTHING_IN_INFERENCE
) -> keras.Operation | None:
    """Returns what alone reads an operation in a file: one layer, or the first of equal ReLUs.

    The converter sees neither the bounds of nested models nor layers that do nothing in inference,
    and computes what is the same for several readers once.

    Args:
        operation: Of the graph.
        graph: Of a model, which may be nested.
        through: Kinds of layers that are passed over.
    """
    first, *others = _readers(operation, graph, through) or [None]
    return first if first and all(_is_same(first, one) for one in others) else None


def _readers(
    operation: keras.Operation, graph: Graph, through: tuple[type, ...]
) -> list[keras.Operation | None]:
    found: list[keras.Operation | None] = []
    for reader in graph.readers(operation):
        if reader is not None and type(reader.operation) in through:
            found += _readers(reader.operation, reader.graph, through)
        else:
            found.append(None if reader is None else reader.operation)
    return found


def _is_same(one: keras.Operation, other: keras.Operation | None) -> bool:
    """Returns whether two readers of a result are one layer, or ReLUs that are equal."""
    if one is other:
        return True
    return is_relu(one) and is_relu(other) and activation_of(one) == activation_of(other)
