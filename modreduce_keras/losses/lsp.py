"""Local structure: how similar each node of a graph is to each of its neighbours."""

from collections.abc import Mapping
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from modreduce_keras.arguments import is_number, require_choice, require_integer
from modreduce_keras.distribute import require_index
from modreduce_keras.graphs import edges_between, flat_graph, segment_log_softmax
from modreduce_keras.losses.base import fits
from modreduce_keras.losses.relation_base import RelationLoss
from modreduce_keras.ops import (
    flatten,
    kl_divergence,
    log_softmax_of_kept,
    pairwise_squared_distances,
)
from modreduce_keras.registry import register
from modreduce_keras.typing import Labels, Mask, Tensor

KERNELS = ("rbf", "linear", "poly")
VARIANTS = ("paper", "reference")
_OF_KERNEL = {"bandwidth": ("rbf", 100.0), "offset": ("poly", 0.0), "degree": ("poly", 2)}
"""The kernel that reads an argument, and the default of this."""


@register("loss", "lsp")
class LSP(RelationLoss):
    """Local structure preserving distillation, for graph networks.

    KL(S_i(s) ‖ S_i(t)), where S_ij = softmax over the neighbours j of node i of k(f_i, f_j), and k
    is exp(-‖a - b‖² / 2σ) ("rbf"), aᵀb ("linear") or (aᵀb + c)^d ("poly")

    If `edges` is an array, the batch is one graph: the samples are its nodes, in order
    (`fit(..., batch_size=number_of_nodes, shuffle=False)`). A node without neighbours has the value
    0.

    If each sample is a graph, features are (batch, nodes, width), and `edges="edges"` is the key of
    the inputs with the edges of each graph, (batch, edges, 2), int, padded with rows of -1. The
    value of a sample is then the mean over its nodes that have neighbours. A masked node counts
    neither by itself nor as a neighbour.

    To distil into a perceptron on the features of the nodes (GLNN), use plain KD; see the guide
    *Graphs*.

    Args:
        edges: (edges, 2), int: node i, and j that is a neighbour of it. An undirected graph has
            both directions. Or the key of the inputs that holds the edges of each sample, a string.
            Defaults to `None`: all pairs of the batch, of nodes (nodes, width).
        kernel: `"rbf"`, the default, `"linear"` or `"poly"`.
        bandwidth: σ of `"rbf"`, a positive number. Defaults to 100.
        offset: c of `"poly"`. Defaults to 0.
        degree: d of `"poly"`, a positive integer. Defaults to 2.
        variant: `"paper"`, the default because it is the paper's equation, or `"reference"`:
            KL(S_i(t) ‖ S_i(s)), as published code has it.
        name: Name of the loss. Defaults to `"lsp"`.
        reduction: See `Loss`.

    Call arguments:
        y_true: The teacher's features of the nodes, (nodes, ...). With a key as `edges`, a dict of
            them as `"teacher"`, (batch, nodes, ...), and of `"inputs"`, a dict with that key.
        y_pred: The student's, of any size.

    Returns:
        (nodes,), or (batch,) with a key as `edges`, float32; 0 where the local structures agree.

    Raises:
        ValueError: If an argument is out of range or of another kernel, if features are
            (batch, nodes, width) and there are no edges, or an edge leads out of the
            batch (inside a compiled step, a `tf.errors.InvalidArgumentError`).

    Example:
        >>> import numpy as np
        >>> teacher, student = np.array([[1.0], [0.0], [1.0]]), np.array([[1.0], [0.0], [0.0]])
        >>> loss = LSP(edges=[[0, 1], [0, 2]], kernel="linear")
        >>> values = loss.call(teacher, student)  # Σ p log (p / q) with p = (1/2, 1/2)
        >>> [round(float(value), 4) for value in values]
        [0.1201, 0.0, 0.0]

    Reference:
        Yang et al., Distilling Knowledge from Graph Convolutional Networks, 2020; the perceptron:
        Zhang et al., Graph-less Neural Networks, 2022.
    """

    default_feature: ClassVar[str | None] = None
    default_weight = 1.0

    def __init__(
        self,
        *,
        edges: Any = None,
        kernel: str = "rbf",
        bandwidth: float = 100.0,
        offset: float = 0.0,
        degree: int = 2,
        variant: str = "paper",
        name: str | None = None,
        reduction: str | None = "sum_over_batch_size",
    ) -> None:
        super().__init__(name=name, reduction=reduction)
        # A node that is zero is still a neighbour.
        self.takes_mask = isinstance(edges, str)
        self.ignores_zeros = not self.takes_mask
        if not (is_number(bandwidth) and bandwidth > 0):
            raise ValueError(f"bandwidth must be a positive number. Received: {bandwidth=}")
        if not is_number(offset):
            raise ValueError(f"offset must be a number. Received: {offset=}")
        self.edges = edges if edges is None or isinstance(edges, str) else _checked(edges)
        self.kernel = require_choice("kernel", kernel, KERNELS)
        self.bandwidth, self.offset = bandwidth, offset
        self.degree = require_integer("degree", degree)
        self.variant = require_choice("variant", variant, VARIANTS)
        for argument, (reader, default) in _OF_KERNEL.items():
            value = getattr(self, argument)
            if kernel != reader and value != default:
                raise ValueError(
                    f"{argument} is read by kernel={reader!r} alone: give that, or leave it out. "
                    f"Received: {kernel=}, {argument}={value!r}"
                )

    def needed_inputs(self) -> dict[str, keras.KerasTensor]:
        """Returns the edges among the inputs of a batch, where `edges` is their key."""
        if not isinstance(self.edges, str):
            return {}
        return {self.edges: keras.KerasTensor((None, None, 2), "int32", name=self.edges)}

    def per_sample(
        self,
        teacher: Tensor,
        student: Tensor,
        labels: Labels = None,
        inputs: Mapping[str, Tensor] | None = None,
        mask: Mask = None,
    ) -> Tensor:
        if isinstance(self.edges, str):
            edges = (inputs or {})[self.edges]
            if mask is not None:
                kept = ops.any(ops.reshape(mask, (*ops.shape(mask)[:2], -1)), axis=-1)
                edges = edges_between(edges, kept)
            return self._per_graph(teacher, student, edges)
        nodes_alone = self.edges is not None or 3 not in (len(teacher.shape), len(student.shape))
        expectation = (
            "edges where each sample is a graph, or it compares graphs with one another: "
            "mr.losses.LSP(edges='edges') reads that key of the inputs, (batch, edges, 2), and "
            "without edges features are those of nodes, (nodes, width)"
        )
        self.require(nodes_alone, expectation, teacher, student)
        of, onto = self._structures(lambda side: self.relations(flatten(side)), teacher, student)
        if self.edges is None:
            return kl_divergence(of, onto)
        nodes = ops.shape(student)[0]
        return ops.segment_sum(ops.exp(of) * (of - onto), self.edges[:, 0], num_segments=nodes)

    def _structures(self, structure: Any, teacher: Tensor, student: Tensor) -> list[Tensor]:
        """Returns log S of both sides, in the order of the divergence."""
        sides = [structure(student), structure(teacher)]
        return sides[::-1] if self.variant == "reference" else sides

    def _per_graph(self, teacher: Tensor, student: Tensor, edges: Tensor) -> Tensor:
        """Returns the mean over the nodes that have neighbours, (batch,)."""
        for side in (teacher, student):
            alike = len(side.shape) > 2 and fits(side.shape[:2], teacher.shape[:2])
            expectation = "features of equal (batch, nodes, ...) where edges is a key"
            self.require(alike, expectation, teacher, student)
        graph = flat_graph(student, edges)

        def structure(side: Tensor) -> Tensor:
            rows = flatten(graph.rows(side))
            return graph.log_shares(self._similarities(rows, graph.source, graph.neighbour))

        of, onto = self._structures(structure, teacher, student)
        values = graph.by_graph(graph.sums(ops.exp(of) * (of - onto)))
        counted = ops.cast(graph.by_graph(graph.degrees()) > 0, "float32")
        return ops.sum(values, axis=1) / ops.maximum(ops.sum(counted, axis=1), 1.0)

    def relations(self, embeddings: Tensor) -> Any:
        """Returns log S: (nodes, nodes) for all pairs, else (edges,)."""
        nodes = ops.shape(embeddings)[0]
        if self.edges is None:
            dots = ops.matmul(embeddings, ops.transpose(embeddings))
            similarities = self._kernel(dots, lambda: pairwise_squared_distances(embeddings))
            own = ops.cast(ops.eye(nodes), "bool")
            return log_softmax_of_kept(similarities, ops.logical_not(own))
        message = "edges must lie inside of the batch, which has to hold all nodes of the graph."
        edges = require_index(ops.convert_to_tensor(self.edges), nodes, message)
        similarities = self._similarities(embeddings, edges[:, 0], edges[:, 1])
        return segment_log_softmax(similarities, edges[:, 0], nodes)

    def _similarities(self, embeddings: Tensor, source: Tensor, neighbour: Tensor) -> Tensor:
        """Returns the similarity of the two nodes of each edge, (edges,)."""
        one, other = (ops.take(embeddings, side, axis=0) for side in (source, neighbour))
        return self._kernel(
            ops.sum(one * other, axis=1), lambda: ops.sum(ops.square(one - other), axis=1)
        )

    def _kernel(self, dots: Tensor, squared_distances: Tensor) -> Tensor:
        if self.kernel == "rbf":
            return ops.exp(-squared_distances() / (2.0 * self.bandwidth))
        return dots if self.kernel == "linear" else ops.power(dots + self.offset, self.degree)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        edges = self.edges.tolist() if isinstance(self.edges, np.ndarray) else self.edges
        return {**super().get_config(), "edges": edges}


def _checked(edges: Any) -> np.ndarray:
    array = np.asarray(edges)
    pairs = array.ndim == 2 and array.shape[1] == 2 and array.dtype.kind in "iu"
    if not (pairs and (array >= 0).all()):
        raise ValueError(
            "edges must be pairs of nodes (edges, 2), int and not negative, a key of the inputs "
            "that holds (batch, edges, 2), or None. Received: an "
            f"array of shape {array.shape} and dtype {array.dtype}"
        )
    if len(np.unique(array, axis=0)) < len(array):
        raise ValueError("edges must not come twice. Received: the same pair of nodes repeatedly")
    return array.astype("int32")
