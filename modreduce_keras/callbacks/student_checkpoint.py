"""StudentCheckpoint: writes the student alone, as a plain Keras file, after each epoch."""

import math
import os
import shutil
import string
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from modreduce_keras import whole_files
from modreduce_keras.arguments import require_bool, require_choice
from modreduce_keras.calls import stacklevel_of_user
from modreduce_keras.distillers import BaseDistiller
from modreduce_keras.distillers.metrics.selection import is_less_better
from modreduce_keras.models.kernel_wrapper import unfinished

_VALIDATION, _STUDENT = "val_", "student"


class StudentCheckpoint(keras.callbacks.Callback):
    """Writes a distiller's student to a `.keras` file after each epoch.

    The file contains only the student: no teacher, no adapters, no optimizer. It is the same as
    from `distiller.student.save(...)`: load it with `keras.saving.load_model`, and deploy it. It is
    written completely or not at all, so that a killed run leaves the previous file.

    With several students, the best one by the monitored value is written. If the path contains
    `"{student}"`, each student is written, and has its own best value. If the aggregator has a
    leader, the leader counts as the best.

    With `mr.callbacks.Resume`, pass the checkpoint there too, so that a resumed run knows the best
    value: `callbacks=[checkpoint, Resume("run", callbacks=[checkpoint])]`. With several workers,
    each one writes.

    Args:
        filepath: Path of the file, which ends in `.keras`; missing folders are created. It may
            contain the epoch (from 1) and logs, as in Keras' `ModelCheckpoint`, and the student's
            name: `"{student}-{epoch:02d}-{val_accuracy:.3f}.keras"`. With several students, the
            logs are those of the student that is written.
        monitor: Name of the log that says which student is better, such as `"val_loss"`. With
            several students, leave out the student's name: `"val_accuracy"` means
            `"val_a/accuracy"` for student `"a"`. Defaults to `None`: `"val_loss"`, and with several
            students the criterion of `best_student`.
        mode: `"max"` or `"min"`: whether more or less is better. Defaults to `"auto"`: less for
            losses, errors, divergences and the terms of the training, more for everything else.
        save_best_only: Write only if the monitored value is better than before. Defaults to
            `False`: write after each epoch. Only validation tells which is the best. In an epoch
            without it, nothing is written if this is `True`, or if the best of several students is
            written to one file. If the student is being pruned, the best epoch may be one before it
            was fully sparse; a warning tells you.

    Raises:
        ValueError: If the path does not end in `.keras` or cannot be formatted, or an argument is
            out of range; after an epoch, if the logs do not have a name, with those there are.
        TypeError: When training begins, if the model is not a distiller.

    Example:
        >>> import pathlib, tempfile, keras, numpy as np, modreduce_keras as mr
        >>> x, y = np.ones((8, 4), "float32"), np.arange(8) % 3
        >>> net = lambda: keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        >>> distiller = mr.Distiller(student=net(), teacher=net(), knowledge="kd")
        >>> distiller.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> best = mr.callbacks.StudentCheckpoint(folder / "best.keras", save_best_only=True)
        >>> _ = distiller.fit(x, y, validation_data=(x, y), callbacks=[best], verbose=0)
        >>> keras.saving.load_model(folder / "best.keras").count_params()
        15
    """

    def __init__(
        self,
        filepath: str | os.PathLike[str],
        *,
        monitor: str | None = None,
        mode: str = "auto",
        save_best_only: bool = False,
    ) -> None:
        super().__init__()
        self.filepath = _checked(filepath)
        if monitor is not None and not (isinstance(monitor, str) and monitor):
            raise ValueError(
                "monitor must be a name in the logs, such as 'val_accuracy', or None. "
                f"Received: {monitor=}"
            )
        self.monitor = monitor
        self.mode = require_choice("mode", mode, ("auto", "min", "max"))
        self.save_best_only = require_bool("save_best_only", save_best_only)
        self.best: dict[str, float] = {}
        """The best value so far of each student, or under `"student"` of all together."""
        self._has_written = False
        self._unfinished: dict[str, str | None] = {}

    @property
    def by_name(self) -> bool:
        """Whether each student has a file of its own."""
        return _STUDENT in _fields(self.filepath)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Looks at the model."""
        if not isinstance(self.model, BaseDistiller):
            raise TypeError(
                "StudentCheckpoint writes the students of a distiller; keras.callbacks."
                "ModelCheckpoint is for other models. Received: a model of type "
                f"{type(self.model).__name__}"
            )
        self._has_written = False

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Writes what is to be written."""
        logs, students = logs or {}, self._students()
        values: dict[str, float] = {}
        if self.save_best_only or (len(students) > 1 and not self.by_name):
            values = self._values(students, logs)
            if not values:
                return
        if values and not self.by_name:
            best = max(values, key=lambda n: -math.inf if math.isnan(values[n]) else values[n])
            students, values = {best: students[best]}, {_STUDENT: values[best]}
        for name, student in students.items():
            key = name if self.by_name else _STUDENT
            if self._improves(key, values):
                self._write(student, self._path(name, epoch, logs))
                self._unfinished[key] = unfinished(student)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Warns if nothing was written for lack of validation, or a best one too early."""
        if not self._has_written and not self.best:
            other = "save_best_only=False" if self.save_best_only else "'{student}' in its path"
            warnings.warn(
                f"StudentCheckpoint wrote no file: it needs validation_data= in fit for "
                f"monitor={self.monitor or 'val_loss'!r}, or {other}.",
                stacklevel=stacklevel_of_user(),
            )
        for name, text in self._unfinished.items():
            if self.save_best_only and text is not None:
                warnings.warn(
                    f"The best {name!r} that StudentCheckpoint wrote is from before the end of its "
                    f"pruning: {text}. Use the callback in a second fit, after the schedule has "
                    "ended, or save_best_only=False.",
                    stacklevel=stacklevel_of_user(),
                )

    def get_state(self) -> dict[str, float]:
        """Returns what `Resume(callbacks=[...])` keeps: the best values."""
        return self.best

    def set_state(self, state: dict[str, float]) -> None:
        """Takes what `get_state` returned."""
        self.best = dict(state)

    def _students(self) -> dict[str, keras.Model]:
        """Returns the models that may be written, by name."""
        model: Any = self.model
        if hasattr(type(model), "student"):
            return {_STUDENT: model.student}
        leads = getattr(getattr(model, "aggregator", None), "has_leader", False)
        if leads and not self.by_name:
            return {model.best_student_name: model.best_student}
        return model.students

    def _values(self, students: Mapping[str, Any], logs: Mapping[str, Any]) -> dict[str, float]:
        """Returns the monitored value of each student, more is better; `{}` before a validation."""
        model: Any = self.model
        several = not hasattr(type(model), "student")
        if self.monitor is None and several:
            return {name: v for name, v in model.selection.found(logs).items() if name in students}
        monitor = self.monitor or "val_loss"
        if monitor.startswith(_VALIDATION) and not any(k.startswith(_VALIDATION) for k in logs):
            return {}
        names = {
            name: self._name_in_logs(name, monitor) if several else monitor for name in students
        }
        missing = sorted(set(names.values()) - set(logs))
        if missing:
            own = " of each student, without its name, such as 'val_accuracy'" if several else ""
            raise ValueError(
                f"monitor must be a name in the logs{own}. "
                f"Received: monitor={monitor!r}, and the logs {sorted(logs)} have no {missing}"
            )
        metric = monitor.removeprefix(_VALIDATION)
        less = is_less_better(metric, {term.name for term in model.objective().terms})
        sign = -1.0 if (self.mode == "min" or (self.mode == "auto" and less)) else 1.0
        return {name: sign * float(logs[key]) for name, key in names.items()}

    def _name_in_logs(self, student: str, name: str) -> str:
        prefix = _VALIDATION if name.startswith(_VALIDATION) else ""
        model: Any = self.model
        return prefix + model.log_name(student, name.removeprefix(_VALIDATION))

    def _improves(self, key: str, values: Mapping[str, float]) -> bool:
        """Returns whether a value is better than all before, and remembers it."""
        if not self.save_best_only:
            return True
        if math.isnan(values[key]) or values[key] <= self.best.get(key, -math.inf):
            return False
        self.best[key] = values[key]
        return True

    def _path(self, student: str, epoch: int, logs: Mapping[str, Any]) -> Path:
        own = {}
        for name, value in logs.items():
            for prefix in ("", _VALIDATION):
                if name.startswith(f"{prefix}{student}/"):
                    own[prefix + name.removeprefix(f"{prefix}{student}/")] = value
        known = {**logs, **own, "epoch": epoch + 1, _STUDENT: student}
        try:
            return Path(self.filepath.format(**known))
        except (KeyError, ValueError, IndexError) as error:
            raise ValueError(
                f"filepath must have places for the epoch, the student and the logs, "
                f"{sorted(known)}. Received: filepath={self.filepath!r}, and {error!r}"
            ) from error

    def _write(self, student: keras.Model, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        whole_files.remove_abandoned(path.parent)
        with tempfile.TemporaryDirectory() as folder, whole_files.writing(path) as file:
            made = Path(folder) / "student.keras"
            student.save(made)
            with made.open("rb") as content:
                shutil.copyfileobj(content, file)
        self._has_written = True


def _checked(filepath: Any) -> str:
    path = os.fspath(filepath) if isinstance(filepath, (str, os.PathLike)) else filepath
    if not (isinstance(path, str) and path.endswith(".keras")):
        raise ValueError(
            "filepath must be a path that ends in '.keras': a student is written as a whole. "
            f"Received: {filepath=}"
        )
    _fields(path)
    return path


def _fields(path: str) -> set[str]:
    """Returns the names of the places in a path."""
    try:
        return {field for _, field, _, _ in string.Formatter().parse(path) if field is not None}
    except ValueError as error:
        raise ValueError(
            "filepath must have its places in braces, such as '{epoch:02d}', and literal braces "
            f"doubled, '{{{{'. Received: filepath={path!r}"
        ) from error
