"""Inputs of a distiller: what of a batch the students see, what the teacher, and which samples."""

from collections.abc import Callable, Sequence
from typing import Any

from modreduce_keras.data.index import split_index

View = str | Callable[[Any], Any] | None


class Inputs:
    """Splits the `x` of a batch.

    Args:
        teacher_input: What the teacher sees: a function of the inputs, the key of the inputs that
            is the teacher's alone, or `None` for what the students see. A list of those for
            several teachers.

    Raises:
        TypeError: If something else came.
    """

    def __init__(self, teacher_input: View | Sequence[View]):
        self.views = list(teacher_input) if isinstance(teacher_input, (list, tuple)) else None
        for view in self.views if self.views is not None else [teacher_input]:
            if not (view is None or isinstance(view, str) or callable(view)):
                raise TypeError(
                    "teacher_input must be a function of the inputs, such as a Keras layer, or "
                    f"a key of the inputs. Received: {view!r}"
                )
        self._view = teacher_input
        self._keys = {v for v in self.views or [teacher_input] if isinstance(v, str)}

    def index(self, x: Any) -> Any:
        """Returns the samples' places in the training data, or `None` if they are not there."""
        return split_index(x)[1]

    def students(self, x: Any) -> Any:
        """Returns what the students see: the inputs without what is the teacher's alone."""
        x, _ = split_index(x)
        if not (self._keys and isinstance(x, dict) and self._keys & set(x)):
            return x
        rest = {key: value for key, value in x.items() if key not in self._keys}
        return next(iter(rest.values())) if len(rest) == 1 else rest

    def teacher(self, x: Any) -> Any:
        """Returns what the teacher sees; a list of that for several teachers with own views.

        Raises:
            ValueError: If the inputs do not have the teacher's key.
        """
        inputs, _ = split_index(x)
        if self.views is not None:
            return [self._seen(view, inputs, x) for view in self.views]
        return self._seen(self._view, inputs, x)

    def _seen(self, view: View, inputs: Any, x: Any) -> Any:
        if view is None:
            return self.students(x)
        if callable(view):
            return view(inputs)
        if isinstance(inputs, dict) and view in inputs:
            return inputs[view]
        received = f"a dict with the keys {list(inputs)}" if isinstance(inputs, dict) else inputs
        raise ValueError(
            f"teacher_input={view!r} is a key of the inputs, so x must be a dict that has it. "
            f"Received: {received}"
        )
