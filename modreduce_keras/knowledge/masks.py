"""Masks of a knowledge: which positions of the student's and of the teacher's feature count."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import keras
from keras import ops

from modreduce_keras.held import Held
from modreduce_keras.keras_internals import flatten_layers, mask_of
from modreduce_keras.losses.base import Loss, fits
from modreduce_keras.ops import along_positions, as_list, mask_at, pooled_to_match, zeroed
from modreduce_keras.symbolic import output_spec
from modreduce_keras.typing import Tensor

Mask = str | Literal[False] | Callable[[Any], Any] | None
Kept = dict[str, Any] | None
Axes = Callable[[tuple], tuple]
between: Axes = Loss.positions
"""The positions of a feature in general: its sizes between batch and channels."""


def checked(mask: Any) -> Mask:
    """Returns a mask as it was given, or from its config.

    Raises:
        TypeError: If it is none of what `Knowledge` takes.
    """
    if isinstance(mask, Mapping):
        mask = keras.saving.deserialize_keras_object(mask)
    if mask is None or mask is False or isinstance(mask, str) or callable(mask):
        return mask
    raise TypeError(
        "mask must be a key of the inputs, such as 'padding_mask', a function of the inputs, False "
        f"(all positions count) or None (the masks of Keras). Received: mask={mask!r}"
    )


def serialized(mask: Mask) -> Any:
    """Returns a mask for a config."""
    return keras.saving.serialize_keras_object(mask) if callable(mask) else mask


def without_class(
    owner: str,
    kept: "Kept",
    pair: tuple[Any, Any],
    labels: Any,
    ignore_class: int | None,
    axes: Axes,
) -> "Kept":
    """Returns masks by side without the positions that have a label.

    Args:
        owner: Name of the knowledge.
        kept: The masks (batch, ...) by side, or `None` for all.
        pair: The student's and the teacher's feature, `None` without a teacher.
        labels: Class indices of maps, (batch, ...) of any size, or (batch, ..., 1).
        ignore_class: The label.
        axes: Which axes of the features are positions; see `Loss.positions`.

    Raises:
        ValueError: If the features have no positions, or the labels are no maps of theirs.
    """
    _require_alike(owner, pair, axes)
    positions = [_positions(feature, axes) for feature in pair]
    number = max(map(len, positions))
    if len(labels.shape) == number + 2 and labels.shape[-1] == 1:
        labels = ops.squeeze(labels, axis=-1)
    sizes = labels.shape[1:]
    same = all(fits(sizes, side) for side in positions if side)
    known = None not in sizes and all(None not in side for side in positions)
    if not number or len(sizes) != number or not (same or known):
        raise ValueError(
            f"ignore_class of knowledge {owner!r} needs labels y that are maps of classes, one for "
            "each position of features of known size (or its pixels). Received: labels of shape "
            f"{tuple(labels.shape)} and features of shapes {[_shape(feature) for feature in pair]}"
        )
    counted = ops.not_equal(labels, ignore_class)
    result = {}
    for side, own in zip(("student", "teacher"), positions, strict=True):
        if own:
            mask = counted if fits(sizes, own) else mask_at(counted, own, keep="all")
            others = (kept or {}).get(side)
            both = others is not None
            result[side] = ops.logical_and(mask, along_positions(others, mask)) if both else mask
    return result


def given(mask: Mask, inputs: Any, owner: str) -> Any:
    """Returns the mask that a batch's inputs give, (batch, ...) and bool; `None` without one.

    Raises:
        ValueError: If the inputs do not have the key, or the function returns something else.
    """
    if mask is None or mask is False:
        return None
    if isinstance(mask, str):
        if not (isinstance(inputs, Mapping) and mask in inputs):
            has = list(inputs) if isinstance(inputs, Mapping) else "no names"
            raise ValueError(
                f"mask={mask!r} of knowledge {owner!r} is a key of the inputs, so x must be a dict "
                f"that has it. Received: x with {has}"
            )
        values = inputs[mask]
    else:
        values = mask(inputs)
    if keras.tree.is_nested(values) or len(getattr(values, "shape", ())) < 1:
        raise ValueError(
            f"mask of knowledge {owner!r} must give one tensor (batch, ...), with 0 or False for "
            f"the positions that do not count. Received: {values!r}"
        )
    return ops.cast(values, "bool")


def symbolic(mask: Mask, inputs: Any, pair: tuple[Any, Any], axes: Axes = between) -> Any:
    """Returns the mask that will be given, symbolically.

    Args:
        mask: What was given.
        inputs: The student's symbolic inputs; a batch may have more, and may have other names.
        pair: The student's and the teacher's feature, of whose positions it is where the inputs
            do not tell.
        axes: From the shape of a feature to the sizes of its positions.
    """
    if mask is None or mask is False:
        return None
    if isinstance(mask, str):
        if isinstance(inputs, Mapping) and mask in inputs:
            return keras.KerasTensor(inputs[mask].shape, "bool")
    elif inputs is not None:
        try:
            found = output_spec(_Function(mask), inputs)
        except Exception:
            found = None  # it may look at what the student does not see
        if isinstance(found, keras.KerasTensor):
            return keras.KerasTensor(found.shape, "bool")
    batch, *positions = next(
        ((_shape(one)[0], *axes(_shape(one))) for one in pair if _positions(one, axes)),
        (None, None),
    )
    return keras.KerasTensor((batch, *positions), "bool")


class _Function(keras.layers.Layer):
    """Lets Keras run a function symbolically."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__(dtype="float32", autocast=False)
        self._function = Held(function)

    def call(self, inputs: Tensor) -> Tensor:
        return self._function()(inputs)


