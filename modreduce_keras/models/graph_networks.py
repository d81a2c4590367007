"""Networks on graphs, which classify their nodes: GCN and GAT."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import layers

from modreduce_keras.arguments import require_integer, require_sizes
from modreduce_keras.models.graph_layers import GraphAttention, GraphConvolution, NodeMask


def gcn(
    *,
    num_classes: int,
    features: int,
    widths: Sequence[int] = (64,),
    nodes: int | None = None,
    edges: int | None = None,
    masked: bool = False,
    dropout: float = 0.5,
    name: str | None = None,
) -> keras.Model:
    """Builds a graph convolutional network that classifies the nodes of graphs.

    A sample is a graph, and its nodes are positions, as the tokens of a text are: logits are
    (batch, nodes, num_classes), labels (batch, nodes). A single large graph is a batch of one.

    Taps: `"embedding"`, (batch, nodes, widths[-1]), and `"logits"`; `"stage1"`, `"stage2"`, ... for
    the layers before them, where there are several widths.

    Args:
        num_classes: Number of classes of a node.
        features: Width of the nodes' features.
        widths: Width of each layer before the last, at least one. Defaults to one of 64.
        nodes: Number of nodes of a graph. Defaults to `None`: any.
        edges: Number of edges of a graph. Defaults to `None`: any.
        masked: Whether a third input, `"mask"`, (batch, nodes), bool, says which nodes there are;
            losses leave out the others. Defaults to `False`.
        dropout: Share of each layer's inputs that is dropped in training. Defaults to 0.5.
        name: Name of the model. Defaults to `"gcn"`.

    Returns:
        A functional model of a dict: `"features"`, (batch, nodes, features), and `"edges"`, (batch,
        edges, 2), int: node i, and j that is a neighbour of it, with rows of -1 for padding. An
        undirected graph has both directions.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> import numpy as np
        >>> network = gcn(num_classes=3, features=5, widths=(8,))
        >>> graph = {"features": np.ones((1, 4, 5)), "edges": np.array([[[0, 1], [1, 0]]])}
        >>> network(graph).shape
        TensorShape([1, 4, 3])

    Reference:
        Kipf and Welling, Semi-Supervised Classification with Graph Convolutional Networks, 2017.
    """

    def convolution(width: int, name: str, last: bool) -> keras.layers.Layer:
        return GraphConvolution(width, activation=None if last else "relu", name=name)

    sizes = {"features": features, "nodes": nodes, "edges": edges}
    return _network(
        convolution, num_classes, widths, sizes, masked=masked, dropout=dropout, name=name or "gcn"
    )


def gat(
    *,
    num_classes: int,
    features: int,
    widths: Sequence[int] = (8,),
    heads: int = 8,
    nodes: int | None = None,
    edges: int | None = None,
    masked: bool = False,
    dropout: float = 0.6,
    name: str | None = None,
) -> keras.Model:
    """Builds a graph attention network that classifies the nodes of graphs.

    Its inputs, outputs and taps are those of `gcn`; the last layer has one head. The paper also
    drops attention coefficients in training, which this network does not.

    Args:
        num_classes: Number of classes of a node.
        features: Width of the nodes' features.
        widths: Width of a head, for each layer before the last. Defaults to one of 8.
        heads: Number of heads of those layers. Defaults to 8.
        nodes: See `gcn`.
        edges: See `gcn`.
        masked: See `gcn`.
        dropout: Share of each layer's inputs that is dropped in training. Defaults to 0.6.
        name: Name of the model. Defaults to `"gat"`.

    Returns:
        A functional model, see `gcn`.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> gat(num_classes=3, features=5, widths=(4,), heads=2).get_layer("embedding").output.shape
        (None, None, 8)

    Reference:
        Veličković et al., Graph Attention Networks, 2018.
    """
    heads = require_integer("heads", heads)

    def attention(width: int, name: str, last: bool) -> keras.layers.Layer:
        how: dict[str, Any] = {} if last else {"heads": heads, "activation": "elu"}
        return GraphAttention(width, name=name, **how)

    sizes = {"features": features, "nodes": nodes, "edges": edges}
    return _network(
        attention, num_classes, widths, sizes, masked=masked, dropout=dropout, name=name or "gat"
    )


def _network(
    layer: Callable[[int, str, bool], keras.layers.Layer],
    num_classes: int,
    widths: Sequence[int],
    sizes: dict[str, int | None],
    *,
    masked: bool,
    dropout: float,
    name: str,
) -> keras.Model:
    """Builds a network whose layers mix the nodes of each edge."""
    num_classes = require_integer("num_classes", num_classes)
    widths = require_sizes("widths", widths, "name at least one layer by its width")
    checked = {
        key: size if size is None and key != "features" else require_integer(key, size)
        for key, size in sizes.items()
    }
    nodes = checked["nodes"]
    inputs = {
        "features": keras.Input((nodes, checked["features"]), name="features"),
        "edges": keras.Input((checked["edges"], 2), dtype="int32", name="edges"),
    }
    x = inputs["features"]
    if masked:
        inputs["mask"] = keras.Input((nodes,), dtype="bool", name="mask")
        x = NodeMask(name="nodes")([x, inputs["mask"]])
    names = [f"stage{number}" for number in range(1, len(widths))] + ["embedding"]
    for width, called in zip(widths, names, strict=True):
        x = layers.Dropout(dropout, name=f"{called}_dropout")(x)
        x = layer(width, called, False)(x, inputs["edges"])
    x = layers.Dropout(dropout, name="logits_dropout")(x)
    return keras.Model(inputs, layer(num_classes, "logits", True)(x, inputs["edges"]), name=name)
