"""Guard: records terms and gradients that are not finite, and stops or warns."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from modreduce_keras.calls import stacklevel_of_user

STOP, SKIP = "stop", "skip"


class NonFiniteError(ArithmeticError):
    """A loss or a gradient was not finite while training with `compile(on_nonfinite="stop")`.

    Attributes:
        step: The number of the step, from 0.
        names: The terms, and the gradients, that were not finite.
    """

    def __init__(self, message: str, step: int, names: Sequence[str]):
        super().__init__(message)
        self.step, self.names = step, list(names)


class Guard:
    """Records in the training step what was not finite, and reports it after the step.

    A plain object: what it notes is about one compiled training.

    Args:
        mode: `"stop"` or `"skip"`.
        described: What is looked at, by its name: how messages call it.
    """

    def __init__(self, mode: str, described: dict[str, str]):
        self.mode, self._described = mode, described
        self.names = list(described)
        # How often each was not finite, and in which step first.
        self.record = keras.Variable(
            np.zeros((len(self.names), 2)),
            trainable=False,
            dtype="int64",
            name="nonfinite",
            aggregation="only_first_replica",
        )
        self._warned: set[str] = set()

    def begin(self) -> None:
        """Prepares a training, so that one that was stopped or interrupted can continue."""
        if self.mode == STOP:
            self.record.assign(np.zeros(self.record.shape))

    def halted(self) -> Any:
        """Returns whether training has to stop, a scalar in the graph."""
        return ops.logical_and(ops.any(self.record[:, 0] > 0), self.mode == STOP)

    def note(self, bad: Any, step: Any) -> None:
        """Records what was not finite.

        Args:
            bad: Whether each name was not finite, (names,).
            step: The number of the step.
        """
        count, first = self.record[:, 0], self.record[:, 1]
        first = ops.where(ops.logical_and(bad, ops.equal(count, 0)), step, first)
        self.record.assign(ops.stack([count + ops.cast(bad, "int64"), first], axis=1))

    def counts(self) -> dict[str, int]:
        """Returns in how many steps something was not finite, by name."""
        record = self._values()
        return {n: int(c) for n, c in zip(self.names, record[:, 0], strict=True) if c}

    def _values(self) -> np.ndarray:
        return ops.convert_to_numpy(ops.convert_to_tensor(self.record))

    def watching(self, function: Callable) -> Callable:
        """Returns a training function that reports after each call."""

        def watched(*args: Any, **kwargs: Any) -> Any:
            logs = function(*args, **kwargs)
            self._speak()
            return logs

        return watched

    def _speak(self) -> None:
        record = self._values()
        if not record.any():
            return
        found = {n: int(f) for n, (c, f) in zip(self.names, record, strict=True) if c}
        if found and self.mode == STOP:
            self.begin()
            raise self._stopped(found)
        if not found.keys() <= self._warned:
            self._warn({name: found[name] for name in found if name not in self._warned})

    def _stopped(self, found: dict[str, int]) -> NonFiniteError:
        step = min(found.values())
        names = [name for name, first in found.items() if first == step]
        return NonFiniteError(
            f"Training has stopped at step {step}, because {self._listed(names)} not finite. "
            "Weights and optimizers are those before this step. Look for values in the data "
            "that are not finite, a learning rate or weight that is too high, or a "
            "temperature that is too low; compile(on_nonfinite='skip') leaves out such steps.",
            step,
            names,
        )

    def _warn(self, new: dict[str, int]) -> None:
        self._warned.update(new)
        warnings.warn(
            f"Step {min(new.values())} was skipped, because {self._listed(list(new))} not finite. "
            "Later ones are counted: distiller.skipped_steps, distiller.nonfinite_steps.",
            stacklevel=stacklevel_of_user(),
        )

    def _listed(self, names: list[str]) -> str:
        verb = "is" if len(names) == 1 else "are"
        return f"{', '.join(self._described[name] for name in names)} {verb}"
