"""Where training begins after a restart: the epoch, and the step in it."""

import weakref
from collections.abc import Callable
from typing import Any, Self

import keras

from modreduce_keras.keras_internals import RunningFit, begin_at, begins_at, running_fit


class BeginAt(int):
    """The epoch that one `fit` is to begin with; once it has read it, it is forgotten."""

    model: Callable[[], keras.Model | None]
    batches: Callable[[], Any]

    def __new__(cls, epoch: int, model: keras.Model, fit: RunningFit | None) -> Self:
        """Makes the number."""
        number = super().__new__(cls, epoch)
        number.model = weakref.ref(model)
        number.batches = (lambda: None) if fit is None else weakref.ref(fit.batches)
        return number

    def __bool__(self) -> bool:
        # `fit` tests it for truth as it reads it; so would later ones, of the same model.
        model, fit = self.model(), running_fit()
        if model is not None and begins_at(model) is self:
            begin_at(model, None)
        its_own = fit is None or fit.batches is self.batches()
        return its_own and int(self) != 0


class EpochStart:
    """Takes the place of a model's training step until an epoch's first new step.

    Steps that were trained before a restart are drawn from the data and not trained.

    Args:
        resume: The callback.
        train: The training step.
        skip: How many steps to skip.
    """

    def __init__(self, resume: Any, train: Any, skip: int) -> None:
        self.resume, self.train, self.skip = resume, train, skip
        self._skips = skip > 0
        self._logs = None

    def __call__(self, iterator: Any) -> Any:
        model, fit = self.resume.model, running_fit()
        if fit is None or not any(one is self.resume for one in fit.callbacks):
            remove(model)  # its own fit was broken off
            return self.train(iterator)
        if self._logs is None:
            self._require_new(iterator)
        if self.skip > 0:
            return self._skipped(iterator, model.steps_per_execution)
        model.train_function = self.train
        if self._skips:
            # Callbacks that see each batch may have counted the skipped ones.
            self.resume.restore_within_epoch()
        self.resume.forget_arrays()
        return self.train(iterator)

    def _skipped(self, iterator: Any, steps: int) -> Any:
        self.skip -= steps
        if self._logs is None:
            # A real step makes the metrics' variables; then everything is restored.
            self.train(iterator)
            self.resume.restore_within_epoch()
            self._logs = self.resume.model.get_metrics_result()
            return self._logs
        for _ in range(steps):
            next(iterator, None)
        return self._logs

    def _require_new(self, iterator: Any) -> None:
        if self.resume.iterator() is iterator:
            raise ValueError(
                "Resume needs data that start again in each epoch, so that a restart finds its "
                "place. With steps_per_epoch=n they go on where the last epoch ended: leave it "
                "out, and give dataset.take(n) for shorter epochs, without repeat()."
            )
        self.resume.iterator = weakref.ref(iterator)


def remove(model: keras.Model) -> None:
    """Gives a model back its training step, if an `EpochStart` has its place."""
    if isinstance(model.train_function, EpochStart):
        model.train_function = model.train_function.train
