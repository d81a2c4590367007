"""KerasTuner: the trials that a search runs again."""

from typing import Any


def retry_queue(oracle: Any) -> list[str]:
    """Returns the list of the trials that a search runs again, which may be changed.

    Relies on `Oracle._retry_queue`, as seen in KerasTuner 1.4.8.
    """
    return oracle._retry_queue
