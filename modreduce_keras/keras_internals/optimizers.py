"""Optimizers: their variables, and when they update."""

import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

import keras


def own_variables(optimizer: Any) -> list[keras.Variable]:
    """Returns the variables of an optimizer without those of optimizers inside it.

    Relies on `Optimizer._variables`; `variables` has those inside too.
    """
    return list(optimizer._variables)


def slots(optimizer: Any) -> Iterator[tuple[keras.Variable, keras.Variable]]:
    """Yields (slot, variable that it belongs to) of a built optimizer.

    Relies on optimizers keeping their slots in lists in the order of `_trainable_variables`.
    """
    trained = optimizer._trainable_variables
    for name, several in vars(optimizer).items():
        is_list = isinstance(several, (list, tuple)) and len(several) == len(trained)
        if is_list and name not in _NO_SLOTS:
            yield from zip(several, trained, strict=True)


_NO_SLOTS = ("_variables", "_trainable_variables", "_inner_optimizers")


def trained_by(optimizer: Any) -> list[keras.Variable]:
    """Returns the variables that a built optimizer trains.

    Relies on `Optimizer._trainable_variables`.
    """
    return list(optimizer._trainable_variables)


def completes_update() -> Any:
    """Returns whether the optimizer that calls updates weights now; to be asked in a constraint.

    One that accumulates gradients calls constraints on each of its batches. Relies on
    `BaseOptimizer.apply` calling them before it counts in `_iterations`, and on
    `gradient_accumulation_steps`.

    Returns:
        A bool, or a scalar in the graph; `True` where no optimizer of Keras calls.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        optimizer = frame.f_locals.get("self")
        if frame.f_code.co_name == "apply" and isinstance(optimizer, keras.optimizers.Optimizer):
            steps = optimizer.gradient_accumulation_steps
            return True if not steps else (optimizer._iterations + 1) % steps == 0
        frame = frame.f_back
    return True
