"""Losses on maps before their activation: which neurons respond, and what a ReLU lets through."""

from keras import ops

from modreduce_keras.knobs import Knob
from modreduce_keras.losses.statistics import MapLoss
from modreduce_keras.ops import as_list, filled, reduced
from modreduce_keras.registry import register


class PreactivationLoss(MapLoss):
    """Base class of losses that add penalties over all neurons of one layer or of several.

    Of n layers, in the order in which the network computes them, layer i counts 2^(i - n): the
    last one fully, the one before it half.
    """

    default_adapter = "channel_projector"
    example_shapes = ((8, 8, 6), (4, 4, 6))
    equal_channels = True
    one_feature = False
    takes_mask = True

    def per_sample(self, teacher, student, labels=None, mask=None):
        teachers, students = as_list(teacher), as_list(student)
        if len(teachers) != len(students):
            raise ValueError(
                f"{type(self).__name__} needs as many maps of the student as of the teacher. "
                f"Received: {len(teachers)} of the teacher and {len(students)} of the student"
            )
        total = 0.0
        for layer, pair in enumerate(zip(teachers, students, strict=True), start=1):
            teacher, student = self.matched(*pair)
            penalties = ops.sum(self.penalty(teacher, student), axis=-1)
            penalties = reduced(penalties, filled(mask, penalties), "sum")
            total = total + 2.0 ** (layer - len(teachers)) * penalties
        return total

    def penalty(self, teacher, student):
        """Returns the penalty of each neuron, (batch, height, width, channels)."""
        raise NotImplementedError


@register("loss", "ab")
class AB(PreactivationLoss):
    """Activation boundaries: the student's neurons respond where the teacher's do.

    3/1000 Σ max(0, m - b f_s)² over all neurons, with b = 1 where the teacher's neuron responds
    (f_t > 0) and b = -1 where it does not

    How strongly the teacher responds does not matter. The taps are layers before their activation.

    Args:
        margin: m, how far from the boundary the student's neurons are to stay: a number that is
            not negative, or a schedule. Defaults to 1.
        name: Name of the loss. Defaults to `"ab"`.
        reduction: See `Loss`.

    Call arguments:
        y_true: The teacher's maps before activation, (batch, height, width, channels), or a list
            of them in the order of the layers: the last counts fully, each earlier one half of
            the next.
        y_pred: The student's, with as many channels; the larger maps are averaged down to the
            size of the smaller.

    Returns:
        (batch,), float32; 0 where all neurons are on the teacher's side by the margin.

    Raises:
        ValueError: If the margin is out of range, a feature is not a map, or the channels or the
            numbers of layers differ.

    Example:
        >>> import numpy as np
        >>> teacher = np.array([[[[7.0, -7.0]]]])
        >>> student = np.array([[[[0.5, 0.5]]]])
        >>> round(float(AB()(teacher, student)), 4)
        0.0075

    Reference:
        Heo et al., Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden
        Neurons, 2019, with the factor 3/1000 and the weights of the layers of the published code.
        The paper trains this loss alone first, and the task afterwards.
    """

    staged = True
    zero_at_teacher = False
    margin = Knob()

    def __init__(self, *, margin=1.0, name=None, reduction="sum_over_batch_size"):
        super().__init__(name=name, reduction=reduction)
        self.margin = margin

    def penalty(self, teacher, student):
        side = ops.where(teacher > 0, 1.0, -1.0)
        return 3e-3 * ops.square(ops.relu(self.margin - side * student))


@register("loss", "ofd")
class OFD(PreactivationLoss):
    """Overhaul of feature distillation: the teacher's response, or anything below a negative one.

    Σ d(f_t, f_s) over all neurons, with d = 0 where f_s ≤ f_t ≤ 0, and d = (f_s - f_t)² elsewhere

    The method's teacher is cut off at a negative margin for each channel, which the adapter
    `"margin_connector"` does. The taps are layers before their activation.

    Args:
        name: Name of the loss. Defaults to `"ofd"`.
        reduction: See `Loss`.

    Call arguments:
        y_true: The teacher's maps before activation, (batch, height, width, channels), or a list
            of them in the order of the layers: the last counts fully, each earlier one half of
            the next.
        y_pred: The student's, with as many channels; the larger maps are averaged down to the
            size of the smaller.

    Returns:
        (batch,), float32; 0 where positive responses are equal and none of the student's exceeds
        a negative one of the teacher.

    Raises:
        ValueError: If a feature is not a map, or the channels or the numbers of layers differ.

    Example:
        >>> import numpy as np
        >>> teacher = np.array([[[[2.0, -0.5]]]])
        >>> float(OFD()(teacher, np.array([[[[1.0, -9.0]]]])))
        1.0
        >>> float(OFD()(teacher, np.array([[[[1.0, 1.5]]]])))
        5.0

    Reference:
        Heo et al., A Comprehensive Overhaul of Feature Distillation, 2019, with the weights of
        the layers and of the term of the published code. There the teacher's batch normalization
        uses the statistics of the batch; here the teacher runs in inference mode, as always.
    """

    default_weight = 0.001
    default_adapter = "margin_connector"

    def penalty(self, teacher, student):
        free = ops.logical_and(student <= teacher, teacher <= 0)
        return ops.where(free, 0.0, ops.square(student - teacher))
