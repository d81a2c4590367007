"""Teacher forms: how a teacher may run, and which of them does it best on this device.

`"as_given"` is the model itself, `"folded"` the model with its batch normalizations in the layers
before them, and the name of a dtype a folded copy that computes in it.
"""

import contextlib
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from modreduce_keras.distillers.backend import tensorflow as backend

AUTO, AS_GIVEN, FOLDED = "auto", "as_given", "folded"
LOWER = ("bfloat16", "float16")
EQUAL, CLOSE = 1e-5, 0.05
"""How far outputs may be off, as a part of the largest one: folded, and in a lower precision."""
MOVE, MOST = 1e-6, 1e-3
"""A deep model's own rounding can grow beyond `EQUAL`. Folded outputs may also be as far off as the
outputs as given are when the inputs move by `MOVE` of themselves, but never further than `MOST`."""
_ROUNDS = 3
_WORTH = 0.9
"""A lower precision has to be this much faster."""
_fastest: dict[Any, str] = {}
"""What was the fastest in this process, by the model, the batch and the devices."""


def choose(
    teacher: Any,
    x: Any,
    seen: Mapping[str, Any],
    candidates: Sequence[Sequence[str]],
    *,
    jit_compile: bool,
) -> bool:
    """Lets each model of a teacher run in the first form, or the fastest, that is close to it.

    Models run as given where they fail, in a form or at all: the step says why.

    Args:
        teacher: The `LiveTeacher`.
        x: The inputs of a batch.
        seen: What each student sees of them.
        candidates: Forms of each model to try.
        jit_compile: Whether XLA compiles the steps.

    Returns:
        Whether the models could run.
    """
    trial = _Trial(teacher, x, seen, jit_compile)
    try:
        trial.begin()
    except Exception:
        return False
    for index, tried in enumerate(candidates):
        trial.choose(index, tried)
    return True


def require_finite(teacher: Any, x: Any, seen: Mapping[str, Any], dtype: str) -> None:
    """Raises if a teacher's outputs overflow in a lower precision, and as given do not.

    Args:
        teacher: The `LiveTeacher`, which runs in that precision.
        x: The inputs of a batch.
        seen: What each student sees of them.
        dtype: The precision.

    Raises:
        ValueError: If an output is finite as given alone.
    """
    forms, trial = teacher.forms, _Trial(teacher, x, seen, False)
    try:
        trial.begin()
        teacher.run_as(forms)
        own = trial.run()
    except Exception:
        return  # the step says why
    finally:
        teacher.run_as(forms)
    if difference(trial.expected, own) == math.inf and math.isfinite(_largest(trial.expected)):
        raise ValueError(
            f"The outputs of the teacher overflow in {dtype}: as given the largest is "
            f"{_largest(trial.expected):.3g} on the first batch, and in {dtype} some are not "
            "finite. teacher_dtype='bfloat16' has the range of float32, and 'auto' takes what is "
            f"fast and close. Received: teacher_dtype={dtype!r}"
        )


class _Trial:
    """Runs the models of a teacher in several forms on one batch."""

    def __init__(self, teacher: Any, x: Any, seen: Mapping[str, Any], jit_compile: bool) -> None:
        self.teacher, self.x, self.seen, self.jit_compile = teacher, x, seen, jit_compile
        self.forms = [AS_GIVEN] * len(teacher.models)
        self.expected: Any = None
        self._sensitivity: list[float] | None = None

    def begin(self) -> None:
        """Runs the models as given."""
        self.teacher.run_as(self.forms)
        self.expected = self.run()

    def choose(self, index: int, tried: Sequence[str]) -> None:
        """Lets one model run in the first form that is close, or in the fastest of these."""
        key = _key(self.teacher, index, self.x, tried, self.jit_compile)
        known = [_fastest[key]] if key in _fastest else []
        close = [form for form in known if self._is_close(index, form)]
        if not close:
            close = [form for form in tried if self._is_close(index, form)]
            if close and set(tried) & set(LOWER):
                close = self._measured(index, close)
                if close:
                    _fastest[key] = close[0]
        if close:
            self.forms[index] = close[0]
        self.teacher.run_as(self.forms)

    def _outputs(self, x: Any, seen: Any) -> Any:
        return self.teacher.outputs_for(x, seen, training=False)

    def run(self, *inputs: Any) -> Any:
        """Returns the outputs of the teacher as it runs now, for its inputs or others like them."""
        with _unnoticed():
            outputs = self._outputs(*(inputs or (self.x, self.seen)))
            return keras.tree.map_structure(ops.convert_to_numpy, outputs)

    def _run_as(self, index: int, form: str) -> None:
        self.teacher.run_as([*self.forms[:index], form, *self.forms[index + 1 :]])

    def _is_close(self, index: int, form: str) -> bool:
        try:
            self._run_as(index, form)
            off = differences(self.expected, self.run())
            if form != FOLDED:
                return max(off, default=0.0) <= CLOSE
            if max(off, default=0.0) <= EQUAL:
                return True
            pairs = zip(off, self._own_differences(), strict=True)
            return all(one <= max(EQUAL, own) for one, own in pairs)
        except Exception:
            return False

    def _own_differences(self) -> list[float]:
        """Returns how far each output as given is off when the inputs move by `MOVE`.

        At most `MOST`, and nothing for one that is not finite then.
        """
        if self._sensitivity is None:
            self.teacher.run_as([AS_GIVEN] * len(self.forms))
            moved = self.run(*keras.tree.map_structure(_moved, (self.x, self.seen)))
            own = differences(self.expected, moved)
            self._sensitivity = [min(MOST, one) if math.isfinite(one) else 0.0 for one in own]
        return self._sensitivity

    def _measured(self, index: int, close: Sequence[str]) -> list[str]:
        """Returns the fastest of forms, in a list; an empty one where none can be compiled."""
        steps = {}
        contenders = list(dict.fromkeys([*([] if FOLDED in close else [AS_GIVEN]), *close]))
        if len(contenders) == 1:
            return contenders
        for form in contenders:
            self._run_as(index, form)
            step = backend.compiled(self._outputs, self.x, self.seen, jit_compile=self.jit_compile)
            with contextlib.suppress(Exception):
                step()  # is traced as the teacher runs now
                steps[form] = step
        return [_fastest_of(steps)] if steps else []


