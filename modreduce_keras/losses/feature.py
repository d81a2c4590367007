"""Feature losses: the student's intermediate maps against the teacher's."""

from keras import ops

from modreduce_keras.losses.base import Loss
from modreduce_keras.ops import per_sample_mean, pooled_to_match
from modreduce_keras.registry import register


@register("loss", "hint")
class Hint(Loss):
    """FitNets' hint: the mean squared difference of two features.

    mean (r(f_s) - f_t)², where the regressor r is the adapter (`"conv_regressor"` by default)

    Maps of unequal height or width are averaged down to the smaller one first; the default
    adapter already brings the student's to the teacher's size, so this matters only without it.

    The default weight of 100 is that of the CIFAR comparisons, trained with SGD. Tiny students
    under Adam want much less: the quick start uses 1.

    Args:
        name: Name of the loss. Defaults to `"hint"`.
        reduction: See `Loss`.

    Call arguments:
        y_true: The teacher's feature, (batch, height, width, channels) or (batch, features).
        y_pred: The student's feature, of the same rank and number of channels.

    Returns:
        (batch,), float32; 0 where both are equal.

    Raises:
        ValueError: If rank or channels differ.

    Example:
        >>> import numpy as np
        >>> float(Hint()(np.zeros((1, 4, 4, 2)), np.full((1, 4, 4, 2), 3.0)))
        9.0

    Reference:
        Romero et al., FitNets: Hints for Thin Deep Nets, 2015. The paper trains the hint in a
        stage of its own before the rest; here it is a term of the joint loss, as in the
        comparisons that followed. A schedule as weight restores the stages.
    """

    default_weight = 100.0
    default_adapter = "conv_regressor"
    example_shapes = ((4, 4, 6), (4, 4, 6))

    def per_sample(self, teacher, student, labels=None):
        self.require(
            len(teacher.shape) == len(student.shape) and teacher.shape[-1] == student.shape[-1],
            "features of equal rank and number of channels (an adapter can bring them there)",
            teacher,
            student,
        )
        if len(teacher.shape) == 4:
            teacher, student = pooled_to_match(teacher, student)
        return per_sample_mean(ops.square(student - teacher))
