"""Capacity: whether a student is too small to follow its teacher, or something else is missing."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np

from modreduce_keras.arguments import require_integer, require_number
from modreduce_keras.batches import Batches, split_index, unpack
from modreduce_keras.distillers import checks
from modreduce_keras.distillers.checks import heads
from modreduce_keras.models.kernel_wrapper import count_in_use

STUDENT = "student"
# What counts as much and as little are rules of thumb, of no paper.
FOLLOWS, WIDER, SURE = 0.95, 0.01, 0.05


class StudentGap(NamedTuple):
    """How well a student follows its teacher.

    Attributes:
        name: What it is called.
        parameters: Number of its weights.
        trained: Share of the samples that it was trained on for which it gives the teacher's
            answer.
        held_out: The same of the validation data.
        divergence: Mean of KL(teacher ‖ student) at the temperature, of the samples that it was
            trained on.
    """

    name: str
    parameters: int
    trained: float
    held_out: float
    divergence: float


class CapacityGap(NamedTuple):
    """The gap between a teacher and its students; `print` explains it.

    Attributes:
        parameters: Number of the teacher's weights.
        confidence: Mean probability of the teacher's answer.
        entropy: Mean entropy of the teacher's softmax at the temperature, as a share of the most
            that there can be, log C: 0 where it says no more than a label does.
        students: A `StudentGap` for each, the smallest first.
        gain: How much `trained` grows with each doubling of the parameters, by least squares over
            the students; `None` of one alone.
        assistant: Whether an assistant is worth a try for the smallest student; `None` where that
            cannot be told from one student.
        advice: Why, and what else to do, in words.
    """

    parameters: int
    confidence: float
    entropy: float
    students: tuple[StudentGap, ...]
    gain: float | None
    assistant: bool | None
    advice: str

    def __str__(self) -> str:
        """Returns a sentence for each network, and the advice."""
        lines = [
            f"teacher: {self.parameters:,} parameters, {self.confidence:.1%} sure on average, "
            f"entropy {self.entropy:.1%} of the most there can be"
        ]
        lines += [
            f"{one.name}: {one.parameters:,} parameters, the teacher's answer on {one.trained:.1%} "
            f"of what it was trained on and {one.held_out:.1%} of other data"
            for one in self.students
        ]
        return "\n".join([*lines, self.advice])


def capacity_gap(
    *,
    teacher: keras.Model,
    students: keras.Model | Mapping[str, keras.Model],
    data: Any,
    validation_data: Any,
    temperature: float = 4.0,
    batch_size: int = 256,
) -> CapacityGap:
    """Says whether a trained student is too small for its teacher, so that an assistant may help.

    An assistant of a size in between (`mr.TeacherAssistantChain`) is one more training, and helps
    where the student lacks the capacity to follow its teacher. That shows on the data that it was
    trained on: a student that gives its teacher's answers there, and others elsewhere, lacks data
    instead; if wider students do not follow any better there, it is not the width. No labels are
    needed.

    The advice, for the smallest student, by rules of thumb of ours:

    1. `trained` is at least 95 %: no; it follows where it has learnt.
    2. Students of several sizes, and less than one point of `trained` for each doubling: no.
    3. The teacher's entropy is at most 5 %: no, or not yet; raise the temperature first.
    4. Else yes, worth a try, or `None` for one student alone, of which rule 2 cannot be told.

    It says what to try first, and cannot say what an assistant gains: compare at equal cost.

    Args:
        teacher: A model with logits (batch, ..., classes).
        students: One that was distilled from it, or several of different sizes by name, trained in
            the same way.
        data: What they were trained on, as arrays `x` or `(x, y)`, or a dataset of batches that
            ends; without augmentation. Labels do not count.
        validation_data: Other data of the same kind.
        temperature: Of the softmax whose entropy and divergence are measured, positive. Defaults
            to 4; give that of the distillation.
        batch_size: Of arrays. Defaults to 256.

    Returns:
        A `CapacityGap`.

    Raises:
        TypeError: If a model is none.
        ValueError: If there is no student, the numbers of classes differ, outputs are
            probabilities, or an argument is out of range.

    Example:
        >>> import keras, numpy as np
        >>> def net(seed):
        ...     initializer = keras.initializers.RandomNormal(seed=seed)
        ...     dense = keras.layers.Dense(3, kernel_initializer=initializer)
        ...     return keras.Sequential([keras.Input((4,)), dense])
        >>> x = np.random.default_rng(0).normal(size=(50, 4))
        >>> found = capacity_gap(teacher=net(0), students=net(0), data=x, validation_data=x)
        >>> found.students[0].trained, found.assistant
        (1.0, False)

    Reference:
        Mirzadeh et al., Improved Knowledge Distillation via Teacher Assistant, 2020; Cho and
        Hariharan, On the Efficacy of Knowledge Distillation, 2019, for teachers that students are
        too small for. Agreement is that of Stanton et al., Does Knowledge Distillation Really
        Work?, 2021.
    """
    require_integer("batch_size", batch_size)
    temperature = require_number("temperature", temperature, above=0)
    models = _students(students)
    for role, model in [("teacher", teacher), *((STUDENT, one) for one in models.values())]:
        checks.require_model(model, role)
        heads.require_logits(model, role)
    given = {"data": data, "validation_data": validation_data}
    trained, held_out = (
        _compared(name, one, teacher, models, temperature, batch_size)
        for name, one in given.items()
    )
    found = sorted(
        (
            StudentGap(
                name,
                count_in_use(model),
                trained.agreement[name],
                held_out.agreement[name],
                trained.divergence[name],
            )
            for name, model in models.items()
        ),
        key=lambda one: one.parameters,
    )
    gain = _gain(found)
    return CapacityGap(
        count_in_use(teacher),
        trained.confidence,
        trained.entropy,
        tuple(found),
        gain,
        *_advice(found[0], count_in_use(teacher), trained.entropy, gain),
    )


def _students(given: Any) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        return {STUDENT: given}
    if not given or not all(isinstance(name, str) and name != "teacher" for name in given):
        raise ValueError(
            "students must be a model, or a dict of at least one by names other than 'teacher': "
            f"students={{'narrow': ..., 'wide': ...}}. Received: students={list(given)}"
        )
    return dict(given)


class _Compared(NamedTuple):
    """The teacher's confidence and entropy over some data, and what is of each student."""

    confidence: float
    entropy: float
    agreement: dict[str, float]
    divergence: dict[str, float]


