"""Progress bar: shows a few of a distiller's many logs."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras

from modreduce_keras.keras_internals import compiled_metrics

_VALIDATION = "val_"


class ShownLogs(keras.callbacks.ProgbarLogger):
    """Keras' progress bar with a few logs of several students, or all of one model.

    Other callbacks, and the history, see every log.
    """

    # Like Keras' own bar: the next step need not wait for it.
    async_safe = True

    def chosen(self, logs: Mapping[str, Any] | None) -> dict[str, Any]:
        """Returns those of some logs that are shown, in their order."""
        logs, model = logs or {}, self.model
        if not getattr(model, "has_several", False):
            return dict(logs)
        return {name: logs[name] for name in shown(logs, model.measured(), model.shown_measures())}

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Moves the bar."""
        super().on_train_batch_end(batch, self.chosen(logs))

    def on_test_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Moves the bar of `evaluate`."""
        super().on_test_batch_end(batch, self.chosen(logs))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Ends the epoch's line."""
        super().on_epoch_end(epoch, self.chosen(logs))

    def on_test_end(self, logs: dict[str, Any] | None = None) -> None:
        """Ends the line of `evaluate`."""
        super().on_test_end(self.chosen(logs))


def with_bar(callbacks: Any, verbose: Any) -> Any:
    """Returns callbacks with a bar of the shown logs, where Keras would add one of all.

    Args:
        callbacks: As `fit` takes them.
        verbose: As `fit` takes it.
    """
    if not verbose or isinstance(callbacks, keras.callbacks.CallbackList):
        return callbacks
    given = keras.tree.flatten([] if callbacks is None else callbacks)
    if any(isinstance(one, keras.callbacks.ProgbarLogger) for one in given):
        return callbacks
    # At the end, where Keras has its own: callbacks before it may add logs.
    return [*given, ShownLogs()]


def shown(names: Iterable[str], students: Sequence[str], measures: Sequence[str]) -> list[str]:
    """Returns which logs of several students to show: few enough to be read.

    These are the total loss, one measure of each student, and what belongs to no student, such as
    a learning rate; first of the training, then of the validation.

    Args:
        names: Names of the logs there are.
        students: Names of the students, and of their ensemble.
        measures: Names of measures without the student's, the most telling one first. Each student
            has the first that is logged.
    """
    known = list(names)
    own = {student: [f"{student}/{measure}" for measure in measures] for student in students}
    order = []
    for prefix in ("", _VALIDATION):
        order.append(f"{prefix}loss")
        for several in own.values():
            logged = (f"{prefix}{one}" for one in several if f"{prefix}{one}" in known)
            order += [next(logged, "")]
    of_none = [name for name in known if _owner(name) not in own]
    return [name for name in dict.fromkeys([*order, *of_none]) if name in known]


def measures(model: keras.Model, supervision: Any) -> list[str]:
    """Returns measures by which a student is told, the most telling one first.

    Args:
        model: A model, compiled or not.
        supervision: Its compiled loss on labels, or `None`.
    """
    compiled = compiled_metrics(model)
    metrics = [] if compiled is None else [metric.name for metric in compiled.metrics]
    losses = [] if supervision is None else supervision.names
    return ["accuracy", *metrics, *losses]


def _owner(name: str) -> str | None:
    """Returns the student whose log it is by its name; `None` where it names nobody."""
    owner, slash, _ = name.removeprefix(_VALIDATION).partition("/")
    return owner if slash else None
