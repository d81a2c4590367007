"""Several optimizers in one distiller: one for each group of variables."""

import collections
from collections.abc import Iterable, Mapping
from typing import Any

import keras


def groups(
    students: Mapping[str, keras.Model], knowledge: Iterable[tuple[str, Any]]
) -> dict[str, list[keras.Variable]]:
    """Returns the trainable variables of students and their knowledge, by student.

    Variables of several students are in the group `"trunk"`, which is there if there are any.

    Args:
        students: The students, by name.
        knowledge: (student, knowledge) for each.
    """
    owners = collections.Counter(id(v) for s in students.values() for v in s.trainable_variables)
    by_group = {name: [] for name in students}
    shared = {}
    for name, student in students.items():
        for variable in student.trainable_variables:
            if owners[id(variable)] > 1:
                shared[id(variable)] = variable
            else:
                by_group[name].append(variable)
    for name, one in knowledge:
        by_group[name] += one.trainable_variables
    return {**by_group, "trunk": list(shared.values())} if shared else by_group


def resolve(optimizer: Any, groups: Mapping[str, list[keras.Variable]]) -> Any:
    """Returns the one Keras optimizer that trains every group.

    Args:
        optimizer: What Keras takes, for all groups; or a dict from group to that.
        groups: Variables by group: one group a student, and `"aggregator"`.

    Returns:
        The optimizer as it came, or a `keras.optimizers.MultiOptimizer` for a dict.

    Raises:
        ValueError: If the dict's keys are not the groups that have variables, or two groups
            share one optimizer object.
    """
    if not isinstance(optimizer, Mapping):
        return optimizer
    trained = {name for name, variables in groups.items() if variables}
    if set(optimizer) != trained:
        raise ValueError(
            "optimizer must be one optimizer for all, or a dict with one for each of "
            f"{sorted(trained)}. Received: a dict with the keys {sorted(optimizer)}"
        )
    by_group = {name: keras.optimizers.get(given) for name, given in optimizer.items()}
    if len({id(resolved) for resolved in by_group.values()}) < len(by_group):
        raise ValueError(
            "Each group needs an optimizer object of its own. Received: the same object for "
            f"several of {sorted(by_group)}"
        )
    return keras.optimizers.MultiOptimizer(GroupSelector(by_group, groups))


class GroupSelector:
    """Maps a variable to the optimizer of its group, by identity.

    Paths would not do: functional models leave their own name out, so three students all have a
    `conv/kernel`.
    """

    def __init__(self, optimizers: Mapping[str, Any], groups: Mapping[str, list[keras.Variable]]):
        self._optimizer_of = {
            id(variable): optimizers[name]
            for name, variables in groups.items()
            for variable in variables
        }

    def __call__(self, variable: keras.Variable) -> Any:
        """Returns the optimizer of a variable."""
        return self._optimizer_of[id(variable)]
