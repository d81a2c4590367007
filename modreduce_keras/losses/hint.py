"""FitNets' hint: the mean squared difference of two features."""

from typing import ClassVar

from keras import ops

from modreduce_keras.arguments import require_choice
from modreduce_keras.losses.base import Loss
from modreduce_keras.ops import pooled_to_match
from modreduce_keras.registry import register
from modreduce_keras.typing import Labels, Mask, Tensor


@register("loss", "hint")
class Hint(Loss):
    """FitNets' hint: the mean squared difference of two features.

    mean (r(f_s) - f_t)², where the regressor r is the adapter (`"conv_regressor"` by default)

    With `variant="paper"`, ½ ‖r(f_s) - f_t‖² instead, the sum over all entries, of weight 1.

    Features are vectors, sequences, maps or volumes. Where they differ in length, height or width
    they are averaged down to the smaller one first; the default adapter already brings the
    student's to the teacher's size, so this matters only without it.

    With a mask, the mean is over the positions that are kept, in the whole batch.

    The default weight of 100 is that of the CIFAR comparisons, trained with SGD. Tiny students
    under Adam want much less: the quick start uses 1.

    If you name no layers, or `at="auto"`, the hint compares the middle one of the pairs of stages
    that `mr.models.pair` proposes, as in the paper. Of two or four pairs, it is the earlier of the
    two in the middle. On 10,000 images of CIFAR-100, a hint at the second of three stages added 4
    points of accuracy to DIST, and a hint at the last stage nothing (three seeds).

    Args:
        variant: `"reference"`, the default: the mean, as in the comparisons that the weight of 100
            is from, because it does not grow with the feature's size; or `"paper"`: half the sum.
        name: Name of the loss. Defaults to `"hint"`.
        reduction: See `Loss`.

    Call arguments:
        y_true, y_pred: Features of teacher and student, (batch, ..., channels); see `Loss`.

    Returns:
        (batch,), float32; 0 where both are equal.

    Raises:
        ValueError: If `variant` is neither of both, or rank or channels differ.

    Example:
        >>> import numpy as np
        >>> float(Hint()(np.zeros((1, 4, 4, 2)), np.full((1, 4, 4, 2), 3.0)))
        9.0

    Reference:
        Romero et al., FitNets: Hints for Thin Deep Nets, 2015. The paper trains the hint in a
        stage of its own before the rest; here it is a term of the joint loss, as in the
        comparisons that followed. `Feature(Hint(variant="paper"), at=..., staged=True,
        adapter=ConvRegressor(batch_normalization=False))` is the paper's.
    """

    default_feature: ClassVar[str | None] = "middle feature maps"
    default_weight = 100.0
    default_adapter = "conv_regressor"
    matches_sizes = True
    one_feature = True
    over_positions = "mean"

    def __init__(
        self,
        *,
        variant: str = "reference",
        name: str | None = None,
        reduction: str | None = "sum_over_batch_size",
    ) -> None:
        super().__init__(name=name, reduction=reduction)
        self.variant = require_choice("variant", variant, ("reference", "paper"))
        if variant == "paper":
            self.default_weight, self.over_positions = 1.0, "sum"

    def per_position(
        self, teacher: Tensor, student: Tensor, labels: Labels = None, mask: Mask = None
    ) -> Tensor:
        self.require(
            len(teacher.shape) == len(student.shape) and teacher.shape[-1] == student.shape[-1],
            "features of equal rank and number of channels (adapter='conv_regressor' brings maps "
            "and sequences there, 'linear_embedding' vectors)",
            teacher,
            student,
        )
        if len(teacher.shape) > 2:
            teacher, student = pooled_to_match(teacher, student)
        squares = ops.square(student - teacher)
        if self.variant == "paper":
            return 0.5 * ops.sum(squares, axis=-1)
        return ops.mean(squares, axis=-1)
