"""Pairs: which layers of teacher and student are compared if the user names none."""

import math
from typing import Any, NamedTuple

import keras

from modreduce_keras.arguments import require_choice, require_integer
from modreduce_keras.models.attention import SCORES, attentions
from modreduce_keras.models.stages import EMBEDDING, LOGITS, Places
from modreduce_keras.models.tables import Table

KINDS = ("feature", "relation", "response", "attention")
_PLACES = {"relation": EMBEDDING, "response": LOGITS}
_OF_RESOLUTION = 0.25
"""What a factor of two between strides counts, in the unit of the whole depth of a model."""


class Pair(NamedTuple):
    """Two layers to compare.

    Attributes:
        student: Tap of the student.
        teacher: Tap of the teacher.
        student_shape: Of the student's feature for one sample.
        teacher_shape: Of the teacher's.
        why: Why they are a pair.
    """

    student: str
    teacher: str
    student_shape: tuple[int | None, ...] | None
    teacher_shape: tuple[int | None, ...] | None
    why: str


def pair(
    teacher: keras.Model, student: keras.Model, kind: str = "feature", *, every: int | None = None
) -> Table:
    """Proposes which layers of a teacher and a student to compare, and says why.

    Args:
        teacher: A built Keras model of any kind.
        student: Another one.
        kind: `"feature"`, the default: each stage of the student with the stage of the teacher that
            is nearest in relative depth and resolution. Pairs do not cross, and the last stages are
            a pair. `"relation"`: the inputs of the classifiers. `"response"`: the logits.
            `"attention"`: the attention maps, spaced evenly, the last with the last; replace
            `attention_scores` by `attention_logits` for losses that compare those.
        every: Pairs stage or attention map i of the student with number `every` · i of the teacher,
            counted from 1: `every=2` pairs the layers of a 6-layer BERT with layers 2, 4, ... 12 of
            a 12-layer one, as in TinyBERT and `shallower(..., every=2)`. Defaults to `None`: as
            above.

    Returns:
        A table with the columns `student`, `teacher`, `student_shape`, `teacher_shape` and `why`,
        from the first stage to the last. A knowledge with `at="auto"` takes the last row; a hint
        takes the middle one.

    Raises:
        ValueError: If the kind is unknown, or a model does not have such layers, or not enough of
            them; the message names it.

    Example:
        >>> import modreduce_keras as mr
        >>> teacher = mr.models.get("resnet20", num_classes=3)
        >>> student = mr.models.get("resnet8", num_classes=3)
        >>> [(row.student, row.teacher) for row in mr.models.pair(teacher, student)]
        [('stage1', 'stage1'), ('stage2', 'stage2'), ('stage3', 'stage3')]
    """
    require_choice("kind", kind, KINDS)
    if every is not None:
        require_integer("every", every)
        if kind in _PLACES:
            raise ValueError(
                f"every= is a step between stages or attention maps, and {kind!r} compares one "
                f"place of each model. Received: {every=}"
            )
    places = {}
    for role, model in (("student", student), ("teacher", teacher)):
        if not isinstance(model, keras.Model):
            raise TypeError(f"The {role} must be a keras.Model. Received: {model!r}")
        if kind != "attention":
            places[role] = Places(model)
    if kind == "attention":
        rows = _of_attention(student, teacher, every)
    else:
        rows = (
            _of_stages(places, every) if kind == "feature" else [_of_place(places, _PLACES[kind])]
        )
    return Table(rows, ["student", "teacher", "student_shape", "teacher_shape", "why"])