def kept(
    owner: str, pair: tuple[Any, Any], masks: tuple[Any, Any], own: Any, axes: Axes = between
) -> Kept:
    """Returns the masks of the `"student"`'s and the `"teacher"`'s positions, `None` if all count.

    Where both features have the same positions, those count that both masks keep; where only one
    side has a mask, it is the other side's too.

    Args:
        owner: Name of the knowledge.
        pair: The student's and the teacher's feature, `None` without a teacher.
        masks: The masks that Keras has attached to them, or `None`.
        own: The mask that was given, which holds in the place of Keras'; or `None`.
        axes: From the shape of a feature to the sizes of its positions.

    Raises:
        ValueError: If a mask does not fit the positions that a feature has.
    """
    if own is not None:
        masks = _on_both(own, pair, axes)
    if masks[0] is None and masks[1] is None:
        return None
    _require_alike(owner, pair, axes)
    positions = [_positions(feature, axes) for feature in pair]
    if _alike(*positions):
        masks = (masks[0] if own is not None else together(masks),) * 2
    if own is not None and not any(positions):
        raise ValueError(
            f"mask of knowledge {owner!r} would do nothing, as neither feature has positions. "
            f"Received: features of shapes {[_shape(feature) for feature in pair]}"
        )
    sides = ("student", "teacher")
    fitting = {
        side: _fitting(owner, side, own_positions, mask)
        for side, own_positions, mask in zip(sides, positions, masks, strict=True)
    }
    return {side: mask for side, mask in fitting.items() if mask is not None} or None


def _require_alike(owner: str, pair: tuple[Any, Any], axes: Axes) -> None:
    """Raises if a side has several features whose positions differ."""
    for side, feature in zip(("student", "teacher"), pair, strict=True):
        if isinstance(feature, (list, tuple)) and len({_positions(x, axes) for x in feature}) > 1:
            raise ValueError(
                f"Knowledge {owner!r} reads several taps of the {side} with different "
                "positions, for which there is no common mask: use one knowledge for each tap, "
                "or mask=False, so that all positions count. "
                f"Received: {len(feature)} features, and a mask"
            )


def _on_both(mask: Any, pair: tuple[Any, Any], axes: Axes) -> tuple[Any, Any]:
    """Returns a mask for each side, where it is of one side's positions and the sizes differ."""
    sizes = mask.shape[1:]
    positions = [_positions(feature, axes) for feature in pair]
    of_one = any(fits(sizes, side) and side for side in positions)

    def at(side: tuple) -> Any:
        resizes = of_one and len(side) == len(sizes) and not fits(sizes, side)
        return mask_at(mask, side, keep="all") if resizes and None not in sizes else mask

    return at(positions[0]), at(positions[1])


def _alike(one: tuple, other: tuple) -> bool:
    return fits(one, other) or not other


def _fitting(owner: str, side: str, positions: tuple, mask: Any) -> Any:
    """Returns a side's mask, `None` where the feature has no positions."""
    if not positions:
        return None
    if mask is None or not fits(mask.shape[1:], positions[: len(mask.shape) - 1]):
        shape = "none of its own" if mask is None else f"a mask of shape {tuple(mask.shape)}"
        raise ValueError(
            f"Knowledge {owner!r} needs a mask for the positions {positions} of the {side}'s "
            f"feature: give mask= as a function of the inputs x that returns (batch, "
            f"{', '.join(map(str, positions))}), or mask=False, so that all positions count. "
            f"Received: {shape}"
        )
    return mask


def _positions(feature: Any, axes: Axes = between) -> tuple:
    """Returns the sizes of a feature's positions; of several alike features those of one."""
    shape = _shape(feature)
    return axes(shape) if shape else ()


def _shape(feature: Any) -> tuple:
    first = keras.tree.flatten(feature)[0] if feature is not None else None
    return tuple(getattr(first, "shape", ()))


def together(several: Sequence[Any]) -> Any:
    """Returns the mask of what all of some masks keep; the first one where they differ in shape."""
    several = [mask for mask in several if mask is not None]
    if not several:
        return None
    alike = all(fits(mask.shape, several[0].shape) for mask in several)
    return functools.reduce(ops.logical_and, several) if alike else several[0]


