"""Layers on graphs: convolution and attention over the edges that come with each batch."""

from typing import Any

import keras
from keras import ops

from modreduce_keras.arguments import require_bool, require_integer
from modreduce_keras.graphs import FlatGraph, flat_graph
from modreduce_keras.typing import Tensor

_PACKAGE = "modreduce_keras"


class _GraphLayer(keras.layers.Layer):
    """Base of layers on (batch, nodes, width) and edges (batch, edges, 2); -1 pads the edges."""

    def __init__(self, units: int, *, activation: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = require_integer("units", units)
        self.activation = keras.activations.get(activation)
        self.supports_masking = True

    def _weight(
        self, name: str, shape: tuple[int, ...], initializer: str = "glorot_uniform"
    ) -> Any:
        return self.add_weight(name=name, shape=shape, initializer=initializer)

    def _activated(self, sums: Tensor) -> Tensor:
        return self.activation(ops.cast(sums, self.compute_dtype) + self.bias)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        activation = keras.activations.serialize(self.activation)
        return {**super().get_config(), "units": self.units, "activation": activation}


@keras.saving.register_keras_serializable(_PACKAGE)
class GraphConvolution(_GraphLayer):
    """Graph convolution: the mean of a node and its neighbours, symmetrically normalized.

    activation(D^-½ (A + I) D^-½ X W + b), where D_ii = 1 + the number of neighbours of node i

    Args:
        units: Width of the output.
        activation: Activation. Defaults to none.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        features: (batch, nodes, width).
        edges: (batch, edges, 2), int: node i, and j that is a neighbour of it, without loops; rows
            of -1 are padding. An undirected graph has both directions.

    Returns:
        (batch, nodes, units).

    Example:
        >>> import numpy as np
        >>> layer = GraphConvolution(1, name="mean")
        >>> features, edges = np.array([[[2.0], [4.0]]]), np.array([[[0, 1], [1, 0]]])
        >>> layer.build(features.shape, edges.shape)
        >>> layer.set_weights([np.ones((1, 1)), np.zeros(1)])
        >>> np.asarray(layer(features, edges)).round(3).tolist()
        [[[3.0], [3.0]]]

    Reference:
        Kipf and Welling, Semi-Supervised Classification with Graph Convolutional Networks, 2017.
    """

    def build(self, features_shape: Any, edges_shape: Any = None) -> None:
        """Creates the weights."""
        self.kernel = self._weight("kernel", (features_shape[-1], self.units))
        self.bias = self._weight("bias", (self.units,), "zeros")

    def call(self, features: Tensor, edges: Tensor) -> Tensor:
        """Returns the convolved features."""
        graph = flat_graph(features, edges)
        rows = graph.rows(ops.matmul(features, self.kernel))
        scale = ops.rsqrt(graph.degrees() + 1.0)[:, None]
        scaled = rows * scale
        mixed = (graph.sums(ops.take(scaled, graph.neighbour, axis=0)) + scaled) * scale
        return self._activated(graph.by_graph(mixed))

    def compute_output_shape(self, features_shape: Any, edges_shape: Any = None) -> Any:
        """Returns the shape of the output."""
        return (*features_shape[:-1], self.units)


@keras.saving.register_keras_serializable(_PACKAGE)
class GraphAttention(_GraphLayer):
    """Graph attention: each node weighs itself and its neighbours.

    h_i = Σ_j α_ij W x_j, with α_ij = softmax over j of LeakyReLU(a_s · W x_i + a_n · W x_j), slope
    0.2, j over the neighbours of i and i itself, for each head

    The tap `"LAYER/attention"` reads the α of each edge, their mean over the heads: (batch, edges,
    1), 0 for padding.

    Args:
        units: Width of each head.
        heads: Number of heads. Defaults to 1.
        concatenate: Whether heads stand side by side, (batch, nodes, heads · units), or their mean
            is taken, as in the last layer of the paper's network. Defaults to `True`.
        activation: Activation. Defaults to none.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        features, edges: See `GraphConvolution`.

    Returns:
        (batch, nodes, heads · units), or (batch, nodes, units) of a mean.

    Example:
        >>> import numpy as np
        >>> layer = GraphAttention(2, heads=3)
        >>> layer(np.ones((1, 4, 5)), np.array([[[0, 1], [1, 0]]])).shape
        TensorShape([1, 4, 6])

    Reference:
        Veličković et al., Graph Attention Networks, 2018.
    """

    def __init__(
        self,
        units: int,
        *,
        heads: int = 1,
        concatenate: bool = True,
        activation: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(units, activation=activation, **kwargs)
        self.heads = require_integer("heads", heads)
        self.concatenate = require_bool("concatenate", concatenate)
        # It changes nothing. A tap reads its output.
        self.attention = keras.layers.Identity(name="attention", dtype="float32")

    def build(self, features_shape: Any, edges_shape: Any = None) -> None:
        """Creates the weights."""
        self.kernel = self._weight("kernel", (features_shape[-1], self.heads * self.units))
        self.own = self._weight("own", (self.heads, self.units))
        self.others = self._weight("others", (self.heads, self.units))
        self.bias = self._weight("bias", (self._width(),), "zeros")

    def call(self, features: Tensor, edges: Tensor) -> Tensor:
        """Returns the attended features."""
        without_loops = flat_graph(features, edges)
        graph = _with_loops(without_loops)
        rows = graph.rows(ops.matmul(features, self.kernel))
        heads = ops.reshape(rows, (-1, self.heads, self.units))
        of_node, of_neighbour = (
            ops.sum(heads * ops.cast(vector, "float32"), axis=-1)
            for vector in (self.own, self.others)
        )
        scores = ops.take(of_node, graph.source, axis=0)
        scores += ops.take(of_neighbour, graph.neighbour, axis=0)
        shares = ops.exp(graph.log_shares(ops.leaky_relu(scores, negative_slope=0.2)))
        self.attention(_by_edge(shares, without_loops))
        mixed = graph.sums(shares[..., None] * ops.take(heads, graph.neighbour, axis=0))
        if self.concatenate:
            mixed = ops.reshape(mixed, (-1, self.heads * self.units))
        else:
            mixed = ops.mean(mixed, axis=1)
        return self._activated(graph.by_graph(mixed))

    def _width(self) -> int:
        return self.units * self.heads if self.concatenate else self.units

    def compute_output_shape(self, features_shape: Any, edges_shape: Any = None) -> Any:
        """Returns the shape of the output."""
        return (*features_shape[:-1], self._width())

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        return {**super().get_config(), "heads": self.heads, "concatenate": self.concatenate}


@keras.saving.register_keras_serializable(_PACKAGE)
class NodeMask(keras.layers.Layer):
    """Gives the nodes of a graph a mask, which Keras hands on: padding does not count in losses.

    Call arguments:
        inputs: A list of features, (batch, nodes, width), and of which nodes there are, (batch,
            nodes), bool.
    """

    def call(self, inputs: Any) -> Tensor:
        """Returns the features, zero where there is no node."""
        features, kept = inputs
        return features * ops.cast(kept, features.dtype)[..., None]

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """Returns which nodes there are."""
        return ops.cast(inputs[1], "bool")


def _by_edge(shares: Tensor, graph: FlatGraph) -> Tensor:
    """Returns the mean over heads of the shares of a graph's edges, (batch, edges, 1).

    Args:
        shares: (edges and further ones, heads).
        graph: The graph with these edges alone.
    """
    mean = ops.mean(shares[: ops.shape(graph.source)[0]], axis=-1)
    is_padding = ops.equal(graph.source, graph.size - 1)
    return ops.reshape(ops.where(is_padding, 0.0, mean), (graph.graphs, -1, 1))


def _with_loops(graph: FlatGraph) -> FlatGraph:
    """Returns a graph with a further edge from each node to itself."""
    nodes = ops.arange(graph.size, dtype="int32")
    source, neighbour = (ops.concatenate([ends, nodes]) for ends in (graph.source, graph.neighbour))
    return graph._replace(source=source, neighbour=neighbour)
