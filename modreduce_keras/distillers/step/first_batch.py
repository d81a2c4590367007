"""FirstBatch: shows a model the first batch of a training, before the step is traced for it."""

from typing import Any

from modreduce_keras.distillers.backend import tensorflow as backend


class FirstBatch:
    """A training function that lets its model see a batch where it waits for one.

    Its `tracing` says whether it waits for one, looks at it, and knows what it has chosen, which is
    in the traced step. The batch is trained on like any other.

    Args:
        model: The model that trains.
        step: Its training function.
    """

    def __init__(self, model: Any, step: Any) -> None:
        self._model, self._step = model, step
        self._traced_for: Any = None

    def __call__(self, iterator: Any) -> Any:
        """Runs the step, after a look at the batch where it is awaited."""
        model, tracing = self._model, self._model.tracing
        if tracing.awaits_batch():
            batch, iterator = backend.first_batch(iterator, model.steps_per_execution)
            if batch is not None:
                tracing.look_at(batch)
        if self._traced_for not in (None, tracing.traced_for()):
            model.train_function = None
            model.make_train_function()
            return model.train_function(iterator)
        self._traced_for = tracing.traced_for()
        return self._step(iterator)
