"""Instance relationship graphs: samples, their distances, and how layers change both."""

from keras import ops

from modreduce_keras.knobs import Knob
from modreduce_keras.losses.base import Loss
from modreduce_keras.ops import (
    as_list,
    flatten,
    pairwise_squared_distances,
    per_sample_mean,
    safe_reciprocal,
)
from modreduce_keras.registry import register
from modreduce_keras.typing import Labels, Tensor


def _over_largest(values: Tensor) -> Tensor:
    """Returns values divided by their largest; zeros stay zeros."""
    return values * safe_reciprocal(ops.max(values))


@register("loss", "irg")
class IRG(Loss):
    """Instance relationship graph: the samples of a batch as a graph, layer by layer.

    w_v V + w_e E + w_t T, of features f^1 ... f^L:

    - vertices V = mean_d (f_s - f_t)² of the last layer
    - edges E = mean over the layers of mean_ij (A_ij(s) - A_ij(t))², where A is the squared
      distances of all pairs of samples divided by the largest of the batch
    - transformation T = mean over neighbouring layers of (Λ_i(s) - Λ_i(t))² + (Δ(s) - Δ(t))²:
      Λ_i = ‖f_i^l - f_i^(l+1)‖², how far sample i moves, divided by the largest of the batch, and
      Δ = mean_ij (A_ij^l - A_ij^(l+1))², how much the edges change

    Vertices are left out where the last layers of teacher and student differ in size, Λ where
    two neighbouring layers of a network do, and T altogether with one layer. Δ is one number for
    the batch and counts for every sample alike.

    Args:
        vertex_weight: w_v. Defaults to 1.
        edge_weight: w_e. Defaults to 1.
        transformation_weight: w_t. Defaults to 1.
        name: Name of the loss. Defaults to `"irg"`.
        reduction: See `Loss`.

    Call arguments:
        y_true: A layer of the teacher, (batch, ...), or a list of several from the first to the
            last.
        y_pred: As many layers of the student, of any size.

    Returns:
        (batch,), float32; 0 where the graphs agree.

    Raises:
        ValueError: If a weight is out of range, or the numbers of layers differ.

    Example:
        >>> import numpy as np
        >>> teacher, student = np.array([[0.0], [1.0], [2.0]]), np.array([[0.0], [2.0], [2.0]])
        >>> edges = IRG(vertex_weight=0.0)  # 2/9 · ((1 - 1/4)² + (0 - 1/4)²)
        >>> round(float(edges(teacher, student)), 4)
        0.1389
        >>> round(float(IRG()(teacher, student)), 4)  # 1/3 more
        0.4722

    Reference:
        Liu et al., Knowledge Distillation via Instance Relationship Graph, 2019. Distances are
        divided by the largest, and parts that do not fit are left out, as in public
        implementations; those weigh 1 and 1, or 0.1, 5 and 5.
    """

    kind = "relation"
    default_weight = 0.005
    vertex_weight = Knob()
    edge_weight = Knob()
    transformation_weight = Knob()

    def __init__(
        self,
        *,
        vertex_weight: float = 1.0,
        edge_weight: float = 1.0,
        transformation_weight: float = 1.0,
        name: str | None = None,
        reduction: str | None = "sum_over_batch_size",
    ) -> None:
        super().__init__(name=name, reduction=reduction)
        self.vertex_weight, self.edge_weight = vertex_weight, edge_weight
        self.transformation_weight = transformation_weight

    def per_sample(self, teacher: Tensor, student: Tensor, labels: Labels = None) -> Tensor:
        teacher, student = ([flatten(layer) for layer in as_list(s)] for s in (teacher, student))
        if len(teacher) != len(student):
            raise ValueError(
                "IRG needs as many layers of the teacher as of the student. Received: "
                f"{len(teacher)} of the teacher and {len(student)} of the student"
            )
        graphs = [
            [_over_largest(pairwise_squared_distances(layer)) for layer in side]
            for side in (teacher, student)
        ]
        edges = [per_sample_mean(ops.square(s - t)) for t, s in zip(*graphs, strict=True)]
        value = self.edge_weight * sum(edges) / len(edges)
        if teacher[-1].shape[1] == student[-1].shape[1]:
            value += self.vertex_weight * per_sample_mean(ops.square(student[-1] - teacher[-1]))
        changes = [
            self._change(
                teacher[i : i + 2], student[i : i + 2], *(side[i : i + 2] for side in graphs)
            )
            for i in range(len(student) - 1)
        ]
        return value + self.transformation_weight * sum(changes) / max(len(changes), 1)

    @staticmethod
    def _change(
        teacher: Tensor, student: Tensor, teacher_graphs: Tensor, student_graphs: Tensor
    ) -> Tensor:
        """Returns the difference of what two neighbouring layers do, (batch,) or a scalar."""
        of_edges = [
            ops.mean(ops.square(second - first))
            for first, second in (teacher_graphs, student_graphs)
        ]
        value = ops.square(of_edges[1] - of_edges[0])
        if all(first.shape[1] == second.shape[1] for first, second in (teacher, student)):
            changes = [
                _over_largest(ops.sum(ops.square(second - first), axis=1))
                for first, second in (teacher, student)
            ]
            value += ops.square(changes[1] - changes[0])
        return value
