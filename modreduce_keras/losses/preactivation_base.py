"""The base of the losses on maps before their activation: penalties over all neurons."""

from typing import ClassVar

from keras import ops

from modreduce_keras.losses.map_base import MapLoss
from modreduce_keras.ops import as_list, filled, reduced
from modreduce_keras.typing import Labels, Mask, Tensor


class PreactivationLoss(MapLoss):
    """Base class of losses that add penalties over all neurons of one layer or of several.

    Teacher and student have as many channels; the larger maps are averaged down to the size of the
    smaller. Of n layers, in the order in which the network computes them, layer i counts
    2^(i - n): the last one fully, the one before it half.
    """

    default_feature: ClassVar[str | None] = None
    default_adapter = "channel_projector"
    equal_channels = True
    one_feature = False
    takes_mask = True

    def per_sample(
        self, teacher: Tensor, student: Tensor, labels: Labels = None, mask: Mask = None
    ) -> Tensor:
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

    def penalty(self, teacher: Tensor, student: Tensor) -> Tensor:
        """Returns the penalty of each neuron, (batch, height, width, channels)."""
        raise NotImplementedError
