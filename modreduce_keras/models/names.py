"""Names of new layers: different from all others of their model."""

import itertools
from collections.abc import Collection, Iterable
from typing import Any

import keras

from modreduce_keras.keras_internals import calls_of, history_of


def free_name(wanted: str, taken: Collection[str]) -> str:
    """Returns a name that is not taken: the wanted one, or the same with a number."""
    numbered = (f"{wanted}_{number}" for number in itertools.count(1))
    return next(name for name in itertools.chain([wanted], numbered) if name not in taken)


class NewNames:
    """Gives new operations of a model names that no other one in it has.

    What stands in the place of an operation keeps its name. Keras only compares names when it
    makes the model, so they can still change once an operation has been called.

    Args:
        kept: Names of the operations that are replaced.
    """

    def __init__(self, kept: Iterable[str]) -> None:
        self._taken = set(kept)
        self._seen: dict[int, keras.Operation] = {}

    def name_apart(self, outputs: Any, given: Any, name: str | None = None) -> None:
        """Names what has been called to replace one operation.

        Args:
            outputs: Symbolic tensors that it has returned.
            given: What it was given, nested in any way.
            name: The name of the operation that it replaces, `None` where it is an addition.
        """
        ends = {id(tensor) for tensor in keras.tree.flatten(given)}
        every = keras.tree.flatten(outputs)
        tensors = [one for one in every if isinstance(one, keras.KerasTensor)]
        while tensors:
            tensor = tensors.pop()
            if id(tensor) in ends:
                continue
            ends.add(id(tensor))
            operation, call, _ = history_of(tensor)
            tensors += calls_of(operation)[call].inputs
            if id(operation) not in self._seen:
                self._seen[id(operation)] = operation
                if operation.name != name:
                    operation.name = free_name(operation.name, self._taken)
                    self._taken.add(operation.name)
