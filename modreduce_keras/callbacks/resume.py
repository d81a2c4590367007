"""The callback that lets a training that was killed go on exactly where it was."""

import warnings
import weakref
from pathlib import Path
from typing import Any

import keras

from modreduce_keras.arguments import require_choice, require_integer
from modreduce_keras.callbacks import callback_state, lock, training_state, workers
from modreduce_keras.callbacks.checkpoints import DamagedError, Folder, Position
from modreduce_keras.data.epoch_shuffle import announce_epoch


class Resume(keras.callbacks.Callback):
    """Writes checkpoints, and goes on from the newest when the same program is started again.

    The state after a kill and a restart is, bit by bit on a CPU, that of a run that was never
    killed. A checkpoint holds every variable of the model (of a distiller: students, adapters,
    memory banks, the aggregator, past selves, knobs, scores of the students, the step, and the
    states of the random generators of its layers), every variable of the optimizers (slots,
    iterations, learning rates, loss scales), the epoch, the step in it with the running means of
    the logs, and the history. A teacher is not stored; it has to be the same, by a hash of its
    weights. It serves plain Keras models as well.

        train = mr.data.epoch_shuffle(dataset, seed=0).batch(64).prefetch(2)
        distiller.fit(train, epochs=240, callbacks=[..., mr.callbacks.Resume("run")])

    The second start builds the same models, compiles them in the same way, and calls the same
    `fit`: it begins in the epoch that was interrupted, and its history holds the earlier ones. A
    finished run does nothing more; with more epochs it goes on, and so does one that a callback
    stopped. Give every run a folder of its own. What a checkpoint holds, knobs and learning rates
    among it, replaces what the constructors were given.

    What a user has to see to:

    - Data whose order a restart finds again: `mr.data.epoch_shuffle`, or a dataset that is not
      shuffled. The order of `dataset.shuffle`, and of arrays under `fit(shuffle=True)`, begins anew
      with the process. Data begin anew in each epoch: `.take(n)`, not `steps_per_epoch=n`.
    - Random numbers from layers that hold their `keras.random.SeedGenerator`, as Keras' layers do;
      `tf.random` and `keras.random` without a seed draw from generators of the process.
    - `Resume` at the end of the list of callbacks, so that it stores what those before it have
      written into logs and variables. What other callbacks remember outside of the model (the
      patience of `EarlyStopping`) is stored for those named in `callbacks=`.

    Where checkpoints are in the middle of an epoch, a restart reads the batches before it again
    without training on them (one is, and undone, to build what a first step builds); other
    callbacks see them pass.

    On several machines, each worker has a folder of its own inside `directory`, `worker-0`, ...,
    and all begin with the newest checkpoint that every one of them can read.

    While it trains, no other process can train with the same folder (not enforced on Windows).

    Args:
        directory: Folder of this run's checkpoints; it is made if it is missing.
        every: `"epoch"` (the default), or a number of steps after which, counted in each epoch, to
            write one more. The end of an epoch is always written.
        keep: How many checkpoints to keep. Defaults to 3.
        callbacks: Callbacks of the same `fit` whose numbers, flags and arrays are to be stored too.
        on_write_error: What to do if a checkpoint cannot be written, the disk being full: `"raise"`
            (the default) an error, or `"warn"` and train on. The checkpoints before it stay.

    Raises:
        ValueError: If an argument is not valid; when training begins, if the checkpoint does not
            fit the model, its optimizers or its teacher, or if there are checkpoints and none can
            be read, or if another process trains with the folder; in the second epoch, if the data
            do not begin anew.
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
    ):
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
        self.directory, self.every = Path(directory), every
        if self.directory.is_file():
            raise ValueError(
                f"directory must be the path of a folder. Received: {directory=} (a file)"
            )
        self.keep = require_integer("keep", keep)
        self.on_write_error = require_choice("on_write_error", on_write_error, ["raise", "warn"])
        self.callbacks = callback_state.require_callbacks(callbacks)
        self._begin_at: Position | None = None
        self._iterator = lambda: None

    # Restoring

    def restore(self, model: keras.Model) -> bool:
        """Loads the newest checkpoint into a compiled model.

        `fit` does it by itself. Before `fit`, it tells whether a stage before it is to be run:
        `if not resume.restore(distiller): distiller.pretrain(...)`.

        Returns:
            Whether there was one.

        Raises:
            ValueError: As when training begins.
        """
        if not getattr(model, "compiled", False):
            raise ValueError(
                "Resume restores a model that is compiled, with its optimizers: compile before. "
                f"Received: {model!r}"
            )
        training_state.variables(model, metrics=False)  # refuses what cannot be stored, at once
        self._own = self._identity(model)
        self._folder = Folder(self._own_path(model), self.keep)
        self._folder.remove_unfinished()
        readable, problems = self._readable(model)
        if not readable:
            if problems:
                raise ValueError(
                    f"None of the checkpoints in {self._folder.path} can be used: "
                    f"{'; '.join(problems)}. To begin anew, remove the folder."
                )
            return False
        self._begin_at, (manifest, arrays) = readable
        for problem in problems:
            warnings.warn(
                f"A checkpoint in {self._folder.path} cannot be used and training goes on from an "
                f"earlier one, {self._folder.file(self._begin_at).name}: {problem}",
                stacklevel=2,
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
        self._require_fit(model, manifest)
        training_state.assign(model, arrays, metrics=False)
        return True

    def _own_path(self, model: keras.Model) -> Path:
        return self.directory / workers.own_folder(model)

    def _readable(self, model: keras.Model) -> tuple[Any, list[str]]:
        """Returns the newest checkpoint that can be read, and what is wrong with newer ones."""
        problems, found = [], {}
        several = workers.number(model) > 1
        for position in reversed(self._folder.positions()):
            try:
                found[position] = self._folder.read(position)
            except (DamagedError, OSError) as error:
                problems.append(f"{self._folder.file(position).name} is {error}")
                continue
            if not several:
                break
        if several:
            found = workers.common(model, found, self.keep, self._folder.path)
        return (max(found.items()) if found else None), problems

    def _require_fit(self, model: keras.Model, manifest: dict[str, Any]) -> None:
        def refuse(what: str) -> None:
            raise ValueError(
                f"The checkpoint {self._folder.file(self._begin_at)} is of another run: {what}. "
                "Build and compile the same models, or use another folder."
            )

        for key, told in (
            ("optimizers", "optimizers {} in the checkpoint, {} in the model"),
            ("teacher", "its teacher had other weights (fingerprint {} in the checkpoint, {} now)"),
        ):
            if manifest[key] != self._own[key]:
                refuse(told.format(manifest[key], self._own[key]))
        different = training_state.differences(model, manifest["arrays"], metrics=False)
        if different:
            refuse(different)

    def _identity(self, model: keras.Model) -> dict[str, Any]:
        return {
            "optimizers": [type(one).__name__ for one in training_state.optimizers(model)],
            "teacher": training_state.teacher_fingerprint(model),
        }

    # What Keras calls

    def on_train_begin(self, logs=None):
        """Locks the folder and restores the newest checkpoint, if there is one."""
        self._iterator, self._begin_at = lambda: None, None
        lock.acquire(self._own_path(self.model))
        if self.restore(self.model):
            self.model._initial_epoch = self._begin_at.epoch
            history = self._history()
            if history is not None:
                history.history.clear()
                history.history.update(self._manifest["history"])

    def on_epoch_begin(self, epoch, logs=None):
        """Announces the epoch to the data, and skips what of it has been trained."""
        announce_epoch(epoch)
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
        train = self.model.train_function
        if isinstance(train, _EpochStart):  # an earlier epoch broke off before its first step
            train = train.train
        self.model.train_function = _EpochStart(self, train, skip)

    def _require_epoch(self, epoch: int) -> None:
        if epoch != self._begin_at.epoch:
            raise ValueError(
                f"The checkpoint is of epoch {self._begin_at.epoch}, but fit begins with "
                f"epoch {epoch}. Leave initial_epoch out, or use another folder for Resume."
            )

    def _after_others_began(self) -> None:
        """Restores what other callbacks forget when training begins."""
        self._begin_at = None
        self.model._initial_epoch = None  # or the next fit without Resume would begin there too
        history = self._history()
        if history is not None:
            history.epoch[:] = self._manifest["history_epochs"]
        callback_state.assign(self.callbacks, self._manifest["callbacks"], self._arrays)

    def _after_batch(self, batch, logs=None):
        """Writes a checkpoint where it is time to."""
        step = batch + 1
        due = step // self.every > self._written // self.every
        steps = self.params.get("steps")
        if due and (steps is None or step < steps):
            self._write(Position(self._epoch, step), self._present_history(), metrics=True)
            self._written = step

    def on_epoch_end(self, epoch, logs=None):
        """Writes a checkpoint."""
        history = self._present_history()
        if epoch not in history["history_epochs"]:
            history["history_epochs"].append(epoch)
            for name, value in (logs or {}).items():
                history["history"].setdefault(name, []).append(value)
        self._write(Position(epoch + 1, 0), history, metrics=False)

    def on_train_end(self, logs=None):
        """Ends the announcement of epochs, and unlocks the folder."""
        announce_epoch(None)
        lock.release(self._folder.path)
        if self._begin_at is not None:  # nothing was left to train
            self._after_others_began()

    # Writing

    def _history(self) -> keras.callbacks.History | None:
        history = getattr(self.model, "history", None)
        return history if isinstance(history, keras.callbacks.History) else None

    def _present_history(self) -> dict[str, Any]:
        history = self._history()
        if history is None:
            return {"history": {}, "history_epochs": []}
        logs = {name: list(values) for name, values in history.history.items()}
        return {"history": logs, "history_epochs": list(history.epoch)}

    def _write(self, position: Position, history: dict[str, Any], *, metrics: bool) -> None:
        values, others = callback_state.read(self.callbacks)
        manifest = {**position._asdict(), **history, **self._own, "callbacks": values}
        arrays = training_state.arrays(self.model, metrics=metrics) + others
        try:
            self._folder.write(position, manifest, arrays)
        except OSError as error:
            kept = self._folder.positions()
            last = self._folder.file(kept[-1]).name if kept else "none"
            message = (
                f"Resume could not write {self._folder.file(position)}: {error}. The last "
                f"checkpoint that is whole: {last}."
            )
            if self.on_write_error == "raise":
                raise OSError(error.errno, message) from error
            warnings.warn(message, stacklevel=2)

    def _restore_within_epoch(self) -> None:
        different = training_state.differences(self.model, self._manifest["arrays"], metrics=True)
        if different:
            raise ValueError(f"The checkpoint has other metrics than the model: {different}")
        training_state.assign(self.model, self._arrays, metrics=True)
        callback_state.assign(self.callbacks, self._manifest["callbacks"], self._arrays)


class _EpochStart:
    """Takes the place of a model's training step until an epoch's first new step.

    Steps that were trained before a restart are drawn from the data and not trained.

    Args:
        resume: The callback.
        train: The training step.
        skip: How many steps to skip.
    """

    def __init__(self, resume: Resume, train: Any, skip: int):
        self.resume, self.train, self.skip = resume, train, skip
        self._skips = skip > 0
        self._logs = None

    def __call__(self, iterator: Any) -> Any:
        model = self.resume.model
        if self._logs is None:
            self._require_new(iterator)
        if self.skip > 0:
            return self._skipped(iterator, model.steps_per_execution)
        model.train_function = self.train
        if self._skips:
            # Callbacks that see each batch may have counted the skipped ones.
            self.resume._restore_within_epoch()
        self.resume._arrays = None  # as large as the model
        return self.train(iterator)

    def _skipped(self, iterator: Any, steps: int) -> Any:
        self.skip -= steps
        if self._logs is None:
            # A real step makes the metrics' variables; then everything is restored.
            self.train(iterator)
            self.resume._restore_within_epoch()
            self._logs = self.resume.model.get_metrics_result()
            return self._logs
        for _ in range(steps):
            next(iterator, None)
        return self._logs

    def _require_new(self, iterator: Any) -> None:
        if self.resume._iterator() is iterator:
            raise ValueError(
                "Resume needs data that begin anew in each epoch, so that a restart finds its "
                "place. With steps_per_epoch=n they go on where the last epoch ended: leave it "
                "out, and give dataset.take(n) for shorter epochs, without repeat()."
            )
        self.resume._iterator = weakref.ref(iterator)
