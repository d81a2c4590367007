"""The search: a tuner of KerasTuner over distillers, its failures and its best student."""

import math
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import keras_tuner

from modreduce_keras import distribute
from modreduce_keras.arguments import require_bool, require_choice
from modreduce_keras.calls import stacklevel_of_user
from modreduce_keras.distillers import BaseDistiller
from modreduce_keras.keras_internals import retry_queue
from modreduce_keras.tuning import extra, reports
from modreduce_keras.tuning import objective as objectives
from modreduce_keras.tuning.hypermodel import DistillerHyperModel
from modreduce_keras.tuning.reports import SearchError
from modreduce_keras.tuning.results import Results, of_trials

TUNERS = {
    "random": keras_tuner.RandomSearch,
    "bayesian": keras_tuner.BayesianOptimization,
    "hyperband": keras_tuner.Hyperband,
    "grid": keras_tuner.GridSearch,
}
WARN, RAISE = "warn", "raise"
CHIEF, WORKER = "chief", "worker"
TUNER_ID = "KERASTUNER_TUNER_ID"
TAKEN = {
    "hypermodel": "give build",
    "project_name": "say name=",
    "distribution_strategy": "say strategy=",
    "optimizer": "compile the distiller with it in build",
    "loss": "compile the distiller with it in build",
    "metrics": "compile the distiller with them in build",
}


