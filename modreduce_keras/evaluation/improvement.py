"""Improvement: what a method gains, relative to another one."""

import math
from collections.abc import Sequence

import numpy as np

from modreduce_keras.arguments import is_number


def average_relative_improvement(
    ours: Sequence[float], others: Sequence[float], students: Sequence[float]
) -> float:
    """Returns how much more a method gains than another one, relative to that one, on average.

    mean over the pairs of networks of (ours - other) / (other - student)

    A pair on which the other method gains next to nothing decides the mean: look at the pairs too.

    Args:
        ours: Accuracies of a method, one for each pair of a teacher and a student.
        others: Those of the other method, on the same pairs and in the same unit.
        students: Those of the students that learn from the labels only.

    Returns:
        The improvement: 0.5 for half as much again.

    Raises:
        ValueError: If there is no pair, the numbers of accuracies differ, or one is no finite
            number; if the other method gains nothing at all on a pair.

    Example:
        >>> average_relative_improvement([72.0, 74.0], [71.0, 74.5], [69.0, 70.0])
        0.19444444444444445

    Reference:
        Tian, Krishnan and Isola, Contrastive Representation Distillation, 2020.
    """
    given = {"ours": ours, "others": others, "students": students}
    if len({len(values) for values in given.values()}) > 1 or not len(ours):
        lengths = {name: len(values) for name, values in given.items()}
        raise ValueError(
            "ours, others and students must be as many accuracies each, at least one. Received: "
            f"lengths {lengths}"
        )
    for name, values in given.items():
        if not all(is_number(value) and math.isfinite(value) for value in values):
            raise ValueError(f"{name} must be finite numbers. Received: {name}={values}")
    gained = np.subtract(others, students)
    if not gained.all():
        raise ValueError(
            "The improvement over a method that gains nothing on a pair is not defined. Received: "
            f"others={others}, students={students}"
        )
    return float(np.mean(np.subtract(ours, others) / gained))
