"""Resume: continues an interrupted training run exactly where it stopped."""

import warnings
import weakref
from pathlib import Path
from typing import Any

import keras
import numpy as np

from modreduce_keras.arguments import require_choice, require_integer
from modreduce_keras.callbacks import (
    callback_state,
    contents,
    epoch_start,
    found,
    lock,
    training_state,
    workers,
)
from modreduce_keras.callbacks.callback_state import CallbackState
from modreduce_keras.callbacks.checkpoints import DamagedError, Folder, Position
from modreduce_keras.callbacks.order import warn_of_order
from modreduce_keras.calls import stacklevel_of_user
from modreduce_keras.keras_internals import begin_at, running_fit


class Resume(keras.callbacks.Callback):
    """Writes checkpoints, and continues from the newest when the same program is started again.

    After a kill and a restart, the state is the same as that of an uninterrupted run, bit for bit
    on a CPU. A checkpoint holds every variable of the model (of a distiller: students, adapters,
    memory banks, the aggregator, EMA weights, hyperparameters that callbacks may change, scores of
    the students, the step, and the states of the random generators of its layers), every variable
    of the optimizers (slots, iterations, learning rates, loss scales), the epoch, the step in it
    with the running means of the logs, and the history. A teacher is not stored; a hash of its
    weights is, and the teacher must be the same. Plain Keras models can be resumed too.

        train = mr.data.epoch_shuffle(dataset, seed=0).batch(64).prefetch(2)
        distiller.fit(train, epochs=240, callbacks=[..., mr.callbacks.Resume("run")])

    When the program is started again, it must build the same models, compile them in the same way,
    and call the same `fit`. `fit` then begins in the epoch that was interrupted, and its history
    includes the earlier epochs. A finished run trains nothing more and has its final weights; with
    more epochs it continues. A run that a callback stopped (`EarlyStopping`, `TerminateOnNaN`) has
    ended: started again, it trains nothing, also with more epochs. To continue it, remove the file
    `*-ended` from the folder and start with other callbacks. A callback that only interrupts a
    run, for instance at a time limit, should raise an error instead. Use one folder for each run.
    The values in a checkpoint, including hyperparameters and learning rates, replace those that
    were passed to constructors.

    Requirements:

    - The order of the data must be reproducible: use `mr.data.epoch_shuffle`, or a dataset that is
      not shuffled. The order of `dataset.shuffle`, and of arrays under `fit(shuffle=True)`, depends
      on the process; `fit` warns of them. Data must begin again in each epoch: use `.take(n)`, not
      `steps_per_epoch=n`.
    - Random numbers must come from layers with a `keras.random.SeedGenerator`, as in Keras' layers;
      `tf.random` and `keras.random` without a seed use generators of the process.
    - `Resume` must be the last callback in the list, so that it stores what the others have written
      into logs and variables. State outside of the model (the patience and the best weights of
      `EarlyStopping`) is stored for the callbacks in `callbacks=`, completely: state that cannot
      be stored raises an error when training begins, or as soon as it exists. Arguments of their
      constructors are stored only if training has changed them, so a restart may use another
      patience. An object with variables (a metric, a layer, an optimizer) must have them when
      training begins, because the restart creates it again and assigns the stored values; Keras'
      `F1Score`, `R2Score` and `AUC` may create theirs later. A class with the methods
      `get_state()` and `set_state(state)` decides itself what is stored.

    After a checkpoint within an epoch, a restart reads the earlier batches again without training
    on them (it trains on one and undoes this, to build everything that a first step builds);
    other callbacks see these batches.

    On several machines, each worker has its own folder inside `directory`, `worker-0`, ..., and
    all begin with the newest checkpoint that every worker can read.

    During training, no other process can train with the same folder (not enforced on file systems
    without locks). After an error or Ctrl-C, the next `fit`, with or without `Resume`, begins as if
    the error had not occurred. A distiller unlocks the folder at once, another Keras model when
    Python releases the error.

    Args:
        directory: Folder of this run's checkpoints; it is created if it is missing.
        every: `"epoch"` (the default), or a number of steps: a checkpoint is then also written
            after so many steps within each epoch. One is always written at the end of an epoch.
        keep: How many checkpoints to keep. Defaults to 3.
        callbacks: Earlier callbacks of the same `fit` whose state is stored too.
        on_write_error: What to do if a checkpoint cannot be written, for instance because the disk
            is full: `"raise"` an error (the default), or `"warn"` and continue. Earlier checkpoints
            stay.

    Raises:
        ValueError: If an argument is not valid; when training begins, if the checkpoint does not
            fit the model, its optimizers or its teacher, if there are checkpoints and none can be
            read, if another process trains with the folder, or if a callback of `callbacks` cannot
            be stored or comes after this one; in the second epoch, if the data do not begin again.
        OSError: If a checkpoint cannot be written.

    Example:
        >>> import keras, numpy as np, tempfile, modreduce_keras as mr
        >>> x, y, folder = np.ones((8, 2)), np.ones(8), tempfile.mkdtemp()
        >>> def run(epochs):
        ...     model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        ...     model.compile("adam", "mse")
        ...     arguments = {"shuffle": False, "callbacks": [mr.callbacks.Resume(folder)]}
        ...     return model.fit(x, y, epochs=epochs, verbose=0, **arguments)
        >>> first, second = run(epochs=2), run(epochs=3)
        >>> len(second.history["loss"]), second.history["loss"][:2] == first.history["loss"]
        (3, True)
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        every: str | int = "epoch",
        keep: int = 3,
        callbacks: Any = (),
        on_write_error: str = "raise",
    ) -> None:
        super().__init__()
        if not isinstance(directory, (str, Path)) or not str(directory):
            raise ValueError(
                f"directory must be the path of a folder. Received: directory={directory!r}"
            )
        if isinstance(every, str):
            require_choice("every", every, ["epoch"])
        else:
            require_integer("every", every)
            # Only then: a callback that Keras calls for every batch has to wait for each step.
            self.on_train_batch_end = self._after_batch
        self.directory = Path(directory)
        self.every: Any = every
        if self.directory.is_file():
            raise ValueError(
                f"directory must be the path of a folder. Received: {directory=} (a file)"
            )
        self.keep = require_integer("keep", keep)
        self.on_write_error = require_choice("on_write_error", on_write_error, ["raise", "warn"])
        self.callbacks = callback_state.require_callbacks(callbacks)
        self._begin_at: Any = None  # a Position, where training is to begin there
        self._last: Any = None  # a Position, and the history until there
        self._owner: Any = None
        self._over = False
        self.iterator = lambda: None

    # Restoring

    def restore(self, model: keras.Model) -> bool:
        """Loads the newest checkpoint into a compiled model.

        `fit` does this too. Call it before `fit` to find out whether an earlier stage has to run:
        `if not resume.restore(distiller): distiller.pretrain(...)`. It only reads the folder, so
        another process may be writing there.

        Returns:
            Whether there was a checkpoint.

        Raises:
            ValueError: As when training begins.
        """
        if not getattr(model, "compiled", False):
            raise ValueError(
                "Resume restores a model that is compiled, with its optimizers: compile before. "
                f"Received: {model!r}"
            )
        return self._restore(model)

    def _restore(self, model: keras.Model, epochs: int | None = None) -> bool:
        training_state.variables(model, metrics=False)  # refuses what cannot be stored, at once
        self._own = contents.identity(model)
        self._folder = Folder(self._own_path(model), self.keep)
        readable, problems = found.readable(self._folder, model)
        if not readable:
            if problems:
                raise ValueError(
                    f"None of the checkpoints in {self._folder.path} can be used: "
                    f"{'; '.join(problems)}. To start again, remove the folder."
                )
            return False
        ended = found.ended(self._folder, model, readable[0])
        self._has_ended = bool(ended) and (epochs is None or self._stays(ended, epochs))
        self._begin_at, (manifest, arrays) = ended if self._has_ended else readable
        for problem in problems:
            warnings.warn(
                f"A checkpoint in {self._folder.path} cannot be used, so training continues from "
                f"an earlier one, {self._folder.file(self._begin_at).name}: {problem}",
                stacklevel=stacklevel_of_user(),
            )
        if not model.built:
            raise ValueError(
                f"Resume restores a model that is built. Call {model.name!r} on a batch, or "
                "build(input_shape), before fit. Received: a model without variables"
            )
        if model.optimizer is not None and not model.optimizer.built:
            with model.distribute_strategy.scope():
                model.optimizer.build(model.trainable_variables)
        self._manifest, self._arrays = manifest, arrays
        contents.require_same(model, self._own, manifest, self._folder.file(self._begin_at))
        training_state.assign(model, arrays, metrics=False)
        contents.assign_choices(model, manifest)
        return True

    @staticmethod
    def _stays(ended: Any, epochs: int) -> bool:
        """Returns whether the run has ended, so that there is nothing left to train."""
        position, (manifest, _) = ended
        return manifest["stopped"] or position.epoch >= epochs

    def _own_path(self, model: keras.Model) -> Path:
        return self.directory / workers.own_folder(model)

    # What Keras calls

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Locks the folder and restores the newest checkpoint, if there is one."""
        self.iterator, self._begin_at = lambda: None, None
        self._over, self._last, self._has_ended = False, None, False
        path = self._own_path(self.model)
        self._owner = lock.acquire(path)
        try:
            self._begin(path)
        except BaseException:
            lock.release(path, self._owner)
            raise

    def _begin(self, path: Path) -> None:
        fit = running_fit()
        if fit is not None:
            # Keras calls nothing when fit is interrupted; the objects of fit are then released.
            weakref.finalize(fit.batches, lock.release, path, self._owner).atexit = False
            callback_state.require_before(self.callbacks, self, fit.callbacks)
            callback_state.require_averaged(self, fit.callbacks)
        epochs = self.params.get("epochs") or 0
        Folder(path, self.keep).remove_unfinished()
        restored = self._restore(self.model, epochs)
        if fit is not None:
            warn_of_order(fit.data[0], fit.shuffle)
        self._state = CallbackState(self.callbacks, self.model)
        if not restored:
            return
        first = self._begin_at.epoch
        self._over = self._has_ended or self._manifest.get("stopped") or first >= epochs
        first = max(first, epochs) if self._over else first
        begin_at(self.model, epoch_start.BeginAt(first, self.model, fit))
        history = contents.history_of(self.model)
        if history is not None:
            history.history.clear()
            stored = contents.stored_history(self._manifest, self._arrays)
            history.history.update(stored["history"])
        self._assign_callbacks()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Skips the steps of the epoch that have been trained."""
        skip = 0
        if self._begin_at is not None:
            self._require_epoch(epoch)
            skip = self._begin_at.step
            at_once = self.model.steps_per_execution
            if skip % at_once:
                raise ValueError(
                    f"The checkpoint is of step {skip} of an epoch, between two executions: "
                    f"compile with the same steps_per_execution. Received: {at_once}"
                )
            self._after_others_began()
        self._epoch, self._written = epoch, skip
        epoch_start.remove(self.model)  # an earlier epoch broke off before its first step
        train = self.model.train_function
        self.model.train_function = epoch_start.EpochStart(self, train, skip)

    def _require_epoch(self, epoch: int) -> None:
        if epoch != self._begin_at.epoch:
            raise ValueError(
                f"The checkpoint is of epoch {self._begin_at.epoch}, but fit begins with "
                f"epoch {epoch}. Leave initial_epoch out, or use another folder for Resume."
            )

    def _after_others_began(self) -> None:
        """Restores what Keras forgets when training begins."""
        self._begin_at = None
        history = contents.history_of(self.model)
        if history is not None:
            history.epoch[:] = self._manifest["history_epochs"]

    def _after_batch(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Writes a checkpoint if it is time."""
        step = batch + 1
        due = step // self.every > self._written // self.every
        steps = self.params.get("steps")
        # An epoch that a callback ends is stored at its end.
        if due and (steps is None or step < steps) and not self.model.stop_training:
            history = contents.present_history(self.model)
            self._write(Position(self._epoch, step), history, metrics=True)
            self._written = step

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Writes a checkpoint."""
        history = contents.present_history(self.model)
        if epoch not in history["history_epochs"]:
            history["history_epochs"].append(epoch)
            for name, value in (logs or {}).items():
                history["history"].setdefault(name, []).append(value)
        self._last = Position(epoch + 1, 0), history
        self._write(*self._last, metrics=False)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Stores the final state of the training, and unlocks the folder."""
        if self._begin_at is not None:  # nothing was left to train
            self._last = self._begin_at, contents.stored_history(self._manifest, self._arrays)
            self._after_others_began()
        if self._has_ended:
            # Other callbacks have ended the training once more.
            training_state.assign(self.model, self._arrays, metrics=False)
            self._assign_callbacks()
        elif self._last is not None:
            self._write_ended()
        self.forget_arrays()
        lock.release(self._folder.path, self._owner)

    def on_train_error(self) -> None:
        """Cleans up after an error in `fit`; a distiller calls it."""
        if self._owner is None:
            return
        lock.release(self._own_path(self.model), self._owner)
        epoch_start.remove(self.model)
        begin_at(self.model, None)
        self.forget_arrays()

    # Writing

    def _content(
        self, history: dict[str, Any], *, metrics: bool
    ) -> tuple[dict[str, Any], list[tuple[str, Any]]]:
        """Returns the content of a checkpoint: the manifest and the arrays."""
        manifest, arrays = contents.of_training(self.model, self._state, history, metrics=metrics)
        return {**manifest, **self._own}, arrays

    def _write(self, position: Position, history: dict[str, Any], *, metrics: bool) -> None:
        self._put(position, *self._content(history, metrics=metrics))

    def _write_ended(self) -> None:
        """Stores the final state of `fit`, if it differs from that of the last epoch."""
        position, history = self._last
        manifest, arrays = self._content(history, metrics=False)
        manifest["stopped"] = manifest["stopped"] or (
            self._over and self._manifest.get("stopped", False)
        )
        try:
            last, stored = self._folder.read(position)
            same = [(name, bytes(one)) for name, one in stored.items()] == [
                (name, np.ascontiguousarray(one).tobytes()) for name, one in arrays
            ]
            if same and last.get("stopped", False) == manifest["stopped"]:
                return
        except (DamagedError, OSError):
            pass  # it could not be written
        self._put(position, manifest, arrays, ended=True)

    def _put(
        self, position: Position, manifest: dict[str, Any], arrays: Any, *, ended: bool = False
    ) -> None:
        try:
            self._folder.write(position, manifest, arrays, ended=ended)
        except OSError as error:
            kept = self._folder.positions()
            last = self._folder.file(kept[-1]).name if kept else "none"
            message = (
                f"Resume could not write {self._folder.file(position, ended=ended)}: {error}. The "
                f"last checkpoint that is whole: {last}."
            )
            if self.on_write_error == "raise":
                raise OSError(error.errno, message) from error
            warnings.warn(message, stacklevel=stacklevel_of_user())

    # For the first step of an epoch

    def restore_within_epoch(self) -> None:
        """Restores what a checkpoint in the middle of an epoch holds."""
        different = training_state.differences(self.model, self._manifest["arrays"], metrics=True)
        if different:
            raise ValueError(f"The metrics in the checkpoint differ from the model's: {different}")
        training_state.assign(self.model, self._arrays, metrics=True)
        self._assign_callbacks()

    def forget_arrays(self) -> None:
        """Releases the arrays that were read, which are as large as the model."""
        self._arrays = None

    def _assign_callbacks(self) -> None:
        contents.assign_callbacks(self._state, self._manifest, self._arrays)
