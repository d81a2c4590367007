"""Feature losses of methods that look at features through a classifier."""

from keras import ops

from modreduce_keras.arguments import require_integer
from modreduce_keras.knobs import Knob
from modreduce_keras.losses.base import Loss
from modreduce_keras.losses.statistics import MapLoss
from modreduce_keras.ops import adaptive_average_pool, per_sample_mean, unit
from modreduce_keras.registry import register


@register("loss", "simkd")
class SimKD(MapLoss):
    """SimKD: the student's projected last feature maps against the teacher's.

    mean (f_s - f_t)²

    The method deploys the student with a projector and the teacher's own classifier, so that
    matching this feature is all there is to learn. `models.reuse_classifier(student, teacher)`
    builds that network; its tap `"projection"` is f_s:

        mr.Distiller(
            mr.models.reuse_classifier(student, teacher),
            teacher,
            [mr.Feature("simkd", student="projection", teacher="stage3")],
            supervised_weight=0,
        )

    Args:
        name: Name of the loss. Defaults to `"simkd"`.
        reduction: See `Loss`.

    Call arguments:
        y_true: The teacher's maps, (batch, height, width, channels).
        y_pred: The student's projected maps, with as many channels; where the sizes differ, the
            larger maps are averaged down to the smaller.

    Returns:
        (batch,), float32; 0 where both are equal.

    Raises:
        ValueError: If a feature is not a map, or the channels differ.

    Example:
        >>> import numpy as np
        >>> float(SimKD()(np.zeros((1, 2, 2, 3)), np.full((1, 2, 2, 3), 2.0)))
        4.0

    Reference:
        Chen et al., Knowledge Distillation with the Reused Teacher Classifier, 2022.
    """

    example_shapes = ((4, 4, 6), (2, 2, 6))
    equal_channels = True
    over_positions = "mean"

    def per_position(self, teacher, student, labels=None, mask=None):
        teacher, student = self.matched(teacher, student)
        return ops.mean(ops.square(student - teacher), axis=-1)


@register("loss", "srrl")
class SRRL(Loss):
    """Softmax regression representation learning: the feature, and what the teacher sees in it.

    α mean (f_s - f_t)² + β mean (W_t f_s + b_t - z_t)²

    The adapter, `"softmax_regressor"`, brings the student's feature to the teacher's width and
    puts it through the teacher's own frozen classifier (W_t, b_t).

    Args:
        feature_weight: α, of the features. Number or schedule. Defaults to 1.
        logits_weight: β, of the logits. Number or schedule. Defaults to 1.
        name: Name of the loss. Defaults to `"srrl"`.
        reduction: See `Loss`.

    Call arguments:
        y_true: The teacher's feature and logits, [(batch, features), (batch, classes)].
        y_pred: The student's projected feature and the teacher's classifier's logits for it, of
            the same shapes.

    Returns:
        (batch,), float32; 0 where both pairs are equal.

    Raises:
        ValueError: If a weight is out of range, the sides are no pairs, or the shapes differ.

    Example:
        >>> import numpy as np
        >>> teacher = [np.zeros((1, 4)), np.zeros((1, 2))]
        >>> student = [np.ones((1, 4)), np.full((1, 2), 3.0)]
        >>> float(SRRL()(teacher, student))
        10.0

    Reference:
        Yang et al., Knowledge Distillation via Softmax Regression Representation Learning, 2021,
        with equal weights and the squared difference of the logits, as in the published code.
    """

    default_adapter = "softmax_regressor"
    example_shapes = ([(6,), (5,)], [(6,), (5,)])
    feature_weight = Knob()
    logits_weight = Knob()

    def __init__(
        self,
        *,
        feature_weight=1.0,
        logits_weight=1.0,
        name=None,
        reduction="sum_over_batch_size",
    ):
        super().__init__(name=name, reduction=reduction)
        self.feature_weight = feature_weight
        self.logits_weight = logits_weight

    def per_sample(self, teacher, student, labels=None):
        for side in (teacher, student):
            if not isinstance(side, (list, tuple)) or len(side) != 2:
                raise ValueError(
                    "SRRL needs a feature and logits of each side, as adapter="
                    f"'softmax_regressor' makes them. Received: {side}"
                )
        parts = []
        for one, other in zip(teacher, student, strict=True):
            self.require(one.shape[1:] == other.shape[1:], "equal shapes in each pair", one, other)
            parts.append(per_sample_mean(ops.square(other - one)))
        return self.feature_weight * parts[0] + self.logits_weight * parts[1]


@register("loss", "catkd")
class CATKD(Loss):
    """Class attention transfer: where in the image each class finds its evidence.

    mean (â_s - â_t)² over classes and cells, â = a / ‖a‖ for each class, where a are the class
    activation maps, averaged down to a few cells

    The adapter, `"class_attention"`, makes the class activation maps from each network's last
    feature map and its own classifier.

    Args:
        resolution: Cells along each side of the averaged maps. Defaults to 2.
        name: Name of the loss. Defaults to `"catkd"`.
        reduction: See `Loss`.

    Call arguments:
        y_true: The teacher's class activation maps, (batch, height, width, classes).
        y_pred: The student's; height and width may differ.

    Returns:
        (batch,), float32; 0 where the averaged maps of each class are proportional.

    Raises:
        ValueError: If `resolution` is not a positive integer, a side is no map, or the numbers
            of classes differ.

    Example:
        >>> import numpy as np
        >>> maps = np.array([[[[1.0], [0.0]], [[0.0], [0.0]]]])
        >>> float(CATKD()(maps, maps[:, :, ::-1]))
        0.5

    Reference:
        Guo et al., Class Attention Transfer Based Knowledge Distillation, 2023, with the mean,
        the norm over each class's cells and the weight of 400 of the published CIFAR code.
    """

    default_weight = 400.0
    default_adapter = "class_attention"
    one_feature = True
    example_shapes = ((4, 4, 5), (5, 3, 5))

    def __init__(self, *, resolution: int = 2, name=None, reduction="sum_over_batch_size"):
        super().__init__(name=name, reduction=reduction)
        self.resolution = require_integer("resolution", resolution)

    def per_sample(self, teacher, student, labels=None):
        self.require(
            len(teacher.shape) == len(student.shape) == 4
            and teacher.shape[-1] == student.shape[-1],
            "class activation maps (batch, height, width, classes) of equally many classes",
            teacher,
            student,
        )
        attention = [
            unit(adaptive_average_pool(maps, self.resolution, self.resolution), axis=(1, 2))
            for maps in (teacher, student)
        ]
        return per_sample_mean(ops.square(attention[1] - attention[0]))

    def get_config(self):
        """Returns the constructor arguments."""
        return {**super().get_config(), "resolution": self.resolution}
