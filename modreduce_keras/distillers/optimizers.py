"""Several optimizers in one distiller: one for each group of variables, or layers of a student."""

import collections
import fnmatch
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import keras

from modreduce_keras import keras_internals
from modreduce_keras.calls import shown

TRUNK = "trunk"
"""The group of what several students share."""


def variable_groups(self: Any) -> dict[str, list[keras.Variable]]:
    """Returns the trainable variables by group: a student and its adapters are one group.

    Variables that several students share are in the group `"trunk"`, which is there if there are
    any. Adapters of staged knowledge are in none.
    """
    variables = [v for student in self.students.values() for v in student.trainable_variables]
    owners = collections.Counter(map(id, variables))
    groups: dict[str, list[keras.Variable]] = {}
    for name, student in self.students.items():
        own = [v for v in student.trainable_variables if owners[id(v)] == 1]
        adapters = [v for k in self.knowledge[name] if not k.staged for v in k.trainable_variables]
        groups[name] = own + adapters
    shared = {id(v): v for v in variables if owners[id(v)] > 1}
    return {**groups, TRUNK: list(shared.values())} if shared else groups


def without(variables: Iterable[keras.Variable], constant: Any) -> list[keras.Variable]:
    """Returns variables without those that layers train, of a structure of whatever."""
    layers = [one for one in keras.tree.flatten(constant) if isinstance(one, keras.layers.Layer)]
    left_out = {id(variable) for layer in layers for variable in layer.trainable_variables}
    return [variable for variable in variables if id(variable) not in left_out]


def resolve(
    optimizer: Any,
    groups: Mapping[str, list[keras.Variable]],
    students: Mapping[str, keras.Model],
) -> Any:
    """Returns the one Keras optimizer that trains every group.

    Args:
        optimizer: What Keras takes, for all groups; or a dict from group, or layers of a student,
            to that.
        groups: Variables by group: one group a student, and `"aggregator"`.
        students: The students, by name.

    Returns:
        The given optimizer, or a `keras.optimizers.MultiOptimizer` for a dict.

    Raises:
        ValueError: If a key of the dict has no variables or a variable no key, or two keys share
            one optimizer object or claim the same layer.
    """
    if not isinstance(optimizer, Mapping):
        return optimizer
    strange = [key for key in optimizer if not isinstance(key, str)]
    if strange:
        raise TypeError(
            "The keys of the dict optimizer= are names of groups or layers, such as "
            f"{{'logits': keras.optimizers.Adam()}}. Received: {[shown(key) for key in strange]}"
        )
    groups = _claimed(list(optimizer), groups, students)
    by_group = {name: _optimizer(name, given) for name, given in optimizer.items()}
    if len({id(resolved) for resolved in by_group.values()}) < len(by_group):
        raise ValueError(
            "Each group needs an optimizer object of its own. Received: the same object for "
            f"several of {sorted(by_group)}"
        )
    return keras.optimizers.MultiOptimizer(GroupSelector(by_group, groups))


def copy_of(optimizer: Any) -> Any:
    """Returns a fresh optimizer like a given one; a name or a config is its own copy."""
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        return optimizer
    return keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))


def _optimizer(key: str, given: Any) -> Any:
    try:
        return keras.optimizers.get(given)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"optimizer[{key!r}] must be an optimizer of Keras, its name or its config. "
            f"Received: {shown(given)}"
        ) from error


def _claimed(
    keys: Collection[str],
    groups: Mapping[str, list[keras.Variable]],
    students: Mapping[str, keras.Model],
) -> dict[str, list[keras.Variable]]:
    """Returns the trainable variables by key: the innermost layer that has a key decides."""
    # By variable: how deep its layer lies, and the keys of it.
    claims: dict[int, tuple[int, set[str]]] = {
        id(variable): (0, {name} & set(keys))
        for name, variables in groups.items()
        for variable in variables
    }
    names = set()
    for student in students.values():
        for depth, path, layer in _layers(student):
            matching = {key for key in keys if key not in groups and _names(key, path)}
            names |= matching
            matching = {key for key in matching if not _is_pattern(key)} or matching
            for variable in layer.trainable_variables if matching else ():
                found, others = claims.get(id(variable), (0, set()))
                others = others if found == depth else set()
                claims[id(variable)] = depth, others | matching
    by_key: dict[str, list[keras.Variable]] = {key: [] for key in keys}
    unclaimed: list[keras.Variable] = []
    for variable in [variable for variables in groups.values() for variable in variables]:
        claiming = sorted(claims[id(variable)][1])
        if len(claiming) > 1:
            raise ValueError(
                "Each layer needs one key of the dict optimizer=. Received: the keys "
                f"{claiming}, which all claim {variable.path!r}"
            )
        (by_key[claiming[0]] if claiming else unclaimed).append(variable)
    idle = {key for key, variables in by_key.items() if not variables}
    if idle or unclaimed:
        raise ValueError(_unfit(keys, groups, idle, names | set(groups), unclaimed))
    return by_key


def _unfit(
    keys: Collection[str],
    groups: Mapping[str, list[keras.Variable]],
    idle: set[str],
    names: set[str],
    unclaimed: list[keras.Variable],
) -> str:
    """Returns the message for keys that claim nothing, and weights that no key claims."""
    problems = {
        f"{sorted(idle - names)} name neither a group nor a layer": idle - names,
        f"nothing is left for {sorted(idle & names)}, whose weights do not train or are "
        "claimed by other keys: leave these keys out": idle & names,
        f"no key is for {len(unclaimed)} weights, such as "
        f"{[variable.path for variable in unclaimed[:3]]}": unclaimed,
    }
    return (
        "optimizer must be one optimizer for all, or a dict with one for each of "
        f"{sorted(name for name, variables in groups.items() if variables)}; layers of a "
        "student may have their own ('logits', 'backbone/block_1', 'block_*'), and its key is "
        f"then for the rest. Received: a dict with the keys {sorted(keys)}, where "
        + ", and ".join(problem for problem, holds in problems.items() if holds)
    )


def _layers(
    layer: keras.layers.Layer, depth: int = 1, within: str = ""
) -> Iterator[tuple[int, str, keras.layers.Layer]]:
    """Returns the layers inside a layer, each with its depth and its path."""
    for inner in keras_internals.flatten_layers(layer, include_self=False, recursive=False):
        path = f"{within}{inner.name}"
        yield depth, path, inner
        yield from _layers(inner, depth + 1, f"{path}/")


def _names(key: str, path: str) -> bool:
    """Returns whether a key is a layer's path, or its name, or a pattern of one of these."""
    own = path if "/" in key else path.rpartition("/")[2]
    return fnmatch.fnmatchcase(own, key)


def _is_pattern(key: str) -> bool:
    return any(sign in key for sign in "*?[")


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
