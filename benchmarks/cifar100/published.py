"""What was published on CIFAR-100: top-1 accuracies, in percent, of the paper of ModReduce.

One seed each; the epoch was chosen by the test set.
"""

from typing import NamedTuple


class Published(NamedTuple):
    """Accuracies of a pair: the teacher, the student on the labels, and distilled students."""

    teacher: float
    plain: float
    kd: float
    semckd: float
    crd: float
    modreduce: float


PUBLISHED = {
    "wrn_40_2:wrn_16_2": Published(75.61, 73.26, 75.39, 75.10, 76.12, 75.44),
    "wrn_40_2:wrn_40_1": Published(75.61, 71.98, 74.21, 73.11, 74.91, 74.84),
    "resnet56:resnet20": Published(72.34, 69.06, 71.70, 70.91, 71.72, 71.99),
    "resnet110:resnet20": Published(74.31, 69.06, 70.99, 70.95, 71.35, 72.01),
    "resnet110:resnet32": Published(74.31, 71.14, 73.66, 73.47, 73.65, 74.34),
    "vgg13:mobilenet_v2": Published(74.64, 64.60, 68.72, 68.66, 69.66, 69.23),
    "resnet32x4:shufflenet_v1": Published(79.42, 70.50, 74.59, 77.21, 75.77, 76.96),
    "wrn_40_2:shufflenet_v1": Published(75.61, 70.50, 75.45, 76.93, 76.59, 77.14),
    "resnet32x4:resnet8x4": Published(79.42, 73.09, 74.32, 75.55, 74.97, 75.78),
    "vgg13:vgg8": Published(74.64, 70.46, 73.62, 74.08, 74.39, 74.64),
    "resnet32x4:shufflenet_v2": Published(79.42, 72.60, 75.73, 78.07, 76.57, 78.23),
    "resnet32x4:vgg8": Published(79.42, 70.46, 72.48, 75.02, 73.68, 75.21),
    "resnet32x4:vgg13": Published(79.42, 74.82, 77.21, 79.14, 77.71, 79.51),
    "vgg13:shufflenet_v2": Published(74.64, 72.60, 75.89, 76.24, 76.26, 76.76),
    "wrn_40_2:mobilenet_v2": Published(75.61, 65.43, 69.02, 69.77, 70.13, 69.37),
}
"""By `TEACHER:STUDENT`."""
