"""Graph attention: which samples of a batch attend to which, from one layer to the next."""

from typing import Any

from keras import ops

from modreduce_keras.arguments import require_choice
from modreduce_keras.losses.base import Loss
from modreduce_keras.ops import kl_divergence
from modreduce_keras.registry import register
from modreduce_keras.typing import Labels, Tensor

VARIANTS = ("plain", "reference")


@register("loss", "mhgd")
class MHGD(Loss):
    """Multi-head graph distillation: attention graphs of a batch, between neighbouring layers.

    mean over heads h of KL(A_hi(t) ‖ A_hi(s)), where A_hij = softmax over j of q_hi · k_hj

    for sample i, summed over the pairs of neighbouring layers. The queries q of the back layer and
    the keys k of the front layer come from the adapter, `"attention_heads"`, whose heads are
    learnt on the teacher in a stage of their own and serve both networks.

    With `variant="reference"`, KL(A_hi(s) ‖ A_hi(t)) and A_hij = softmax over j of
    tanh(q_hi · k_hj), so that no weight of a sample is more than e² times another.

    Args:
        variant: `"plain"`, the default because it is the attention of the equation, under which
            the heads were learnt, or `"reference"`, as the authors' code computes it.
        name: Name of the loss. Defaults to `"mhgd"`.
        reduction: See `Loss`.

    Call arguments:
        y_true: The teacher's queries and keys, [q, k] or [q, k, q, k, ...] for several pairs of
            layers, (batch, heads, width) each.
        y_pred: The student's, of as many pairs and heads.

    Returns:
        (batch,), float32; 0 where the graphs agree, and for a batch of one.

    Raises:
        ValueError: If `variant` is unknown, or the queries and keys do not belong together.

    Example:
        >>> import numpy as np
        >>> keys = np.log([3.0, 1.0]).reshape((2, 1, 1))
        >>> queries = np.array([1.0, 0.0]).reshape((2, 1, 1))
        >>> values = MHGD().call([queries, keys], [0.0 * queries, keys])
        >>> [round(float(value), 4) for value in values]  # 3/4 log 3/2 + 1/4 log 1/2
        [0.1308, 0.0]

    Reference:
        Lee and Song, Graph-based Knowledge Distillation by Multi-head Attention Network, 2019.
        The authors' code adds up heads and samples, which are averaged here, at weight 1, and
        clips the gradient of the term, variable by variable, to the norm of the task's.
    """

    kind = "relation"
    default_adapter = "attention_heads"

    def __init__(
        self,
        *,
        variant: str = "plain",
        name: str | None = None,
        reduction: str | None = "sum_over_batch_size",
    ) -> None:
        super().__init__(name=name, reduction=reduction)
        self.variant = require_choice("variant", variant, VARIANTS)

    def per_sample(self, teacher: Tensor, student: Tensor, labels: Labels = None) -> Tensor:
        if not (_are_pairs(teacher) and _are_pairs(student)) or _heads(teacher) != _heads(student):
            raise ValueError(
                "MHGD needs queries and keys (batch, heads, width) in lists [q, k, q, k, ...], as "
                "many of the student as of the teacher, as adapter='attention_heads' makes them. "
                f"Received: teacher of shape {_shapes(teacher)} and student of shape "
                f"{_shapes(student)}"
            )
        graphs = [self._graphs(side) for side in (teacher, student)]
        if self.variant == "reference":
            graphs.reverse()
        return sum(ops.mean(kl_divergence(*pair), axis=0) for pair in zip(*graphs, strict=True))

    def _graphs(self, side: Tensor) -> list[Any]:
        """Returns log A of each pair of layers, (heads, batch, batch)."""
        scores = [
            ops.einsum("ihd,jhd->hij", queries, keys)
            for queries, keys in zip(side[::2], side[1::2], strict=True)
        ]
        if self.variant == "reference":
            scores = [ops.tanh(one) for one in scores]
        return [ops.log_softmax(one, axis=-1) for one in scores]


def _are_pairs(side: Tensor) -> bool:
    several = isinstance(side, (list, tuple)) and len(side) > 0 and len(side) % 2 == 0
    return several and all(
        len(queries.shape) == len(keys.shape) == 3 and queries.shape[1:] == keys.shape[1:]
        for queries, keys in zip(side[::2], side[1::2], strict=True)
    )


def _heads(side: Tensor) -> list[Any]:
    return [queries.shape[1] for queries in side[::2]]


def _shapes(side: Tensor) -> Tensor:
    if isinstance(side, (list, tuple)):
        return [tuple(one.shape) for one in side]
    return tuple(side.shape)
