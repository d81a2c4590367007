"""PeerAveraging: pulls the weights of peers towards their mean while they train."""

import warnings
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from modreduce_keras.arguments import is_number, require_integer
from modreduce_keras.calls import stacklevel_of_user
from modreduce_keras.distillers.backend import tensorflow as backend


class PeerAveraging(keras.callbacks.Callback):
    """Pulls the weights of all students towards their mean, every few steps.

    w_i ← (1 - rate) · w_i + rate · mean_j w_j

    The students stay near one another, so that each profits from the samples of the others, and
    each becomes better than a student that trains alone. They need one architecture, equal initial
    weights, and something in which they differ. Samples of their own are best
    (`split_batches=True`); views of the same samples, or different knowledge, are possible.
    There is a warning if students begin with different weights, or would stay equal.
    `mr.ModReduce(recipe="peer_averaging")` does all this and adds the callback.

    All floating-point weights are averaged, including the moving statistics of batch
    normalizations; optimizer states are not. Layers that the students share (`mr.models.branch`)
    are left alone.

    Steps are counted from the first one that the distiller has taken, across epochs and calls of
    `fit`, also after `mr.callbacks.Resume`. With `compile(steps_per_execution=n)`, weights are
    averaged after the group of n steps in which averaging is due.

    Args:
        rate: How far weights move towards the mean, above 0 and at most 1. 1 makes the students
            equal each time. Defaults to 0.01.
        every: Average after every so many steps. Defaults to 10.

    Raises:
        ValueError: If an argument is out of range; when training begins, if students are of
            different architectures, or `mr.callbacks.Resume` stands before it in `callbacks`.
        TypeError: When training begins, if the model is not a distiller with several students.

    Example:
        >>> import keras, numpy as np, modreduce_keras as mr
        >>> first = mr.models.get("convnet", num_classes=3, widths=(4,))
        >>> students = {"a": first, "b": mr.models.copy_model(first)}
        >>> flip = keras.layers.RandomFlip("horizontal", seed=0)
        >>> peers = mr.PeerDistiller(students, student_inputs=[None, flip])
        >>> peers.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        >>> images, labels = np.random.rand(8, 28, 28, 1), np.arange(8) % 3
        >>> averaging = mr.callbacks.PeerAveraging(rate=1.0, every=1)
        >>> history = peers.fit(images, labels, callbacks=[averaging], verbose=0)
        >>> pairs = zip(students["a"].get_weights(), students["b"].get_weights())
        >>> all(np.array_equal(a, b) for a, b in pairs)
        True

    Reference:
        Jolicoeur-Martineau et al., PopulAtion Parameter Averaging (PAPA), 2024. The peers there
        differ in the order of their samples, in augmentation and in regularization.
    """

    def __init__(self, rate: float = 0.01, *, every: int = 10) -> None:
        super().__init__()
        if not (is_number(rate) and 0 < rate <= 1):
            raise ValueError(f"rate must be a number above 0 and at most 1. Received: {rate=}")
        self.rate, self.every = float(rate), require_integer("every", every)
        self._average: Any = None
        self._steps: int | None = None
        self._at_most = self._first = 0

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Looks at the students, so that errors are raised at once."""
        groups, self._steps = _alike(self.model), None
        _warn_of_starts(self.model)
        rate = self.rate

        def average() -> None:
            for variables in groups:
                mean = sum(variable.value for variable in variables) / len(variables)
                for variable in variables:
                    variable.assign((1.0 - rate) * variable.value + rate * mean)

        self._average = backend.compiled(average, jit_compile=False)

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Notes the first of the steps that run at once."""
        self._first = batch

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Averages the weights if it is time to."""
        taken = batch + 1 - self._first
        if self._steps is None:  # Resume may have restored them after training began
            self._steps = self._at_most = _steps_of(self.model) - taken
        # Steps that Resume skips come here as well, so that the model has taken at most these.
        self._at_most += taken
        if self._at_most // self.every == self._steps // self.every:
            return  # without a look at the model, which would have to wait for the device
        before, self._steps = self._steps, _steps_of(self.model)
        self._at_most = self._steps
        if self._steps // self.every > before // self.every:
            with self.model.distribute_strategy.scope():
                self._average()


def _steps_of(model: Any) -> int:
    """Returns how many steps a distiller has taken."""
    return int(keras.ops.convert_to_numpy(model.step))


def _alike(model: Any) -> list[list[keras.Variable]]:
    """Returns what is averaged: the same weight of each student, for every weight of floats."""
    students = getattr(model, "students", None)
    if not isinstance(students, Mapping) or len(students) < 2:
        raise TypeError(
            "PeerAveraging averages the students of a distiller with several, such as "
            f"mr.ModReduce. Received: a {type(model).__name__}"
        )
    of_each = {
        name: [(v.name, tuple(v.shape)) for v in one.weights] for name, one in students.items()
    }
    first, *others = of_each
    for name in others:
        if of_each[name] != of_each[first]:
            raise ValueError(
                "PeerAveraging needs students of one architecture, such as copies by "
                "mr.models.copy_model(student). Received: students whose weights differ in name, "
                f"number or shape, {first!r} ({len(of_each[first])} weights) and {name!r} "
                f"({len(of_each[name])})"
            )
    groups = [list(group) for group in zip(*(s.weights for s in students.values()), strict=True)]
    return [
        group
        for group in groups
        if keras.backend.is_float_dtype(group[0].dtype) and len(set(map(id, group))) > 1
    ]


def _warn_of_starts(model: Any) -> None:
    """Warns of students that begin too far from one another, or that nothing makes different."""
    weights = [student.weights for student in model.students.values()]
    shares = any(len(set(map(id, group))) == 1 for group in zip(*weights, strict=True))
    if shares or _steps_of(model) > 0:
        return
    first, *others = ([np.asarray(weight) for weight in own] for own in weights)
    if not all(np.array_equal(*pair) for own in others for pair in zip(first, own, strict=True)):
        warnings.warn(
            "PeerAveraging: the students begin with different weights, whose mean is hardly better "
            "than chance. Make copies of one: mr.models.copy_model(student). Received: students "
            f"{list(model.students)}",
            stacklevel=stacklevel_of_user(),
        )
        return
    learns = [[one.get_config() for one in several] for several in model.knowledge.values()]
    draws = not all(keras.backend.is_float_dtype(weight.dtype) for weight in weights[0])
    if not (model.student_inputs or draws) and all(own == learns[0] for own in learns):
        warnings.warn(
            "PeerAveraging: the students are equal, learn the same from the same samples, and will "
            f"stay equal. Give each samples of its own: mr.{type(model).__name__}(..., "
            "aggregator=None, split_batches=True)",
            stacklevel=stacklevel_of_user(),
        )
