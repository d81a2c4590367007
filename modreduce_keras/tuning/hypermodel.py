"""The hypermodel: a function from hyperparameters to a compiled distiller, checked."""

import contextlib
import weakref
from collections.abc import Callable
from typing import Any

import keras
import keras_tuner

from modreduce_keras.distillers import BaseDistiller


class DistillerHyperModel(keras_tuner.HyperModel):
    """Builds and trains distillers from hyperparameters, for a tuner of KerasTuner.

    The function creates students, knowledge and distiller for each trial. Load the teacher once,
    outside of the function: distillers never change their teacher, and its weights are not in the
    checkpoints of the trials.

    Args:
        build: Function of KerasTuner's `hp` that returns a compiled distiller. See `Space` for
            hyperparameters of distillation.
        fit: How to train it, if not by `distiller.fit(...)`: a function of `hp`, the distiller and
            the arguments of the search (`callbacks=` among them, to be passed on) that returns
            what `fit` returns. For knowledge that has to be pretrained. Defaults to `None`.
        name: Name of the hypermodel.

    Raises:
        TypeError: If `build` or `fit` is not a function, or `build` does not return a distiller.
        ValueError: If `build` returns a distiller that is not compiled, or one with a student of
            an earlier trial.

    Example:
        >>> import keras_tuner, modreduce_keras as mr
        >>> teacher = mr.models.get("convnet", num_classes=3, widths=(8, 16))
        >>> def build(hp):
        ...     temperature = mr.tuning.Space(hp).temperature()
        ...     student = mr.models.get("convnet", num_classes=3, widths=(4, 8))
        ...     knowledge = mr.Response(mr.losses.KD(temperature=temperature))
        ...     distiller = mr.Distiller(student=student, teacher=teacher, knowledge=[knowledge])
        ...     distiller.compile("sgd", keras.losses.SparseCategoricalCrossentropy(True))
        ...     return distiller
        >>> distiller = DistillerHyperModel(build).build(keras_tuner.HyperParameters())
        >>> float(distiller.knowledge["student"][0].loss.temperature), distiller.teacher is teacher
        (4.0, True)
    """

    def __init__(
        self,
        build: Callable[[Any], BaseDistiller],
        *,
        fit: Callable[..., Any] | None = None,
        name: str | None = None,
    ) -> None:
        if not callable(build):
            raise TypeError(
                "build must be a function of hp that returns a compiled distiller. "
                f"Received: build={build!r}"
            )
        if fit is not None and not callable(fit):
            raise TypeError(
                "fit must be a function of hp, the distiller and the arguments of the search, or "
                f"None. Received: fit={fit!r}"
            )
        self._make, self._train = build, fit
        self.strategy: Any = None
        self._policy = keras.config.dtype_policy()
        self._students: weakref.WeakSet[keras.Model] = weakref.WeakSet()
        super().__init__(name=name)

    def build(self, hp: Any) -> BaseDistiller:
        """Returns a new distiller for a trial, or says what is wrong with what was made."""
        # Before each trial KerasTuner clears Keras' global state, the dtype policy with it.
        keras.config.set_dtype_policy(self._policy)
        # KerasTuner explores the space outside of the strategy's scope.
        with self.strategy.scope() if self.strategy else contextlib.nullcontext():
            distiller = self._make(hp)
        if not isinstance(distiller, BaseDistiller):
            raise keras_tuner.errors.FatalTypeError(
                "build must return a distiller, such as mr.Distiller(student=student, "
                "teacher=teacher, knowledge=knowledge). "
                f"Received: {distiller!r}"
            )
        if not distiller.compiled:
            raise keras_tuner.errors.FatalValueError(
                "build must return a compiled distiller: call distiller.compile(...) before. "
                f"Received: {distiller!r}, not compiled"
            )
        used = [name for name, own in distiller.students.items() if own in self._students]
        if used:
            raise keras_tuner.errors.FatalValueError(
                "build must make new students for each trial, or they continue from the weights of "
                f"the trial before. Received: {used}, made for an earlier call"
            )
        self._students.update(distiller.students.values())
        return distiller

    def fit(self, hp: Any, model: BaseDistiller, *args: Any, **kwargs: Any) -> Any:
        """Trains a trial's distiller and returns its history."""
        if self._train is None:
            return model.fit(*args, **kwargs)
        return self._train(hp, model, *args, **kwargs)