def _compared(
    argument: str,
    data: Any,
    teacher: keras.Model,
    students: Mapping[str, keras.Model],
    temperature: float,
    batch_size: int,
) -> _Compared:
    """Returns the means over the positions of some data."""
    sums: dict[str, float] = {}
    positions = 0

    def add(name: str, values: np.ndarray) -> None:
        sums[name] = sums.get(name, 0.0) + float(values.sum())

    for x in _inputs(argument, data, batch_size):
        logits = _logits(teacher, x)
        positions += len(logits)
        said, soft = logits.argmax(-1), _log_softmax(logits / temperature)
        add("confidence", np.exp(_log_softmax(logits)).max(-1))
        add("entropy", -(np.exp(soft) * soft).sum(-1) / math.log(logits.shape[-1]))
        for name, student in students.items():
            own = _logits(student, x)
            if own.shape != logits.shape:
                raise ValueError(
                    f"The student {name!r} and the teacher must have the same classes. Received: "
                    f"{own.shape[-1]} of the student and {logits.shape[-1]} of the teacher"
                )
            add(f"same {name}", own.argmax(-1) == said)
            add(f"far {name}", (np.exp(soft) * (soft - _log_softmax(own / temperature))).sum(-1))
    if not positions:
        raise ValueError(f"{argument} must have samples. Received: none")
    means = {name: value / positions for name, value in sums.items()}
    return _Compared(
        means["confidence"],
        means["entropy"],
        {name: means[f"same {name}"] for name in students},
        {name: means[f"far {name}"] for name in students},
    )


def _inputs(argument: str, data: Any, batch_size: int) -> Iterator[Any]:
    for batch in Batches(argument, data, batch_size):
        yield split_index(unpack(batch)[0])[0]


def _logits(model: keras.Model, x: Any) -> np.ndarray:
    """Returns the logits of each position, (positions, classes), float64."""
    outputs = keras.tree.map_structure(keras.ops.convert_to_numpy, model(x, training=False))
    if keras.tree.is_nested(outputs) or np.ndim(outputs) < 2 or np.shape(outputs)[-1] < 2:
        shapes = keras.tree.map_structure(np.shape, outputs)
        raise ValueError(
            "capacity_gap needs models with one output of logits (batch, ..., classes), of at "
            f"least two classes. Received: {model.name!r} with output of shape {shapes}"
        )
    return np.asarray(outputs, "float64").reshape(-1, np.shape(outputs)[-1])


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def _gain(found: list[StudentGap]) -> float | None:
    """Returns the slope of the agreement over log2 of the parameters."""
    sizes = np.log2([one.parameters for one in found])
    if len(set(sizes)) < 2:
        return None
    return float(np.polyfit(sizes, [one.trained for one in found], 1)[0])


def _advice(
    one: StudentGap, parameters: int, entropy: float, gain: float | None
) -> tuple[bool | None, str]:
    """Returns whether an assistant is worth a try for a student, and why."""
    if one.trained >= FOLLOWS:
        return False, (
            f"No assistant: {one.name} follows its teacher where it has learnt. It differs on "
            f"{1 - one.held_out:.1%} of other data: give it more of these, also without labels, "
            "or augmentation."
        )
    if gain is not None and gain < WIDER:
        return False, (
            f"No assistant: twice the parameters bring {100 * gain:+z.1f} points of agreement on "
            "the training data, so it is not the size that holds the student back. Train longer, "
            "or at another learning rate."
        )
    if entropy <= SURE:
        return False, (
            "No assistant yet: at this temperature the teacher says little more than a label does. "
            "Raise the temperature first, or compare features."
        )
    middle = round(math.sqrt(one.parameters * parameters))
    if gain is None:
        return None, (
            f"Perhaps an assistant: {one.name} does not follow its teacher even where it has "
            "learnt. Distil students of other widths as well, to tell whether that is its size."
        )
    return True, (
        f"An assistant is worth a try: {one.name} does not follow its teacher even where it has "
        f"learnt, and twice the parameters bring {100 * gain:+z.1f} points. One of about "
        f"{middle:,} parameters is half way: mr.TeacherAssistantChain(teacher=..., "
        "students=[assistant, student])."
    )
