"""Tuning: searches over distillers with KerasTuner, their search spaces and results.

It is imported when `mr.tuning` is first used, and needs `pip install modreduce-keras[tune]`.
"""

from modreduce_keras.tuning import extra  # noqa: F401 - first, to say what is missing
from modreduce_keras.tuning.find import find_student
from modreduce_keras.tuning.found import FoundStudents
from modreduce_keras.tuning.hypermodel import DistillerHyperModel
from modreduce_keras.tuning.reports import SearchError
from modreduce_keras.tuning.results import Results
from modreduce_keras.tuning.search import Search
from modreduce_keras.tuning.space import Space

__all__ = [
    "DistillerHyperModel",
    "FoundStudents",
    "Results",
    "Search",
    "SearchError",
    "Space",
    "find_student",
]


def __dir__() -> list[str]:
    return __all__
