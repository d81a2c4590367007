"""find_student: searches a family for the best student within a budget."""

import inspect
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from modreduce_keras.arguments import require_integer
from modreduce_keras.batches import may_have_labels
from modreduce_keras.calls import shown, stacklevel_of_user
from modreduce_keras.distillers import Distiller
from modreduce_keras.distillers.optimizers import copy_of
from modreduce_keras.tuning.candidates import (
    Candidate,
    Family,
    drawn,
    first_round,
    made_by,
    measured,
    require_budget,
)
from modreduce_keras.tuning.found import FoundStudents
from modreduce_keras.tuning.objective import resolve
from modreduce_keras.tuning.search import Search

CANDIDATE = "candidate"
_VALIDATION = "val_"


def find_student(
    teacher: Any,
    family: Family,
    *,
    budget: Mapping[str, float],
    data: Any,
    validation_data: Any,
    directory: str | Path,
    knowledge: Any = None,
    optimizer: Any = "adam",
    loss: Any = None,
    metrics: Any = "default",
    objective: str = "val_loss",
    direction: str | None = None,
    candidates: int = 30,
    epochs: int = 9,
    factor: int = 3,
    batch_size: int = 64,
    threads: int = 1,
    seed: int = 0,
    name: str = "find_student",
    overwrite: bool = False,
) -> FoundStudents:
    """Searches a family of students for the best one within a budget.

    First, students are drawn from the family and measured without training: multiply-adds, size of
    the TFLite file (float32), time of one sample in LiteRT. Those over the budget are rejected. The
    others are distilled by KerasTuner's Hyperband: many for a few epochs, the best of them for
    longer. With up to 9 epochs, Hyperband trains 17 students; if there are fewer than 9, all are
    trained for all epochs.

    The family is a function of KerasTuner's `hp`, which may vary anything:

        def family(hp):                                     # width, depth and resolution
            space = mr.tuning.Space(hp)
            size = hp.Choice("resolution", [14, 28])
            inner = mr.models.get(
                "convnet", num_classes=10, input_shape=(size, size, 1),
                widths=space.width(4, 32, stages=hp.Int("depth", 1, 3)),
            )
            inputs = keras.Input((28, 28, 1))
            return keras.Model(inputs, inner(keras.layers.Resizing(size, size)(inputs)))

    An interrupted search continues where it stopped; see `Search`.

    Args:
        teacher: The trained model, as for `mr.Distiller`.
        family: Function of `hp` that returns a new, built student with logits.
        budget: The largest costs of a student:
            `{"kib": 200, "milliseconds": 2.0, "multiply_adds": 5e6}`, or some of these.
            Milliseconds are measured on this machine.
        data: What `distiller.fit` takes: a dataset, or `(x, y)`.
        validation_data: What the students are ranked on, as for `fit`.
        directory: Folder of all searches.
        knowledge: What students learn from the teacher; see `mr.Distiller`. Defaults to `None`: as
            in `mr.Distiller`.
        optimizer: Optimizer of each training run; it is copied. Defaults to `"adam"`.
        loss: Loss on the labels, or `None`, the default, to learn only from the teacher.
        metrics: Metrics by name; they do not affect the ranking unless one is the objective.
            Defaults to `"default"`: the accuracy, if `data` and `validation_data` have labels.
        objective: Validation value by which students are ranked. Defaults to `"val_loss"`, the
            training loss on the validation data, including the distance to the teacher.
            `"val_accuracy"` needs labels.
        direction: As for `Search`. Defaults to `None`.
        candidates: How many students are drawn from the family. Defaults to 30.
        epochs: Largest number of epochs for a student. Defaults to 9.
        factor: In each round of Hyperband, one of this number of students continues. Defaults to 3.
        batch_size: Batch size for arrays. Defaults to 64.
        threads: Number of threads of LiteRT. Defaults to 1.
        seed: Seed of the drawn students and of the search. Defaults to 0.
        name: Folder of this search in `directory`. Defaults to `"find_student"`.
        overwrite: Whether to start again if there is a search with this name. Defaults to `False`.

    Returns:
        `FoundStudents`: `.student` is the best student, trained; `.rows` has all students with
        their costs, and why some were rejected; `.pareto()`, and `.plot("front.png", "kib")`.

    Raises:
        TypeError: If `family` is not a function of `hp` that returns a built Keras model, or
            `teacher` is a function.
        ValueError: If the budget or another argument is out of range, or no student of the family
            is within the budget.
        SearchError: If no training was completed.

    Example:
        >>> import tempfile, keras, numpy as np, modreduce_keras as mr
        >>> teacher = mr.models.get("convnet", num_classes=3, widths=(16,), input_shape=(8, 8, 1))
        >>> def family(hp):
        ...     width = hp.Choice("width", [2, 4, 64])
        ...     return mr.models.get(
        ...         "convnet", num_classes=3, widths=(width,), input_shape=(8, 8, 1)
        ...     )
        >>> x, y = np.ones((8, 8, 8, 1), "float32"), np.arange(8) % 3
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     found = find_student(
        ...         teacher, family, budget={"multiply_adds": 1000}, data=(x, y),
        ...         validation_data=(x, y), directory=folder, epochs=1,
        ...     )
        >>> [(row["width"], row["refused"]) for row in found.rows if row["refused"]]
        [(64, 'multiply_adds 9408, over 1000')]

    Reference:
        Li et al., Hyperband: A Novel Bandit-Based Approach to Hyperparameter Optimization, 2018.
    """
    limits = require_budget(budget)
    _require_family(teacher, family)
    _require_on_validation(objective, direction)
    metrics = _metrics(metrics, data, validation_data)
    numbers = {"candidates": candidates, "epochs": epochs, "threads": threads}
    _require_numbers(numbers, factor, seed)
    values = drawn(family, candidates, seed)
    several = [measured(family, own, limits, threads) for own in values]
    within = _within(several, limits)

    def build(hp: Any) -> Distiller:
        chosen = hp.Choice(CANDIDATE, within, default=within[0], ordered=False)
        student = made_by(family, several[chosen].values)
        distiller = Distiller(student=student, teacher=teacher, knowledge=knowledge)
        distiller.compile(copy_of(optimizer), loss, metrics=metrics, evaluate_knowledge=True)
        return distiller

    tuner, length = _tuner(len(within), epochs, factor)
    search = Search(
        build,
        objective=objective,
        direction=direction,
        directory=directory,
        name=name,
        overwrite=overwrite,
        seed=seed,
        **tuner,
    )
    are_arrays = isinstance(data, tuple)
    given = data if are_arrays else (data,)
    size = {"batch_size": batch_size} if are_arrays else {}
    search.run(*given, validation_data=validation_data, verbose=0, **size, **length)
    return FoundStudents(
        several,
        _scores(search),
        search.best_student(),
        objective=search.objective.name,
        direction=search.objective.direction,
        budget=limits,
    )


