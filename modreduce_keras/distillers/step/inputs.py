"""Inputs of a distiller: splits a batch into the students' inputs, the teacher's, and the index."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras

from modreduce_keras.batches import split_index
from modreduce_keras.held import Held

View = str | Callable[[Any], Any] | None


class Inputs:
    """Splits the `x` of a batch.

    Args:
        teacher_input: What the teacher sees: a function of the inputs, a key of the inputs (the
            teacher's alone, unless the students declare an input of that name), or `None` for what
            the students see. A list of those for several teachers.
        student_inputs: The same for each student, by name; empty where all see the same.

    Raises:
        TypeError: If it has another type.
    """

    def __init__(
        self,
        teacher_input: View | Sequence[View] = None,
        student_inputs: Mapping[str, View] | None = None,
    ):
        self.views = list(teacher_input) if isinstance(teacher_input, (list, tuple)) else None
        self.own = dict(student_inputs or {})
        teachers = self.views if self.views is not None else [teacher_input]
        for side, views in (("teacher_input", teachers), ("student_inputs", self.own.values())):
            for view in views:
                if not (view is None or isinstance(view, str) or callable(view)):
                    raise TypeError(
                        f"{side} must be a function of the inputs, such as a Keras layer, or "
                        f"a key of the inputs. Received: {view!r}"
                    )
        self._view: Any = teacher_input
        self._keys = {view for view in teachers if isinstance(view, str)}
        self._by_name = False

    def leave_out(self, keys: Iterable[str], *, by_name: bool) -> None:
        """Keeps keys of the inputs that no model takes, such as masks, from the models.

        Args:
            keys: The keys.
            by_name: Whether models take what is left as a dict, be it of one.
        """
        self._keys.update(keys)
        self._by_name = by_name

    def share(self, keys: Iterable[str]) -> None:
        """Leaves keys of the inputs to the students though the teacher sees them too."""
        self._keys.difference_update(keys)

    @property
    def teacher_is_apart(self) -> bool:
        """Whether the teacher sees something other than the students."""
        return self._view is not None

    def index(self, x: Any) -> Any:
        """Returns the index of each sample in the training data, or `None` if there is none."""
        return split_index(x)[1]

    def inputs(self, x: Any) -> Any:
        """Returns the inputs of a batch as they were given, without the samples' index."""
        return split_index(x)[0]

    def students(self, x: Any) -> Any:
        """Returns what the students see: without what is the teacher's or a mask's alone."""
        x, _ = split_index(x)
        if not (self._keys and isinstance(x, dict) and self._keys & set(x)):
            return x
        rest = {key: value for key, value in x.items() if key not in self._keys}
        alone = len(rest) == 1 and not self._by_name
        return next(iter(rest.values())) if alone else rest

    def student(self, name: str, x: Any, training: bool) -> Any:
        """Returns what one student sees. Layers that augment do so in training only.

        Data for evaluation may lack the keys of the students' own inputs: all see the same then.

        Raises:
            ValueError: If the inputs of a training step do not have the student's key.
        """
        view: Any = self.own.get(name)
        shared = self.students(x)
        if view is None:
            return shared
        if callable(view):
            if not training:
                return _in_inference(view, shared)
            layer = isinstance(view, keras.layers.Layer)
            knows = layer and "training" in inspect.signature(view.call).parameters
            return view(shared, training=True) if knows else view(shared)
        if isinstance(shared, dict) and view in shared:
            return shared[view]
        if training:
            raise ValueError(
                f"student_inputs={{{name!r}: {view!r}}} is a key of the inputs, so x must be a "
                f"dict that has it. Received: {_described(shared)}"
            )
        return shared

    def teacher_of(self, name: str, x: Any, seen: Any, training: bool = True) -> Any:
        """Returns what the teacher sees for one student, who sees `seen`."""
        follows = self._view is None and self.own.get(name) is not None
        return seen if follows else self.teacher(x, training)

    @property
    def teacher_follows_students(self) -> bool:
        """Whether the teacher sees something else for each student."""
        return self._view is None and any(view is not None for view in self.own.values())

    def key_of(self, name: str) -> str | None:
        """Returns the key of the inputs that one student sees, if it is one."""
        view = self.own.get(name)
        return view if isinstance(view, str) else None

    def part(self, name: str | None, values: Any) -> Any:
        """Returns what is one student's of labels, weights or an index.

        Args:
            name: The student's.
            values: One for all students; or a dict by the keys of the inputs that they see.
        """
        key = None if name is None else self.key_of(name)
        return values[key] if key is not None and self._has_parts(values) else values

    def each_part(self, function: Callable[[Any], Any], values: Any) -> Any:
        """Returns what a function makes of labels: of those of all, or of each student's."""
        if not self._has_parts(values):
            return function(values)
        return {key: function(own) for key, own in values.items()}

    def _has_parts(self, values: Any) -> bool:
        """Returns whether there is a part for each student, by the keys that they see."""
        keys = set(self.own.values())
        return bool(keys) and isinstance(values, Mapping) and set(values) == keys

    @property
    def students_have_keys(self) -> bool:
        """Whether each student sees a key of the inputs, and the teacher what the students see."""
        of_all = all(isinstance(view, str) for view in self.own.values())
        return self.teacher_follows_students and of_all

    def teacher(self, x: Any, training: bool = True) -> Any:
        """Returns what the teacher sees; a list of that for several teachers with own views.

        Args:
            x: The inputs of a batch.
            training: Whether it is a training step; layers augment in those only.

        Raises:
            ValueError: If the inputs do not have the teacher's key.
        """
        inputs, _ = split_index(x)
        if self.views is not None:
            return [self._seen(view, inputs, x, training) for view in self.views]
        return self._seen(self._view, inputs, x, training)

    def _seen(self, view: View, inputs: Any, x: Any, training: bool) -> Any:
        if view is None:
            return self.students(x)
        if callable(view):
            return view(inputs) if training else _in_inference(view, inputs)
        if isinstance(inputs, dict) and view in inputs:
            return inputs[view]
        remedy = "" if training else " (compile(evaluate_knowledge=False) evaluates without it.)"
        raise ValueError(
            f"teacher_input={view!r} is a key of the inputs, so x must be a dict that has it."
            f"{remedy} Received: {_described(inputs)}"
        )


class _Inference(keras.layers.Layer):
    """Calls a function; layers in it run in inference, though nobody tells them."""

    def __init__(self, function: Callable[[Any], Any]):
        super().__init__(name="inference", dtype="float32", autocast=False, trainable=False)
        self._function = Held(function)
        self.built = True

    def call(self, inputs: Any, training: Any = None) -> Any:
        return self._function()(inputs)


def _in_inference(view: Callable[[Any], Any], inputs: Any) -> Any:
    # Layers that augment do so by default, and would draw random numbers that training needs.
    return _Inference(view)(inputs, training=False)


def _described(inputs: Any) -> Any:
    return f"a dict with the keys {list(inputs)}" if isinstance(inputs, dict) else inputs
