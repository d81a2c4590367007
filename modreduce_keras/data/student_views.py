"""Views of the students: which of a batch's inputs stored outputs of a teacher are for."""

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

View = Callable[[Any], Any]
"""Returns what a teacher sees of the inputs of a batch."""


def whole(inputs: Any) -> Any:
    """Returns the inputs as they are: all students see the same."""
    return inputs


def views_of(inputs: Any, keys: Sequence[str] | None) -> dict[str | None, View]:
    """Returns the views whose outputs are attached, by key of the inputs.

    Args:
        inputs: Specs of a batch's inputs.
        keys: Keys of the inputs; `None` for the inputs as they are.

    Raises:
        ValueError: If these are not different keys of the inputs.
    """
    if keys is None:
        return {None: whole}
    there = list(inputs) if isinstance(inputs, Mapping) else []
    is_list = not isinstance(keys, str) and isinstance(keys, Sequence)
    if not is_list or not keys or not set(keys) <= set(there) or len(set(keys)) < len(keys):
        raise ValueError(
            "student_inputs must be a list of different keys of the inputs, "
            f"{there or 'which are a dict such as mr.data.cifar100(views=3) gives'}. "
            f"Received: student_inputs={keys!r}"
        )
    return {key: operator.itemgetter(key) for key in keys}


def key_of_view(fingerprint: str, view: str | None) -> str:
    """Returns the key of a teacher's outputs in a batch, for one of the views of it."""
    return fingerprint if view is None else f"{fingerprint}/{view}"
