"""Turns: training steps that update one network or another, by the number of the step."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from modreduce_keras.keras_internals import trained_by


class InTurns:
    """A training function that runs the compiled step whose turn it is.

    Each step is compiled on its own: a branch inside of one could not update weights on several
    replicas. Whose turn it is follows from the model's step, so a training goes on in the middle of
    a cycle.

    Args:
        model: The model, whose attribute `turn` a step is traced by.
        cycle: The turns, one for each step of a cycle.
        steps: The training function of each turn.
    """

    def __init__(self, model: Any, cycle: Sequence[Any], steps: dict[Any, Callable[[Any], Any]]):
        self._model, self._cycle, self._steps = model, list(cycle), dict(steps)
        self._all_computed = False

    def reset(self) -> None:
        """Begins anew, as the metrics do: no term has been computed."""
        self._all_computed = False

    def __call__(self, iterator: Any) -> Any:
        """Runs one step, and returns the logs of the terms that have been computed."""
        model = self._model
        step = ops.convert_to_numpy(ops.convert_to_tensor(model.step))
        # It may be traced now.
        model.turn = self._cycle[int(step) % len(self._cycle)]
        logs = self._steps[model.turn](iterator)
        if self._all_computed:
            return logs
        # Reading the counts waits for the step, so it is done in the first cycle alone.
        left_out = model.objective().not_computed()
        self._all_computed = not left_out
        return {name: value for name, value in logs.items() if name not in left_out}


class Updater:
    """Updates some of the variables of several optimizers, which Keras' own dispatch refuses.

    Args:
        optimizer: A built `keras.optimizers.MultiOptimizer`.
    """

    def __init__(self, optimizer: Any):
        self._optimizer = optimizer

    def apply_gradients(self, gradients: Sequence[tuple[Any, keras.Variable]]) -> None:
        """Lets each optimizer update those of its variables that there are gradients for."""
        for inner in self._optimizer.optimizers:
            own = {id(variable) for variable in trained_by(inner)}
            pairs = [pair for pair in gradients if id(pair[1]) in own]
            if pairs and all(gradient is None for gradient, _ in pairs):
                raise ValueError(
                    "No gradient reaches the weights of one network. A generator learns through "
                    "the teacher (and for ZSKT the student), which must be differentiable: a "
                    "model of Keras layers, not a file that another runtime runs. Received: no "
                    f"gradient for {[variable.path for _, variable in pairs[:3]]}"
                )
            if pairs:
                inner.apply_gradients(pairs)
        self._optimizer.iterations.assign_add(1)
