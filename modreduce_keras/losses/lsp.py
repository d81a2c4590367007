"""Local structure: how alike each node of a graph is to each of its neighbours."""

from typing import Any, ClassVar

import numpy as np
from keras import ops

from modreduce_keras.arguments import is_number, require_choice, require_integer
from modreduce_keras.distribute import require_index
from modreduce_keras.losses.relation_base import RelationLoss
from modreduce_keras.ops import flatten, kl_divergence, pairwise_squared_distances
from modreduce_keras.registry import register
from modreduce_keras.typing import Tensor

KERNELS = ("rbf", "linear", "poly")
VARIANTS = ("paper", "reference")
# Far below every similarity, and still finite when multiplied by a probability of zero.
_NO_NEIGHBOUR = -1e30


@register("loss", "lsp")
class LSP(RelationLoss):
    """Local structure preserving distillation, for networks on a graph: the batch is its nodes.

    KL(S_i(s) ‖ S_i(t)), where S_ij = softmax over the neighbours j of node i of k(f_i, f_j), and k
    is exp(-‖a - b‖² / 2σ) ("rbf"), aᵀb ("linear") or (aᵀb + c)^d ("poly")

    The edges are those of the whole graph, so a batch must hold all of its nodes in their order
    (`fit(..., batch_size=number_of_nodes, shuffle=False)`). A node without neighbours counts as 0.

    A student without a graph of its own (a perceptron on the nodes' features: GLNN) needs no loss
    of its own: it is plain KD, with another input for the teacher (`teacher_input=`).

    Args:
        edges: (edges, 2), int: node i, and j that is a neighbour of it. An undirected graph has
            both directions. Defaults to `None`: all pairs of the batch.
        kernel: `"rbf"`, the default, `"linear"` or `"poly"`.
        bandwidth: σ of `"rbf"`, a positive number. Defaults to 100.
        offset: c of `"poly"`. Defaults to 0.
        degree: d of `"poly"`, a positive integer. Defaults to 2.
        variant: `"paper"`, the default because it is the paper's equation, or `"reference"`:
            KL(S_i(t) ‖ S_i(s)), as published code has it.
        name: Name of the loss. Defaults to `"lsp"`.
        reduction: See `Loss`.

    Call arguments:
        y_true: The teacher's features of the nodes, (nodes, ...).
        y_pred: The student's, of any size.

    Returns:
        (nodes,), float32; 0 where the local structures agree.

    Raises:
        ValueError: If an argument is out of range, or an edge leads out of the batch (inside a
            compiled step, a `tf.errors.InvalidArgumentError`).

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
        if not (is_number(bandwidth) and bandwidth > 0):
            raise ValueError(f"bandwidth must be a positive number. Received: {bandwidth=}")
        if not is_number(offset):
            raise ValueError(f"offset must be a number. Received: {offset=}")
        self.edges = None if edges is None else _checked(edges)
        self.kernel = require_choice("kernel", kernel, KERNELS)
        self.bandwidth, self.offset = bandwidth, offset
        self.degree = require_integer("degree", degree)
        self.variant = require_choice("variant", variant, VARIANTS)

    def per_sample(self, teacher: Tensor, student: Tensor, labels: Tensor | None = None) -> Tensor:
        structures = [self.relations(flatten(side)) for side in (student, teacher)]
        if self.variant == "reference":
            structures.reverse()
        if self.edges is None:
            return kl_divergence(*structures)
        of, onto = structures
        nodes = ops.shape(student)[0]
        return ops.segment_sum(ops.exp(of) * (of - onto), self.edges[:, 0], num_segments=nodes)

    def relations(self, embeddings: Tensor) -> Any:
        """Returns log S: (nodes, nodes) for all pairs, else (edges,)."""
        nodes = ops.shape(embeddings)[0]
        if self.edges is None:
            dots = ops.matmul(embeddings, ops.transpose(embeddings))
            similarities = self._kernel(dots, lambda: pairwise_squared_distances(embeddings))
            own = ops.cast(ops.eye(nodes), "bool")
            logs = ops.log_softmax(ops.where(own, _NO_NEIGHBOUR, similarities), axis=-1)
            return ops.where(own, _NO_NEIGHBOUR, logs)
        message = "edges must lie inside of the batch, which has to hold all nodes of the graph."
        edges = require_index(ops.convert_to_tensor(self.edges), nodes, message)
        ends = [ops.take(embeddings, edges[:, side], axis=0) for side in (0, 1)]
        similarities = self._kernel(
            ops.sum(ends[0] * ends[1], axis=1),
            lambda: ops.sum(ops.square(ends[0] - ends[1]), axis=1),
        )
        return similarities - self._log_sum_exp(similarities, edges[:, 0], nodes)

    @staticmethod
    def _log_sum_exp(values: Tensor, source: Tensor, nodes: Tensor) -> Tensor:
        """Returns log Σ exp over the edges of the same source, for each edge."""
        largest = ops.stop_gradient(ops.segment_max(values, source, num_segments=nodes))
        largest = ops.take(largest, source, axis=0)
        total = ops.segment_sum(ops.exp(values - largest), source, num_segments=nodes)
        return largest + ops.log(ops.take(total, source, axis=0))

    def _kernel(self, dots: Tensor, squared_distances: Tensor) -> Tensor:
        if self.kernel == "rbf":
            return ops.exp(-squared_distances() / (2.0 * self.bandwidth))
        return dots if self.kernel == "linear" else ops.power(dots + self.offset, self.degree)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        edges = None if self.edges is None else self.edges.tolist()
        return {**super().get_config(), "edges": edges}


def _checked(edges: Any) -> np.ndarray:
    array = np.asarray(edges)
    pairs = array.ndim == 2 and array.shape[1] == 2 and array.dtype.kind in "iu"
    if not (pairs and (array >= 0).all()):
        raise ValueError(
            "edges must be pairs of nodes (edges, 2), int and not negative, or None. Received: an "
            f"array of shape {array.shape} and dtype {array.dtype}"
        )
    if len(np.unique(array, axis=0)) < len(array):
        raise ValueError("edges must not come twice. Received: the same pair of nodes repeatedly")
    return array.astype("int32")