class Search:
    """A search for the hyperparameters that give the best student.

    Each trial builds a distiller, trains it, and keeps the weights of its best epoch by the
    objective. A trial that fails is reported at once; when the search is over, failed trials are a
    warning or an error, and a search in which none was completed is always an error.

    A search of the same name in the same folder continues: it begins with the existing trials,
    does not repeat those that are finished, and runs again the one that was interrupted.

    Several processes can share the trials of a search, as KerasTuner describes it: the same program
    runs with `KERASTUNER_ORACLE_IP` and `KERASTUNER_ORACLE_PORT` in the environment, once with
    `KERASTUNER_TUNER_ID=chief`, which trains nothing, and as often as wanted with other ids; all
    see the same folder. What they say to each other is neither encrypted nor checked: use the
    loopback, or a network you trust. The chief waits for ever for a worker that was killed: end it
    and search again, with several processes or with one; only the interrupted trial is repeated.

    Args:
        build: Function of KerasTuner's `hp` that returns a compiled distiller, or a
            `DistillerHyperModel` (where more can be said, such as how to pretrain). It must use
            one teacher, made outside of it; see `DistillerHyperModel`.
        tuner: `"random"`, `"bayesian"`, `"hyperband"` or `"grid"`, or a subclass of
            `keras_tuner.Tuner`. Defaults to `"random"`.
        objective: Name in the logs of a student's metric: `"val_accuracy"`, with several students
            `"val_response/accuracy"`; or a `keras_tuner.Objective`. Defaults to `"val_accuracy"`.
        direction: `"max"` or `"min"`. Defaults to `None`: accuracies and the like are to be large,
            losses and errors small; what has another name needs its direction.
        directory: Folder of all searches.
        name: Folder of this search in it. Defaults to `"search"`.
        strategy: Under which each trial is built and trained: what `mr.distribute.strategy` takes,
            or `None` for Keras' default. Make the teacher in its scope too.
        failed_trials: What a search does at its end where some of its trials failed: `"warn"` or
            `"raise"`. Defaults to `"warn"`.
        overwrite: Whether to delete what an earlier search of the name has found and to begin
            anew. Defaults to `False`.
        **options: Arguments of the tuner: `max_trials`, `seed`, `executions_per_trial` (the score
            is then the mean of several trainings, the student that of the best),
            `max_retries_per_trial`, `max_consecutive_failed_trials` (3: so many in a row end the
            search), `max_epochs` and `factor` of `"hyperband"`.

    Raises:
        TypeError: If `build`, `tuner` or `objective` is something else, or what `build` returns is.
        ValueError: If another argument is something else.
        ImportError: If KerasTuner, or what it needs, is missing.

    Example:
        >>> import tempfile, keras, numpy as np, modreduce_keras as mr
        >>> teacher = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
        >>> def build(hp):
        ...     student = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
        ...     kd = mr.losses.KD(temperature=mr.tuning.Space(hp).temperature())
        ...     distiller = mr.Distiller(
        ...         student=student, teacher=teacher, knowledge=[mr.Response(kd)]
        ...     )
        ...     loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        ...     distiller.compile("sgd", loss, metrics=["accuracy"])
        ...     return distiller
        >>> x, y = np.ones((6, 2), "float32"), np.arange(6) % 3
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     search = Search(build, directory=folder, max_trials=1, seed=1)
        ...     results = search.run(x, y, validation_data=(x, y), verbose=0)
        ...     student = search.best_student()
        >>> student.output_shape, results.rows[0]["status"], len(results.rows)
        ((None, 3), 'COMPLETED', 1)
    """

    def __init__(
        self,
        build: Callable[[Any], BaseDistiller] | DistillerHyperModel,
        *,
        tuner: str | type[keras_tuner.Tuner] = "random",
        objective: str | keras_tuner.Objective = "val_accuracy",
        direction: str | None = None,
        directory: str | Path,
        name: str = "search",
        strategy: Any = None,
        failed_trials: str = WARN,
        overwrite: bool = False,
        **options: Any,
    ) -> None:
        self.objective = objectives.resolve(objective, direction)
        self._at_failure = require_choice("failed_trials", failed_trials, (WARN, RAISE))
        for option in options:
            if option in TAKEN:
                raise ValueError(f"{option} is not an option of Search: {TAKEN[option]}")
        kind = _class_of(tuner)
        if issubclass(kind, keras_tuner.BayesianOptimization):
            extra.require(*extra.BAYESIAN)
        strategy = None if strategy is None else distribute.strategy(strategy)
        if not isinstance(build, DistillerHyperModel):
            build = DistillerHyperModel(build)
        self.hypermodel = build
        self.hypermodel.strategy = strategy
        self.tuner = type(kind.__name__, (reports.Reporting, kind), {})(
            hypermodel=self.hypermodel,
            objective=self.objective,
            directory=_folder(directory),
            project_name=_name(name),
            distribution_strategy=strategy,
            overwrite=require_bool("overwrite", overwrite),
            **options,
        )
        self._go_on(overwrite)
        if _role() == CHIEF:
            # KerasTuner's chief would raise in the thread of a worker's call, and wait for ever.
            self.tuner.oracle.max_consecutive_failed_trials = math.inf

    def _go_on(self, overwrite: bool) -> None:
        """Takes up a search that other processes have run, which KerasTuner would start again."""
        if _role() == WORKER or overwrite:
            return
        oracle, folder = self.tuner.oracle, Path(self.tuner.project_dir)
        mine = folder / f"{self.tuner.tuner_id}.json"
        if (folder / "oracle.json").exists() and not mine.exists():
            oracle.reload()
        # KerasTuner's chief saves a trial that has ended as one that is still running.
        queue = retry_queue(oracle)
        open_ = (reports.RUNNING, reports.INVALID)
        queue[:] = [one for one in queue if oracle.trials[one].status in open_]

    def run(self, *data: Any, **fit_arguments: Any) -> Results | None:
        """Runs all trials that are left, and says which failed.

        Args:
            *data: What `distiller.fit` takes.
            **fit_arguments: What `distiller.fit` takes; `epochs` is for `"hyperband"` to say.

        Returns:
            The results of all trials; `None` in a worker of several processes, as its chief has
            them.

        Raises:
            ValueError: If there is no validation for an objective of validation.
            SearchError: If no trial was completed; if too many failed in a row; if some failed and
                `failed_trials="raise"`. The results of the others are there nevertheless.
        """
        self._require_validation(fit_arguments)
        callbacks = list(keras.tree.flatten(fit_arguments.pop("callbacks", None) or []))
        callbacks.append(objectives.RequireObjective(self.objective.name))
        try:
            self.tuner.search(*data, callbacks=callbacks, **fit_arguments)
        except RuntimeError as error:
            # KerasTuner has no class for it.
            if _role() == WORKER or not reports.too_many_failed(self.tuner.oracle):
                raise
            raise SearchError(
                f"The search has ended early. {self._summary()}", self.failures()
            ) from error
        if _role() == WORKER:
            return None
        self._judge()
        return self.results()

    def _require_validation(self, fit_arguments: dict[str, Any]) -> None:
        given = fit_arguments.get("validation_data") is not None
        given = given or bool(fit_arguments.get("validation_split"))
        if self.objective.name.startswith("val_") and not given:
            raise ValueError(
                f"The objective {self.objective.name!r} needs validation_data= (or "
                f"validation_split=). Received: {sorted(fit_arguments)}"
            )

    def _judge(self) -> None:
        """Warns or raises where trials failed."""
        failures = self.failures()
        none_completed = not any(
            trial.status == reports.COMPLETED for trial in self.tuner.oracle.trials.values()
        )
        if none_completed or (failures and self._at_failure == RAISE):
            raise SearchError(self._summary(), failures)
        if failures:
            warnings.warn(self._summary(), RuntimeWarning, stacklevel=stacklevel_of_user())

    def _summary(self) -> str:
        return reports.summary(self.failures(), len(self.tuner.oracle.trials))

    def failures(self) -> list[reports.Failure]:
        """Returns the trials that failed, each with its `trial`, `values` and `reason`."""
        reports.recall(self.tuner)
        trials = sorted(self.tuner.oracle.trials.items())
        return [reports.failure(trial) for _, trial in trials if reports.failed(trial)]

    def results(self) -> Results:
        """Returns the results of the trials so far, also those of an earlier run."""
        self._require_trials()
        reports.recall(self.tuner)
        return of_trials(self.tuner.oracle)

    def best_hyperparameters(self) -> dict[str, Any]:
        """Returns the values of the best trial by their names.

        Raises:
            SearchError: If no trial has been completed.
        """
        return dict(self._best_trial().hyperparameters.values)

    def best_distiller(self) -> BaseDistiller:
        """Returns the distiller of the best trial with the weights of its best epoch.

        Raises:
            SearchError: If no trial has been completed.
        """
        return self.tuner.load_model(self._best_trial())

    def best_student(self) -> keras.Model:
        """Returns the student of the best trial with the weights of its best epoch.

        Of several students it is the one that the objective names, else the best by validation
        (see `mr.PeerDistiller`).

        Raises:
            SearchError: If no trial has been completed.
        """
        distiller = self.best_distiller()
        named = self.objective.name.removeprefix("val_").rpartition("/")[0]
        if named in distiller.students:
            return distiller.students[named]
        if len(distiller.students) == 1:
            return next(iter(distiller.students.values()))
        return distiller.best_student

    def _require_trials(self) -> None:
        if _role() == WORKER:
            raise RuntimeError(
                "In a search with several processes, the chief has the trials: get results and the "
                "best student there. Received: a call in the worker "
                f"{os.environ[TUNER_ID]!r}"
            )

    def _best_trial(self) -> Any:
        self._require_trials()
        if not self.tuner.oracle.trials:
            raise SearchError(
                "No trial has been run: call search.run(...) first, or take the directory and the "
                "name of an earlier search. Received: a search without trials",
                [],
            )
        trials = self.tuner.oracle.get_best_trials(1)
        if not trials or trials[0].status != reports.COMPLETED:
            raise SearchError("No trial has been completed. " + self._summary(), self.failures())
        return trials[0]


def _class_of(tuner: Any) -> type[keras_tuner.Tuner]:
    if isinstance(tuner, type) and issubclass(tuner, keras_tuner.Tuner):
        return tuner
    if isinstance(tuner, str):
        return TUNERS[require_choice("tuner", tuner, tuple(TUNERS))]
    raise TypeError(
        f"tuner must be one of {list(TUNERS)} or a subclass of keras_tuner.Tuner. "
        f"Received: tuner={tuner!r}"
    )


def _role() -> str | None:
    """Returns what this process is in a search of several, or `None` where it is the only one."""
    if "KERASTUNER_ORACLE_IP" not in os.environ:
        return None
    return CHIEF if CHIEF in os.environ.get(TUNER_ID, "") else WORKER


def _folder(path: Any) -> str:
    if not isinstance(path, (str, Path)) or not str(path) or Path(path).is_file():
        raise ValueError(f"directory must be the path of a folder. Received: directory={path!r}")
    return str(path)


def _name(name: Any) -> str:
    if not isinstance(name, str) or not name or "/" in name:
        raise ValueError(f"name must be the name of a folder. Received: name={name!r}")
    return name
