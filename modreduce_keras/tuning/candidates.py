"""Candidates: students of a family, compared with a budget before anything is trained."""

import math
import tempfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import keras
import keras_tuner
import numpy as np

from modreduce_keras.arguments import require_number
from modreduce_keras.evaluation import multiply_adds
from modreduce_keras.export import to_tflite
from modreduce_keras.export.interpreter import TFLiteFile
from modreduce_keras.models.graph import input_specs
from modreduce_keras.pareto import front

KIB, MILLISECONDS, MULTIPLY_ADDS = "kib", "milliseconds", "multiply_adds"
COSTS = (KIB, MILLISECONDS, MULTIPLY_ADDS)
Family = Callable[[keras_tuner.HyperParameters], keras.Model]
_REPEATS, _TRIES = 30, 20


class Candidate(NamedTuple):
    """A student of a family, and its costs.

    Attributes:
        values: Its hyperparameters.
        costs: By name; `None` if not measured because a cheaper measure was already over the
            budget.
        over: Why it is rejected; empty if it is within the budget.
    """

    values: dict[str, Any]
    costs: dict[str, float | None]
    over: str


def require_budget(budget: Any) -> dict[str, float]:
    """Returns a budget, or raises a `ValueError`."""
    if not isinstance(budget, Mapping) or not budget or not set(budget) <= set(COSTS):
        raise ValueError(
            "budget must be a dict with the most that a student may cost, by some of "
            f"{list(COSTS)}: {{'kib': 200, 'multiply_adds': 5e6}}. Received: {budget=}"
        )
    return {name: require_number(f"budget[{name!r}]", budget[name], above=0.0) for name in budget}


def drawn(family: Family, number: int, seed: int) -> list[dict[str, Any]]:
    """Returns the hyperparameters of some students of a family, all different.

    The first are the defaults; all of a family that has no more than `number` students are likely
    to be found.
    """
    known = keras_tuner.HyperParameters()
    family(known)
    found = {_key(known.values): dict(known.values)}
    for attempt in range(number * _TRIES):
        if len(found) >= number or not known.space:
            break
        space = _sampled(known, f"{seed}/{attempt}")
        if _key(space.values) in found:
            continue
        # What depends on other hyperparameters is asked for only when those have their values.
        while family(space) is not None and len(space.space) > len(known.space):
            known, space = space, _sampled(space, f"{seed}/{attempt}")
        found[_key(space.values)] = dict(space.values)
    return list(found.values())


def _sampled(known: keras_tuner.HyperParameters, seed: str) -> keras_tuner.HyperParameters:
    """Returns random values, by a seed, of the hyperparameters of a space that are active."""
    space = known.copy()
    space.values = {}
    for one in space.space:  # those that others depend on come first
        if space.is_active(one):
            space.values[one.name] = one.random_sample(zlib.crc32(f"{seed}/{one.name}".encode()))
    return space


def _key(values: Mapping[str, Any]) -> str:
    return repr(sorted(values.items()))


def made_by(family: Family, values: Mapping[str, Any]) -> keras.Model:
    """Returns a new student of a family."""
    space = keras_tuner.HyperParameters()
    space.values.update(values)
    return family(space)


def measured(
    family: Family, values: dict[str, Any], budget: Mapping[str, float], threads: int
) -> Candidate:
    """Returns a candidate with its costs, the cheapest measure first.

    Args:
        family: The family.
        values: The hyperparameters.
        budget: The most that it may cost.
        threads: That LiteRT runs an operation with.
    """
    student = made_by(family, values)
    if not isinstance(student, keras.Model) or input_specs(student) is None:
        raise TypeError(
            "family must be a function of hp that returns a built student, such as lambda hp: "
            "mr.models.get('convnet', num_classes=10, widths=mr.tuning.Space(hp).width()). "
            f"Received: {student!r}"
        )
    costs: dict[str, float | None] = dict.fromkeys(COSTS)
    over = ""
    with tempfile.TemporaryDirectory() as folder:
        for name, measure in _measures(student, Path(folder), threads, budget):
            costs[name] = measure()
            limit = budget.get(name)
            if limit is not None and costs[name] > limit:  # type: ignore[operator]
                over = f"{name} {costs[name]:g}, over {limit:g}"
                break
    return Candidate(values, costs, over)


def _measures(
    student: keras.Model, folder: Path, threads: int, budget: Mapping[str, float]
) -> list[tuple[str, Callable[[], float | None]]]:
    path = folder / "student.tflite"

    def adds() -> float | None:
        try:
            return float(multiply_adds(student))
        except ValueError:
            if MULTIPLY_ADDS in budget:
                raise
            return None  # of layers that it does not count

    def kib() -> float:
        to_tflite(student, path)
        return path.stat().st_size / 1024

    def milliseconds() -> float:
        return milliseconds_of(student, path, threads)

    return [(MULTIPLY_ADDS, adds), (KIB, kib), (MILLISECONDS, milliseconds)]


def milliseconds_of(student: keras.Model, path: Path, threads: int) -> float:
    """Returns the median time of LiteRT for one sample of a student's file."""
    specs = keras.tree.flatten(input_specs(student))
    file = TFLiteFile(path, threads)
    random = np.random.default_rng(0)
    shapes = {spec.name: (None, *spec.shape[1:]) for spec in specs}
    dtypes = {spec.name: keras.backend.standardize_dtype(spec.dtype) for spec in specs}
    file.bind(shapes, dtypes)
    inputs = {
        name: random.uniform(size=(1, *(size or 1 for size in shape[1:]))).astype(dtypes[name])
        for name, shape in shapes.items()
    }
    return file.milliseconds(inputs, _REPEATS)


def pareto(rows: list[dict[str, Any]], costs: list[str], sign: float) -> list[dict[str, Any]]:
    """Returns the rows than which no other is better in the score and no worse in any cost.

    Args:
        rows: With `"score"` and the costs.
        costs: Names of the costs.
        sign: 1 where more of the score is better, -1 where less is.
    """
    points = [(-sign * row["score"], *(row[name] for name in costs)) for row in rows]
    return [rows[index] for index in front(points)]


def first_round(max_epochs: int, factor: int) -> int:
    """Returns with how many candidates Hyperband begins, in its largest bracket."""
    rounds = 0
    while max_epochs >= factor ** (rounds + 1):
        rounds += 1
    return math.ceil(math.ceil(1 + math.log(max_epochs, factor)) / (rounds + 1) * factor**rounds)
