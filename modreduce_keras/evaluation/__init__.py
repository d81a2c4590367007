"""Evaluation: costs of a network, early exits, and what lies between a teacher and a student."""

from modreduce_keras.evaluation.capacity import CapacityGap, StudentGap, capacity_gap
from modreduce_keras.evaluation.costs import multiply_adds
from modreduce_keras.evaluation.early_exits import EarlyExitRow, early_exit_curve
from modreduce_keras.evaluation.improvement import average_relative_improvement

__all__ = [
    "CapacityGap",
    "EarlyExitRow",
    "StudentGap",
    "average_relative_improvement",
    "capacity_gap",
    "early_exit_curve",
    "multiply_adds",
]


def __dir__() -> list[str]:
    return __all__
