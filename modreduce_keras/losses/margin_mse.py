"""MarginMSE: by how much one candidate is better than another, and not how good it is."""

from keras import ops

from modreduce_keras.arguments import require_choice
from modreduce_keras.losses.response_base import ResponseLoss
from modreduce_keras.registry import register
from modreduce_keras.typing import Labels, Mask, Tensor

PAIRS = ("all", "first")


@register("loss", "margin_mse")
class MarginMSE(ResponseLoss):
    """Margin distillation for ranking: by how much one candidate is better than another.

    mean over pairs (i, j) of candidates of ((z_i - z_j)(s) - (z_i - z_j)(t))²

    The outputs are the scores of the candidates of a query, such as a relevant and an irrelevant
    passage. A constant that is added to all scores of a query does not matter, so that a student
    may score by the product of two embeddings what the teacher scores by reading both texts.

    Args:
        pairs: `"all"`, the default, or `"first"`: of the first candidate, the relevant one, with
            each other one. With two candidates, as in the paper, both are the same.
        name: Name of the loss. Defaults to `"margin_mse"`.
        reduction: See `Loss`.

    Call arguments:
        y_true, y_pred: Scores of teacher and student, (batch, ..., candidates); see
            `ResponseLoss`.

    Returns:
        (batch,), float32; 0 where the scores differ by a constant.

    Raises:
        ValueError: If `pairs` is something else, the shapes differ, or there is one candidate.

    Example:
        >>> import numpy as np
        >>> teacher, student = np.array([[9.0, 4.0]]), np.array([[2.0, 0.0]])
        >>> float(MarginMSE()(teacher, student))  # margins of 5 and 2
        9.0

    Reference:
        Hofstätter et al., Improving Efficient Neural Ranking Models with Cross-Architecture
        Knowledge Distillation, 2020.
    """

    def __init__(
        self,
        *,
        pairs: str = "all",
        name: str | None = None,
        reduction: str | None = "sum_over_batch_size",
    ) -> None:
        super().__init__(name=name, reduction=reduction)
        self.pairs = require_choice("pairs", pairs, PAIRS)

    def per_position(
        self, teacher: Tensor, student: Tensor, labels: Labels = None, mask: Mask = None
    ) -> Tensor:
        difference = student - teacher
        if self.pairs == "first":
            margins = difference[..., :1] - difference[..., 1:]
            return ops.mean(ops.square(margins), axis=-1)
        # The mean of all squared differences of n numbers is 2 n / (n - 1) times their variance.
        candidates = difference.shape[-1]
        centred = difference - ops.mean(difference, axis=-1, keepdims=True)
        return 2.0 / (candidates - 1) * ops.sum(ops.square(centred), axis=-1)
