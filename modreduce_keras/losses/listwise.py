"""Listwise distillation: in which order each sample ranks the others, and how clearly."""

from typing import Any

from keras import ops

from modreduce_keras.arguments import require_bool
from modreduce_keras.knobs import Knob
from modreduce_keras.losses.relation_base import RelationLoss
from modreduce_keras.ops import flatten, kl_divergence, log_softmax_of_kept, unit
from modreduce_keras.registry import register
from modreduce_keras.typing import Labels, Tensor


@register("loss", "listwise")
class Listwise(RelationLoss):
    """Listwise distillation for retrieval: how each sample ranks the others of the batch.

    Σ_j p_ij(t) log (p_ij(t) / p_ij(s)), where p_i = softmax over j of cos(q_i, d_j) / T

    Of one embedding of each model, q and d are the same, and the list of a sample is of all
    others. Of two, `at=["query", "document"]`, the list of a query is of all documents of the
    batch. The widths of teacher and student may differ.

    Scores of given candidates need no embeddings: for them, the same divergence is
    `mr.Response(mr.losses.KD(temperature=1.0))`.

    Args:
        temperature: T, a positive number or schedule. Defaults to 0.07, with which contrastively
            trained encoders begin.
        normalize: Whether to compare by the cosine, and not by the product. Defaults to `True`.
        name: Name of the loss. Defaults to `"listwise"`.
        reduction: See `Loss`.

    Call arguments:
        y_true: The teacher's embeddings, (batch, ...), or a list of two: of queries, of documents.
        y_pred: As many of the student.

    Returns:
        (batch,), float32; 0 where the similarities agree up to a constant.

    Raises:
        ValueError: If the temperature is not positive, or there are not one or two embeddings of
            each model.

    Example:
        >>> import numpy as np
        >>> documents = np.eye(2)
        >>> teacher, student = np.array([[1.0, 0.0]] * 2), np.array([[1.0, 1.0]] * 2)
        >>> loss = Listwise(temperature=1.0)  # log 2 - H(0.7311, 0.2689)
        >>> round(float(loss([teacher, documents], [student, documents])), 4)
        0.1109

    Reference:
        Cao et al., Learning to Rank: From Pairwise Approach to Listwise Approach, 2007, for the
        softmax over the list (ListNet's top one); Yang et al., CLIP-KD, 2024, for the divergence
        of a teacher's and a student's similarities in a batch, which they also take from the
        documents to the queries.
    """

    one_feature = False
    default_weight = 1.0
    temperature = Knob(positive=True)

    def __init__(
        self,
        *,
        temperature: float = 0.07,
        normalize: bool = True,
        name: str | None = None,
        reduction: str | None = "sum_over_batch_size",
    ) -> None:
        super().__init__(name=name, reduction=reduction)
        self.temperature = temperature
        self.normalize = require_bool("normalize", normalize)

    def per_sample(self, teacher: Tensor, student: Tensor, labels: Labels = None) -> Tensor:
        sides = [side if isinstance(side, (list, tuple)) else [side] for side in (teacher, student)]
        numbers = [len(side) for side in sides]
        if numbers not in ([1, 1], [2, 2]):
            raise ValueError(
                f"{type(self).__name__} takes one embedding of each model, at='embedding', or two, "
                f"at=['query', 'document']. Received: {numbers[0]} of the teacher and "
                f"{numbers[1]} of the student"
            )
        return kl_divergence(*map(self.relations, sides))

    def relations(self, embeddings: Any) -> Any:
        """Returns log p, (batch, batch), of one embedding or of queries and documents."""
        rows = [flatten(side) for side in embeddings]
        rows = [unit(side) for side in rows] if self.normalize else rows
        similarities = ops.matmul(rows[0], ops.transpose(rows[-1])) / self.temperature
        others = None if len(rows) == 2 else ops.eye(ops.shape(rows[0])[0]) < 1
        return log_softmax_of_kept(similarities, others)