def _require_numbers(positive: Mapping[str, Any], factor: Any, seed: Any) -> None:
    for argument, value in positive.items():
        require_integer(argument, value)
    require_integer("factor", factor, least=2)
    require_integer("seed", seed, least=0)


def _require_family(teacher: Any, family: Any) -> None:
    if callable(family) and not isinstance(family, keras.Layer) and not inspect.isroutine(teacher):
        return
    raise TypeError(
        "teacher is the trained model, and family a function of hp that returns a built student: "
        "mr.tuning.find_student(teacher, family, ...). Received: "
        f"teacher={shown(teacher)}, family={shown(family)}"
    )


def _require_on_validation(objective: Any, direction: str | None) -> None:
    name = resolve(objective, direction).name
    if not name.startswith(_VALIDATION):
        raise ValueError(
            "objective must be a value on the validation data, on which students are ranked: "
            f"objective='{_VALIDATION}{name}'. Received: objective={name!r}"
        )


def _metrics(given: Any, *several: Any) -> list[Any] | None:
    """Returns the metrics to compile: by default the accuracy where all data have labels."""
    if isinstance(given, str) and given == "default":
        return ["accuracy"] if all(map(may_have_labels, several)) else None
    return list(given or ()) or None


def _within(several: list[Candidate], limits: Mapping[str, float]) -> list[int]:
    """Returns the indices of the students within a budget; at least one."""
    within = [index for index, one in enumerate(several) if not one.over]
    if not within:
        told = "; ".join(f"{one.values}: {one.over}" for one in several[:3])
        raise ValueError(
            f"No student of the family is within the budget {dict(limits)}, of {len(several)} that "
            f"were measured: raise it, or let the family have smaller ones. Received: {told}"
        )
    if len(within) == 1:
        warnings.warn(
            "Only one student of the family is within the budget, so there is nothing to choose "
            f"from: {several[within[0]].values}",
            stacklevel=stacklevel_of_user(),
        )
    return within


def _tuner(students: int, epochs: int, factor: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns arguments of `Search` and of `run`: Hyperband, or each student for all epochs."""
    if epochs >= factor and students >= first_round(epochs, factor):
        return {"tuner": "hyperband", "max_epochs": epochs, "factor": factor}, {}
    return {"tuner": "grid", "max_trials": students}, {"epochs": epochs}


def _scores(search: Search) -> dict[int, tuple[float, int]]:
    """Returns the best score of each candidate, and the epochs of that training."""
    sign = 1.0 if search.objective.direction == "max" else -1.0
    found: dict[int, tuple[float, int]] = {}
    for row in search.results().completed():
        index, score = row[CANDIDATE], row["score"]
        if index not in found or sign * score > sign * found[index][0]:
            found[index] = (score, row["epoch"])
    return found