def applied(kept: dict[str, Any], student: Any, teacher: Any) -> tuple[Any, Any]:
    """Returns both features, zero at the positions that do not count."""
    student = zeroed(student, kept.get("student"))
    return student, None if teacher is None else zeroed(teacher, kept.get("teacher"))


def matched(kept: dict[str, Any], student: Any, teacher: Any) -> tuple[Any, Any, Kept]:
    """Returns both features and their masks at one size, the smaller one along each axis.

    Averages are over the positions that are kept, and those of the result count that have one on
    each side. Features that an adapter has averaged down take their masks along.
    """
    if len(kept) < 2:
        return student, teacher, kept
    of_student = _following(kept["student"], student)
    of_teacher = _following(kept["teacher"], teacher)
    if not fits(of_student.shape, of_teacher.shape):
        # What follows the student's maps in a list, such as a variance, has no positions.
        students, teachers = as_list(student), as_list(teacher)
        pairs = [
            pooled_to_match(*pair, (of_student, of_teacher))
            for pair in zip(students, teachers, strict=False)
        ]
        for index, (one, other) in enumerate(pairs):
            students[index], teachers[index] = one, other
        of_student, of_teacher = (_following(mask, students) for mask in (of_student, of_teacher))
        student = keras.tree.pack_sequence_as(student, students)
        teacher = keras.tree.pack_sequence_as(teacher, teachers)
    is_one = of_student is of_teacher
    both = of_student if is_one else ops.logical_and(of_student, of_teacher)
    return student, teacher, {"student": both, "teacher": both}


def _following(mask: Any, feature: Any) -> Any:
    """Returns a mask at the positions of a feature that was averaged down."""
    sizes = _positions(feature)[: len(mask.shape) - 1]
    return mask if fits(mask.shape[1:], sizes) else mask_at(mask, sizes)


def common(owner: str, kept: Kept) -> Any:
    """Returns the mask of what is compared position by position, or `None`.

    Raises:
        ValueError: If the two sides have different positions.
    """
    sides = list((kept or {}).values())
    if len(sides) == 2 and not fits(sides[0].shape, sides[1].shape):
        raise ValueError(
            f"Knowledge {owner!r} compares position by position, and with a mask the student and "
            "the teacher need the same positions: choose taps of one length, or mask=False, so "
            f"that all positions count. Received: masks of shapes {[tuple(m.shape) for m in sides]}"
        )
    return sides[0] if sides else None


def foreground(kept: Kept, student: Any, teacher: Any) -> Any:
    """Returns a mask that leaves nothing out, at the size at which both features are compared.

    Args:
        kept: The masks (batch, ...) by side, or `None`.
        student: The student's feature, as the loss is given it.
        teacher: The teacher's feature.

    Returns:
        (batch, positions...), bool, or `None`. Positions of the smaller size are in it that lie
        wholly in what the larger mask keeps.
    """
    sides = list((kept or {}).values())
    if not sides:
        return None
    pairs = list(zip(_positions(student), _positions(teacher), strict=False))
    pairs = pairs[: len(sides[0].shape) - 1]
    if any(None in pair for pair in pairs):  # of one size, or the loss tells what is wrong
        return sides[0]
    sizes = [min(pair) for pair in pairs]
    for mask in sides:
        if fits(mask.shape[1:], sizes):
            return mask
    return functools.reduce(ops.logical_and, [mask_at(one, sizes, keep="all") for one in sides])


def without(feature: Any) -> Any:
    """Returns features whose tensors carry no mask of Keras, which layers would act on."""
    return keras.tree.map_structure(
        lambda tensor: tensor if mask_of(tensor) is None else ops.copy(tensor), feature
    )


def require_not_dropped(owner: str, pair: tuple[Any, Any], models: Mapping[str, Any]) -> None:
    """Raises if a model makes a mask, and features with positions have lost it on the way.

    Args:
        owner: Name of the knowledge.
        pair: The student's and the teacher's feature, without masks.
        models: The student and the teachers by what they are called.
    """
    if not any(_positions(feature) for feature in pair):
        return
    for role, model in models.items():
        makers = [layer for layer in flatten_layers(model, include_self=False) if _masks(layer)]
        if makers:
            raise ValueError(
                f"Knowledge {owner!r} would count padded positions: the {role} makes a mask "
                f"(layer {makers[0].name!r}), and the features read are without it: a layer before "
                "the tap drops it, or a cache, which holds no masks. Give mask= a key of the "
                "inputs or a function of them, such as def not_padding(x): return x != 0; or "
                "False, so that all positions count. Received: mask=None"
            )


def _masks(layer: Any) -> bool:
    if isinstance(layer, keras.layers.Embedding):
        return layer.mask_zero
    return isinstance(layer, keras.layers.Masking)
