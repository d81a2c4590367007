"""Reporting: compares students with their teacher on an HTML and a Markdown page.

It is used as `mr.report(...)`, and imported then.
"""

from modreduce_keras.reporting.build import Report, report
from modreduce_keras.reporting.measures import ConfusionChange, Figures, Reliability, Together

__all__ = ["ConfusionChange", "Figures", "Reliability", "Report", "Together", "report"]


def __dir__() -> list[str]:
    return __all__
