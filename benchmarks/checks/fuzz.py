"""Fuzz: random combinations take two steps eagerly and two in a graph, which have to agree.

A combination is of losses, adapters, aggregators and schedules from the registry, with dtypes,
batch sizes and numbers of classes (`fuzz_combinations.py`). From equal weights, both ways have to
come to the same logs and variables, all finite; or the combination is refused: by a `ValueError` or
`TypeError` that the package itself raises, the same in both. Whatever else happens is a fault, and
is printed with the command that repeats it:

    python -m benchmarks.checks.fuzz --combinations=300
    python -m benchmarks.checks.fuzz --first=17 --combinations=1

The exit status is 1 if there are faults.
"""

import collections
import dataclasses
import sys
import traceback
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags, logging

import modreduce_keras as mr
from benchmarks import common
from benchmarks.checks import fuzz_combinations
from benchmarks.checks.fuzz_combinations import Combination

FLAGS = flags.FLAGS
flags.DEFINE_integer("seed", 0, "Seed of the combinations", lower_bound=0)
flags.DEFINE_integer("first", 0, "The number of the first one", lower_bound=0)
flags.DEFINE_integer("combinations", 300, "How many", lower_bound=1)

PACKAGE = Path(mr.__file__).parent
HELD, REFUSED, FAULT = "held", "refused", "fault"
TOLERANCES = {"float32": 1e-4, "mixed_bfloat16": 2e-2, "mixed_float16": 5e-3}
"""How far graph and eager steps may be apart, as a part of what is compared. A graph leaves casts
out, so they may round differently where layers compute in half precision."""
RESOLUTION = 1e-6
"""How far float32 variables may be apart as a part of their own norm, whatever they moved."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a combination: `HELD`, `REFUSED` or `FAULT`, and what was said."""

    combination: Combination
    verdict: str
    said: str = ""
    at: str = ""
    apart: float = 0.0


class FaultError(Exception):
    """What a combination must not do."""


@dataclasses.dataclass(frozen=True)
class Trained:
    """What two steps have come to.

    Attributes:
        logs: The logs of each step.
        before: The variables before the steps.
        after: And afterwards.
    """

    logs: list[dict[str, float]]
    before: list[np.ndarray]
    after: list[np.ndarray]


def train(combination: Combination, *, eagerly: bool) -> Trained:
    """Builds what a combination says, anew, and takes two steps."""
    keras.backend.clear_session(free_memory=False)
    distiller = fuzz_combinations.build(combination)
    given = fuzz_combinations.compile_arguments(combination)
    distiller.compile(**given, run_eagerly=eagerly)
    batches = fuzz_combinations.batches(combination)
    before = [variable.numpy() for variable in distiller.variables]
    if any(one.pretrains for one in distiller.all_knowledge()):
        data = tf.data.Dataset.from_tensors(batches[0])
        distiller.pretrain(data, optimizer=keras.optimizers.SGD(0.01), verbose=0)
    logs = [distiller.train_on_batch(x, y, return_dict=True) for x, y in batches]
    after = [variable.numpy() for variable in distiller.variables]
    return Trained([{name: float(v) for name, v in one.items()} for one in logs], before, after)


def attempt(combination: Combination, *, eagerly: bool) -> Trained | Exception:
    """Returns what training comes to, or the error that it ends with."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return train(combination, eagerly=eagerly)
    except Exception as error:
        return error


def run(combination: Combination) -> Outcome:
    """Trains a combination both ways and judges."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(combination.policy)
    try:
        eager = attempt(combination, eagerly=True)
        graph = attempt(combination, eagerly=False)
    finally:
        keras.config.set_dtype_policy(policy)
    try:
        if isinstance(eager, Exception):
            require_refusal(eager, graph)
            return Outcome(combination, REFUSED, message(eager), place(eager))
        if isinstance(graph, Exception):
            raise FaultError(f"in a graph only: {named(graph)}") from graph
        apart = require_equal(eager, graph, TOLERANCES[combination.policy])
        return Outcome(combination, HELD, apart=apart)
    except FaultError as fault:
        cause = fault.__cause__
        return Outcome(combination, FAULT, str(fault), place(cause) if cause else "")


def require_refusal(eager: Exception, graph: Any) -> None:
    """Raises unless an error is one that the package raises itself, in a graph as well."""
    if not isinstance(eager, (ValueError, TypeError)) or not all(map(is_own, chain(eager))):
        raise FaultError(f"not an error of the package: {named(eager)}") from eager
    if not isinstance(graph, Exception):
        raise FaultError(f"eagerly only: {named(eager)}") from eager
    if not isinstance(graph, (ValueError, TypeError)) or message(eager) not in str(graph):
        raise FaultError(
            f"another error in a graph: {named(graph)}, eagerly {named(eager)}"
        ) from graph
    advice = "Could not automatically infer"
    if advice in str(eager) or advice in str(graph):
        raise FaultError(f"with Keras' advice to authors of layers: {named(eager)}") from eager


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yields an error, what it was raised from, and so on."""
    while error is not None:
        yield error
        error = error.__cause__


def is_own(error: BaseException) -> bool:
    """Returns whether the package itself raises an error, and neither Keras nor Python in it."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return Path(last.filename).is_relative_to(PACKAGE) and last.line.startswith("raise ")