@contextlib.contextmanager
def _unnoticed() -> Iterator[None]:
    """Runs models eagerly and exactly; no state changes, and nothing is said."""
    with (
        backend.outside_of_graphs(),
        backend.exact_float32(),
        warnings.catch_warnings(),
        keras.StatelessScope(),
    ):
        warnings.simplefilter("ignore")
        yield


def difference(expected: Any, received: Any) -> float:
    """Returns how far arrays are off, as a part of the largest number of each.

    Args:
        expected: Arrays in any structure.
        received: Others in the same one; infinitely far off in another one.
    """
    return max(differences(expected, received), default=0.0)


def differences(expected: Any, received: Any) -> list[float]:
    """Returns how far each array is off, as `difference` tells it."""
    pairs = [keras.tree.flatten(side) for side in (expected, received)]
    keras.tree.assert_same_structure(expected, received)
    return [_difference(*pair) for pair in zip(*pairs, strict=True)]


def _moved(tensor: Any) -> Any:
    """Returns floats moved by a part `MOVE` of themselves, up or down; others as they are."""
    array = None if tensor is None else ops.convert_to_numpy(tensor)
    if array is None or array.dtype.kind != "f":
        return tensor
    signs = np.random.default_rng(0).choice((-1.0, 1.0), array.shape)
    return ops.convert_to_tensor((array * (1 + MOVE * signs)).astype(array.dtype))


def _largest(arrays: Any) -> float:
    """Returns the largest absolute number; not finite where one is not."""
    floats = [one for one in keras.tree.flatten(arrays) if one.dtype.kind in "fV"]
    return max((float(np.abs(one.astype("float64")).max(initial=0.0)) for one in floats), default=0)


def _difference(expected: np.ndarray, received: np.ndarray) -> float:
    if expected.shape != received.shape:
        return np.inf
    if expected.dtype.kind not in "fV":
        return 0.0 if np.array_equal(expected, received) else np.inf
    one, other = (np.asarray(array, "float64") for array in (expected, received))
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        return np.inf
    off = np.max(np.abs(one - other), initial=0.0)
    return float(off / max(np.max(np.abs(one), initial=0.0), 1e-30)) if off else 0.0


def _key(teacher: Any, index: int, x: Any, tried: Sequence[str], jit_compile: bool) -> Any:
    model = teacher.models[index]
    shapes = tuple((v.shape, str(v.dtype)) for v in model.variables)
    leaves = [leaf for leaf in keras.tree.flatten(x) if leaf is not None]
    batch = tuple((tuple(leaf.shape), str(leaf.dtype)) for leaf in leaves)
    taps = (tuple(teacher.reader.taps), tuple(teacher.reader.outputs))
    how = (model.dtype_policy.name, tuple(tried), jit_compile)
    return shapes, batch, taps, how, backend.device_names()


def _fastest_of(steps: Mapping[str, Callable[[], Any]]) -> str:
    """Returns the form that runs fastest; a lower precision only where it is worth it."""
    times: dict[str, list[float]] = {form: [] for form in steps}
    for _ in range(_ROUNDS):
        for form, step in steps.items():
            begin = time.perf_counter()
            ops.convert_to_numpy(keras.tree.flatten(step())[0])  # waits for the device
            times[form].append(time.perf_counter() - begin)
    best = {form: min(own) * (1.0 if form in LOWER else _WORTH) for form, own in times.items()}
    return min(best, key=lambda form: best[form])


def described(forms: Mapping[str, str]) -> str:
    """Returns what was chosen, in one line.

    Args:
        forms: By the teacher's name.
    """
    said = {AS_GIVEN: "runs as given", FOLDED: "runs in its own precision, folded"}
    parts = [f"{name} {said.get(form, f'runs folded in {form}')}" for name, form in forms.items()]
    return f"teacher_dtype='auto': {', '.join(parts)}"
