"""What every distillation loss shares: float32, one value per sample, a constant teacher."""

from typing import Any, ClassVar

import keras
from keras import ops

from modreduce_keras import knobs
from modreduce_keras.ops import float32


class Loss(keras.losses.Loss):
    """Base class of all distillation losses: a pure function, one value per sample.

    The value is computed in float32 under every dtype policy, and no gradient flows into the
    teacher. A loss is called in two ways:

    - `loss.call(teacher, student)` returns the values per sample, (batch,). Distillers use this:
      weights, sample weights and replicas are applied in one place there.
    - `loss(teacher, student)` returns the reduced value, as any Keras loss does, so
      `student.compile(loss=KD())` trains on stored teacher logits with no distiller at all.
      (Keras takes a dict `y_true` in a training step of one's own only, not in `fit`.)

    To add a loss, write `per_sample(teacher, student)`, declare `example_shapes`, register the
    class, and give it a golden number in the tests. Numbers that a user may want to change while
    training are declared with `Knob`.

    Args:
        name: Name of the loss. Defaults to its identifier.
        reduction: How a call on its own reduces the values, as in Keras. Distillers ignore it:
            they always average over all examples. Defaults to `"sum_over_batch_size"`.
    """

    identifier: ClassVar[str]
    kind: ClassVar[str] = "feature"
    """Kind of knowledge that it compares: `"response"`, `"feature"` or `"relation"`."""
    default_weight: ClassVar[float] = 1.0
    """Weight of the term when the user names none."""
    default_adapter: ClassVar[str | None] = None
    """Identifier of the adapter that always goes with the loss, if one does."""
    needs_labels: ClassVar[bool] = False
    """Whether `y_true` is a dict with `"teacher"` and `"labels"`."""
    takes_soft_labels: ClassVar[bool] = False
    """Whether the labels may also be probabilities of the classes: mixed, or smoothed."""
    needs_teacher: ClassVar[bool] = True
    """Whether the loss compares with a teacher; without one, it is computed from the student (and
    the labels, which are then `y_true` itself)."""
    takes_mask: ClassVar[bool] = False
    """Whether `y_true` may hold a `"mask"` of the positions that count."""
    teacher_learns: ClassVar[bool] = False
    """Whether the method trains the teacher's side too: an embedding of its features, never the
    teacher. Gradients then flow into `y_true`."""
    staged: ClassVar[bool] = False
    """Whether the method trains this loss in a stage of its own, before the rest."""
    example_shapes: ClassVar[tuple[Any, Any]]
    """Shapes without the batch of a valid (teacher, student) pair, or of lists of them, for the
    conformance tests."""
    output_kinds: ClassVar[tuple[str, ...] | None] = None
    """Kinds of the outputs that it may compare (see `modreduce_keras.output_kind`); `None`: any."""
    student_extras: ClassVar[int] = 0
    """How many tensors at the end of the student's list have no counterpart of the teacher."""
    zero_at_teacher: ClassVar[bool] = True
    """Whether the loss is zero and flat where the student equals the teacher."""

    def __init__(self, *, name: str | None = None, reduction: str | None = "sum_over_batch_size"):
        super().__init__(name=name or self.identifier, reduction=reduction, dtype="float32")

    def call(self, y_true, y_pred):
        """Returns the values per sample.

        Args:
            y_true: The teacher's tensor or list of tensors; where the loss needs more, a dict
                with `"teacher"`, `"labels"` (batch, ...) and `"mask"` (batch, ...), those that the
                loss takes. The labels alone where it needs no teacher.
            y_pred: The student's tensor or list of tensors.

        Returns:
            (batch,), float32.
        """
        given = self._given(y_true)
        teacher = given.pop("teacher", None)
        self._require_tensors(teacher, y_pred)
        if teacher is not None:
            teacher = float32(teacher)
            if not self.teacher_learns:
                teacher = keras.tree.map_structure(ops.stop_gradient, teacher)
        return self.per_sample(teacher, float32(y_pred), **given)

    def _require_tensors(self, teacher, student) -> None:
        sides = keras.tree.flatten([[] if teacher is None else teacher, student])
        shapes = [tuple(getattr(side, "shape", ())) for side in sides]
        strange = [
            type(side).__name__ for side, shape in zip(sides, shapes, strict=True) if not shape
        ]
        if strange:
            raise TypeError(
                f"{type(self).__name__} takes tensors or arrays: np.asarray(...) makes one of a "
                f"list of numbers. Received: {strange[:4]}"
            )
        self._require_batch(shapes)

    def _require_batch(self, shapes: list[tuple]) -> None:
        """Raises if the shapes of both sides are of batches of unequal sizes."""
        if len({shape[0] for shape in shapes} - {None}) > 1:
            raise ValueError(
                f"{type(self).__name__} compares sample by sample, so teacher and student need "
                f"one batch size. Received: shapes {shapes} (the first axis is the batch)"
            )

    def _given(self, y_true) -> dict[str, Any]:
        """Returns what `y_true` holds by name, or says what is missing."""
        needed = {"teacher"} if self.needs_teacher else set()
        needed |= {"labels"} if self.needs_labels else set()
        optional = {"teacher"} | ({"mask"} if self.takes_mask else set())
        if isinstance(y_true, dict) and needed <= set(y_true) <= needed | optional:
            return dict(y_true)
        if needed == {"teacher", "labels"} or isinstance(y_true, dict):
            keys = " and ".join(map(repr, sorted(needed, reverse=True))) or "'teacher'"
            raise ValueError(
                f"{type(self).__name__} needs "
                + ("labels: " if self.needs_labels else "")
                + f"y_true must be a dict with the keys {keys}"
                + (" (and 'mask' if one is given)" if self.takes_mask else "")
                + f". Received: y_true={y_true}"
            )
        return {name: y_true for name in needed}

    def per_sample(self, teacher, student, labels=None):
        """Returns the values per sample from float32 tensors. To be written by each loss.

        Losses that take a mask have a further argument `mask=None`.
        """
        raise NotImplementedError

    def require(self, fits: bool, expectation: str, teacher, student) -> None:
        """Raises a `ValueError` that shows both shapes unless `fits`."""
        if not fits:
            raise ValueError(
                f"{type(self).__name__} needs {expectation}. Received: teacher of shape "
                f"{tuple(teacher.shape)} and student of shape {tuple(student.shape)} "
                "(the first axis is the batch)"
            )

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        return {**super().get_config(), **knobs.config(self)}