def message(error: Exception) -> str:
    """Returns what an error says, without what Keras writes around it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if lines and lines[0].startswith("Exception encountered when calling"):
        lines = lines[1:]
    return lines[0].removeprefix("\x1b[1m").removesuffix("\x1b[0m") if lines else ""


def named(error: Exception) -> str:
    return f"{type(error).__name__}: {message(error) or str(error)}"[:300]


def place(error: BaseException) -> str:
    """Returns where an error was raised: the last line of the package on the way."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(PACKAGE)]
    if not own:
        return ""
    return f"{Path(own[-1].filename).relative_to(PACKAGE.parent)}:{own[-1].lineno}"


def require_equal(eager: Trained, graph: Trained, tolerance: float) -> float:
    """Returns how far two trainings are apart; raises if that is too far, or one is not finite."""
    for way, trained in (("eagerly", eager), ("in a graph", graph)):
        lost = [name for logs in trained.logs for name, v in logs.items() if not np.isfinite(v)]
        if lost:
            raise FaultError(f"not finite {way}: {sorted(set(lost))}")
        # Some begin infinite: what the best student has reached.
        pairs = zip(trained.before, trained.after, strict=True)
        if any((np.isfinite(b) & ~np.isfinite(a)).any() for b, a in pairs):
            raise FaultError(f"not finite {way}: variables")
    for value, counterpart in zip(eager.before, graph.before, strict=True):
        if not np.array_equal(value, counterpart, equal_nan=True):
            raise FaultError("the weights at the beginning are not the same")
    apart = 0.0
    for own, other in zip(eager.logs, graph.logs, strict=True):
        if own.keys() != other.keys():
            raise FaultError(f"logs {sorted(own)} eagerly, {sorted(other)} in a graph")
        for name, value in own.items():
            distance = abs(value - other[name]) / max(abs(value), 1e-2)
            if distance > tolerance:
                raise FaultError(f"{name} is {value:.7g} eagerly, {other[name]:.7g} in a graph")
            apart = max(apart, distance)
    (begun, moved), (_, other) = map(_moved, (eager, graph))
    size, distance = np.linalg.norm(moved), np.linalg.norm(moved - other)
    beyond = max(0.0, distance - RESOLUTION * np.linalg.norm(begun)) / max(size, 1e-30)
    if beyond > tolerance:
        raise FaultError(f"the variables move differently in a graph: relative {beyond:.1e}")
    return max(apart, beyond)


def _moved(trained: Trained) -> tuple[np.ndarray, np.ndarray]:
    """Returns the finite numbers of all variables before the steps, and how far they have moved."""
    before, after = (
        np.concatenate([np.asarray(values, "float64").ravel() for values in side])
        for side in (trained.before, trained.after)
    )
    finite = np.isfinite(before) & np.isfinite(after)
    return before[finite], after[finite] - before[finite]


def fuzz(seed: int, first: int, combinations: int) -> Iterator[Outcome]:
    """Yields the outcomes of combinations."""
    for number in range(first, first + combinations):
        yield run(fuzz_combinations.draw(seed, number))


def table(outcomes: Iterable[Outcome]) -> list[str]:
    """Returns the lines of the tables: how many held, what was refused where, and the faults."""
    outcomes = list(outcomes)
    rows = []
    for policy in fuzz_combinations.POLICIES:
        own = [one for one in outcomes if one.combination.policy == policy]
        held = [one.apart for one in own if one.verdict == HELD]
        counted = [sum(one.verdict == verdict for one in own) for verdict in (HELD, REFUSED, FAULT)]
        rows.append([policy, *counted, f"{max(held, default=0.0):.0e}"])
    columns = ["", "held", "refused", "faults", "what held differs at most by"]
    lines = [*common.table(columns, rows), ""]
    refused = collections.defaultdict(list)
    for one in outcomes:
        if one.verdict == REFUSED:
            refused[one.at].append(one.said)
    rows = [[len(said), at, said[0][:120]] for at, said in refused.items()]
    if rows:
        ordered = sorted(rows, key=lambda row: -row[0])
        lines += [*common.table(["refused", "at", "for example"], ordered), ""]
    for one in outcomes:
        if one.verdict == FAULT:
            again = f"--seed={one.combination.seed} --first={one.combination.number}"
            lines += [
                f"FAULT {one.said} ({one.at})",
                f"  python -m benchmarks.checks.fuzz {again} --combinations=1",
                f"  {one.combination.describe()}",
            ]
    return lines


def main(_) -> None:
    logging.set_verbosity(logging.WARNING)
    # Every combination traces a step of its own, which TensorFlow takes for retracing.
    tf.get_logger().setLevel("ERROR")
    outcomes = []
    for outcome in fuzz(FLAGS.seed, FLAGS.first, FLAGS.combinations):
        outcomes.append(outcome)
        if outcome.verdict == FAULT:
            print(f"{outcome.combination.number}: {outcome.said}", flush=True)
    print("\n".join(table(outcomes)))
    sys.exit(any(outcome.verdict == FAULT for outcome in outcomes))


if __name__ == "__main__":
    app.run(main)
