"""Graphs in batches: their edges as those of one large graph, and sums and shares by node.

A batch of graphs is (batch, nodes, features) with edges (batch, edges, 2): node i, and j that is a
neighbour of it. Rows of -1 pad the edges of smaller graphs.
"""

from typing import NamedTuple

from keras import ops

from modreduce_keras.distribute import require_index
from modreduce_keras.typing import Tensor

_MESSAGE = "edges must name nodes of their own graph, or be -1 for padding."


class FlatGraph(NamedTuple):
    """The graphs of a batch as one, with a further node that the padding's edges belong to.

    Attributes:
        source: Node i of each edge, (batch · edges,).
        neighbour: Node j of each edge.
        graphs: How many graphs there are.
        nodes: How many nodes each has.
    """

    source: Tensor
    neighbour: Tensor
    graphs: Tensor
    nodes: Tensor

    @property
    def size(self) -> Tensor:
        """The number of nodes, with that of the padding, which is the last."""
        return self.graphs * self.nodes + 1

    def rows(self, features: Tensor) -> Tensor:
        """Returns (batch, nodes, ...) as (size, ...), zero for the node of the padding, float32.

        Sums over many neighbours stall in half precision.
        """
        rows = ops.reshape(ops.cast(features, "float32"), (-1, *features.shape[2:]))
        return ops.pad(rows, [(0, 1)] + [(0, 0)] * (len(rows.shape) - 1))

    def by_graph(self, rows: Tensor) -> Tensor:
        """Returns (size, ...) as (batch, nodes, ...)."""
        return ops.reshape(rows[:-1], (self.graphs, self.nodes, *rows.shape[1:]))

    def sums(self, values: Tensor) -> Tensor:
        """Returns the sums of values of the edges, (batch · edges, ...), by node: (size, ...)."""
        return ops.segment_sum(values, self.source, num_segments=self.size)

    def degrees(self) -> Tensor:
        """Returns the number of neighbours of each node, (size,), float32."""
        return self.sums(ops.ones_like(self.source, dtype="float32"))

    def log_shares(self, values: Tensor) -> Tensor:
        """Returns the log-softmax of values, (batch · edges, ...), over each node's edges."""
        return segment_log_softmax(values, self.source, self.size)


def flat_graph(features: Tensor, edges: Tensor) -> FlatGraph:
    """Returns the graphs of a batch as one.

    Args:
        features: (batch, nodes, ...).
        edges: (batch, edges, 2), integers.
    """
    graphs, nodes = ops.shape(features)[0], ops.shape(features)[1]
    edges = ops.cast(edges, "int32")
    kept = ops.all(edges >= 0, axis=-1, keepdims=True)
    edges = require_index(ops.where(kept, edges, 0), nodes, _MESSAGE)
    first = ops.reshape(ops.arange(graphs, dtype="int32") * nodes, (-1, 1, 1))
    flat = ops.reshape(ops.where(kept, edges + first, graphs * nodes), (-1, 2))
    return FlatGraph(flat[:, 0], flat[:, 1], graphs, nodes)


def edges_between(edges: Tensor, kept: Tensor) -> Tensor:
    """Returns edges, (batch, edges, 2), with padding for those with an end that is not kept.

    Args:
        edges: As in `flat_graph`.
        kept: (batch, nodes), bool.
    """
    edges = ops.cast(edges, "int32")
    ends = ops.reshape(ops.maximum(edges, 0), (ops.shape(edges)[0], -1))
    ends = ops.take_along_axis(ops.cast(kept, "int32"), ends, axis=1)
    inside = ops.all(ops.reshape(ends, ops.shape(edges)) > 0, axis=-1, keepdims=True)
    return ops.where(inside, edges, -1)


def segment_log_softmax(values: Tensor, segments: Tensor, num_segments: Tensor) -> Tensor:
    """Returns the log-softmax of values, (rows, ...), over the rows of the same segment."""
    largest = ops.segment_max(values, segments, num_segments=num_segments)
    values = values - ops.stop_gradient(ops.take(largest, segments, axis=0))
    total = ops.segment_sum(ops.exp(values), segments, num_segments=num_segments)
    return values - ops.log(ops.take(total, segments, axis=0))