def default_pair(teacher: Any, student: Any, feature: str) -> Pair:
    """Returns the layers whose features a loss compares if the user names none.

    Args:
        teacher: A built Keras model.
        student: Another one.
        feature: `"middle feature maps"`, `"last feature maps"`, `"embedding"` or `"logits"`.

    Raises:
        ValueError: If a model has none; the message says which.
    """
    kinds = {EMBEDDING: "relation", LOGITS: "response"}
    rows = pair(teacher, student, kinds.get(feature, "feature"))
    return rows[(len(rows) - 1) // 2 if feature.startswith("middle") else -1]


def _of_place(places: dict[str, Places], name: str) -> Pair:
    found = {}
    for role, own in places.items():
        try:
            found[role] = own.tap(name), _shape(own, own.find(name))
        except ValueError as error:
            raise ValueError(f"The {role} {own.model.name!r} has no {name!r}: {error}") from error
    (student, one), (teacher, other) = found["student"], found["teacher"]
    why = {EMBEDDING: "what the classifiers read", LOGITS: "the outputs"}[name]
    return Pair(student, teacher, one, other, why)


def _of_attention(student: keras.Model, teacher: keras.Model, every: int | None) -> list[Pair]:
    maps = {"student": attentions(student), "teacher": attentions(teacher)}
    for role, model in (("student", student), ("teacher", teacher)):
        if not maps[role]:
            raise ValueError(f"The {role} {model.name!r} has no attention layer")
    ours, theirs = maps["student"], maps["teacher"]
    _require_enough("attention maps", len(ours), len(theirs), every)
    rows = []
    for i, one in enumerate(ours, 1):
        # Rounded to the nearest one, halves up.
        even = (2 * i * len(theirs) + len(ours)) // (2 * len(ours))
        number = max(1, even) if every is None else i * every
        why = f"number {i} and {number} of {len(theirs)}"
        taps = f"{one.path}/{SCORES}", f"{theirs[number - 1].path}/{SCORES}"
        rows.append(Pair(*taps, None, None, why))
    return rows


def _require_enough(what: str, ours: int, theirs: int, every: int | None) -> None:
    """Raises if the teacher has not as many layers as pairs of every n-th need."""
    if every is not None and every * ours > theirs:
        raise ValueError(
            f"every={every} pairs number {ours} of the student's {what} with number {every * ours} "
            f"of the teacher's, which has {theirs}. Received: {every=}, where at most "
            f"{theirs // ours} does"
        )


def _of_stages(places: dict[str, Places], every: int | None) -> list[Pair]:
    for role, own in places.items():
        if not own.stages():
            raise ValueError(
                f"The {role} {own.model.name!r} has no stages: no layer gives maps or tokens. "
                "mr.models.taps shows its layers"
            )
    student, teacher = places["student"], places["teacher"]
    rows = []
    if every is None:
        matched = _matched(student, teacher)
    else:
        ours, theirs = student.stages(), teacher.stages()
        _require_enough("stages", len(ours), len(theirs), every)
        matched = list(zip(ours, theirs[every - 1 :: every], strict=False))
    for (name, one), (other_name, other) in matched:
        why = _reason(student, one, teacher, other)
        taps = student.tap(name), teacher.tap(other_name)
        rows.append(Pair(*taps, _shape(student, one), _shape(teacher, other), why))
    return rows


def _matched(student: Places, teacher: Places) -> list[tuple[Any, Any]]:
    """Returns pairs of stages, in order, whose depths and resolutions differ least."""
    ours, theirs = student.stages(), teacher.stages()
    step = 1 if len(theirs) >= len(ours) else 0
    best: dict[int, tuple[float, list[int]]] = {}
    for i, (_, one) in enumerate(ours):
        costs = [_cost(student, one, teacher, other) for _, other in theirs]
        found = {}
        for j, cost in enumerate(costs):
            if i == len(ours) - 1 and j != len(theirs) - 1:
                continue
            before = [best[k] for k in best if k <= j - step] if i else [(0.0, [])]
            if before:
                total, chosen = min(before)
                found[j] = (total + cost, [*chosen, j])
        best = found
    _, chosen = min(best.values())
    return [(ours[i], theirs[j]) for i, j in enumerate(chosen)]


def _cost(student: Places, one: Any, teacher: Places, other: Any) -> float:
    depths = abs(student.depth(one.node) - teacher.depth(other.node))
    strides = student.stride(one.node), teacher.stride(other.node)
    if None in strides:
        return depths
    ratio = abs(math.log2(max(strides[0] or 1, 1) / max(strides[1] or 1, 1)))
    return depths + _OF_RESOLUTION * ratio


def _reason(student: Places, one: Any, teacher: Places, other: Any) -> str:
    ours, theirs = student.stride(one.node), teacher.stride(other.node)
    depths = f"depth {student.depth(one.node):.2f} and {teacher.depth(other.node):.2f}"
    if None in (ours, theirs):
        return depths
    same = f"both at stride {ours}" if ours == theirs else f"strides {ours} and {theirs}"
    return f"{same}, {depths}"


def _shape(places: Places, target: Any) -> tuple[int | None, ...] | None:
    shape = places.node(target).shape
    return None if shape is None else shape[1:]
