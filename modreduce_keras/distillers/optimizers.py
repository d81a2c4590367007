"""Several optimizers in one distiller: one for each group of variables."""

import collections
from collections.abc import Iterable, Mapping
from typing import Any

import keras

from modreduce_keras import keras_internals

TRUNK = "trunk"
"""The group of what several students share."""


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
    by_group: dict[str, list[keras.Variable]] = {name: [] for name in students}
    shared = {}
    for name, student in students.items():
        for variable in student.trainable_variables:
            if owners[id(variable)] > 1:
                shared[id(variable)] = variable
            else:
                by_group[name].append(variable)
    for name, one in knowledge:
        by_group[name] += one.trainable_variables
    return {**by_group, TRUNK: list(shared.values())} if shared else by_group


def resolve(optimizer: Any, groups: Mapping[str, list[keras.Variable]]) -> Any:
    """Returns the one Keras optimizer that trains every group.

    Args:
        optimizer: What Keras takes, for all groups; or a dict from group to that.
        groups: Variables by group: one group a student, and `"aggregator"`.

    Returns:
        The given optimizer, or a `keras.optimizers.MultiOptimizer` for a dict.

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


def states(optimizer: Any, network_of: Mapping[int, int]) -> list[tuple[keras.Variable, list[int]]]:
    """Returns the variables of a built optimizer, each with the networks that it serves.

    Args:
        optimizer: The optimizer.
        network_of: The network of a trained variable, by the variable's id.

    Raises:
        ValueError: If several networks share an optimizer that does not tell which of its
            variables belong to which of theirs.
    """
    found = []
    for inner in getattr(optimizer, "optimizers", ()):
        found += states(inner, network_of)
    trained = keras_internals.trained_by(optimizer)
    everybody = sorted({network_of[id(variable)] for variable in trained})
    served = {
        id(slot): [network_of[id(variable)]] for slot, variable in keras_internals.slots(optimizer)
    }
    unknown = []
    for variable in keras_internals.own_variables(optimizer):
        if id(variable) not in served and len(variable.shape) and len(everybody) > 1:
            unknown.append(variable.path)
        found.append((variable, served.get(id(variable), everybody)))
    if unknown:
        raise ValueError(
            f"{type(optimizer).__name__} does not tell which of its variables belong to which "
            "network, so no network's step could be skipped alone. Give every group an optimizer "
            f"of its own: compile(optimizer={{'NAME': ..., ...}}). Received: {unknown[:3]}"
        )
    return found
