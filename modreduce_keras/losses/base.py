"""Base class of the losses: float32, one value per sample, no gradient into the teacher."""

from typing import Any, ClassVar

import keras
from keras import ops

from modreduce_keras import arguments, knobs, registry
from modreduce_keras.keras_internals import mask_of
from modreduce_keras.losses.named_arguments import NamedArguments
from modreduce_keras.ops import filled, float32, reduced, zeroed
from modreduce_keras.typing import Labels, Mask, Tensor


def fits(shape: Any, expected: Any) -> bool:
    """Returns whether two shapes may be equal, where `None` is a size not known yet."""
    return len(shape) == len(expected) and all(
        size == other or None in (size, other) for size, other in zip(shape, expected, strict=True)
    )


def shapes_of(side: Any) -> Any:
    """Returns the shapes of a tensor or of a list of them, for messages."""
    return keras.tree.map_structure(lambda tensor: tuple(tensor.shape), side)


def require_one_feature(owner: str, *sides: Any) -> None:
    """Raises if one of some sides is a list, of features or of their shapes."""
    several = [len(side) for side in sides if isinstance(side, list) and side]
    if several:
        raise ValueError(
            f"{owner} takes one feature of each model, so a knowledge reads one tap, at='stage2'. "
            "Give each further tap a knowledge of its own, with a name: mr.Feature(..., "
            f"at='stage3', name='second'). Received: a list of {several[0]}"
        )


class Loss(keras.losses.Loss, NamedArguments):
    """Base class of all distillation losses: a pure function, one value per sample.

    The value is computed in float32 under every dtype policy, and no gradient flows into the
    teacher. A loss is called in two ways:

    - `loss.call(teacher, student)` returns the values per sample, (batch,). Distillers use this:
      they apply weights and sample weights, and reduce over replicas.
    - `loss(teacher, student)` returns the reduced value, as any Keras loss does, so
      `student.compile(loss=KD())` trains on stored teacher logits without a distiller.
      (Keras takes a dict `y_true` only in a custom training step, not in `fit`.)

    To add a loss, override `per_sample(teacher, student)`. If the value of a sample is the mean or
    the sum of values per position, override `per_position` instead and declare `over_positions`.
    Register the class, and test it against a number computed in another way. Declare
    hyperparameters that a user may want to change during training with `Knob`.

    Masks leave positions out, such as padded tokens or the border of an image. A loss supports them
    in one of three ways. With `over_positions` the base class leaves out values. With
    `ignores_zeros` the features are set to zero at masked positions. With `takes_mask`,
    `per_sample` receives the mask. In each case, masked positions affect neither the value nor the
    gradient. Other losses raise an error for masks.

    Args:
        name: Name of the loss. Defaults to its identifier.
        reduction: How `loss(...)` reduces the values, as in Keras. Distillers ignore it: they
            always average over all examples. Defaults to `"sum_over_batch_size"`.
    """

    identifier: ClassVar[str]
    kind: ClassVar[str] = "feature"
    """Kind of knowledge that it compares: `"response"`, `"feature"` or `"relation"`."""
    default_weight: float = 1.0
    """Weight of the term if the user gives none."""
    default_adapter: ClassVar[str | None] = None
    """Identifier of the adapter that is used with the loss by default, if there is one."""
    needs_labels: bool = False
    """Whether `y_true` is a dict with `"teacher"` and `"labels"`."""
    label_maps: ClassVar[bool] = False
    """Whether the labels are maps, one label for each position, whose size may be another."""
    label_numbers: ClassVar[bool] = False
    """Whether the labels are numbers, of the shape of the outputs, and no classes."""
    takes_soft_labels: ClassVar[bool] = False
    """Whether the labels may also be probabilities of the classes, such as smoothed labels."""
    needs_teacher: ClassVar[bool] = True
    """Whether the loss compares with a teacher. If not, it is computed from the student alone (and
    the labels, which are then `y_true`)."""
    takes_mask: bool = False
    """Whether `per_sample` takes an argument `mask=None`, which is true where positions count."""
    takes_foreground: ClassVar[bool] = False
    """Whether `per_sample` takes an argument `foreground=None`, (batch, ...): `mask=` of a
    knowledge then tells foreground from background, and leaves nothing out."""
    over_positions: str | None = None
    """How values per position become the value of a sample, where `per_position` gives them:
    `"mean"` or `"sum"`; `None` where `per_sample` is written instead."""
    ignores_zeros: bool = False
    """Whether positions that are zero on both sides do not affect the value."""
    matches_sizes: ClassVar[bool] = False
    """Whether it averages the larger of two features down to the smaller one, along each axis, by
    `ops.pooled_to_match`. Where masks leave positions out, they are left out of these averages."""
    one_feature: ClassVar[bool] = False
    """Whether it compares one feature of each model, and does not take lists of features."""
    takes_scores: ClassVar[bool] = True
    """Whether it may read attention maps that are probabilities; if not, it takes their logits."""
    teacher_learns: ClassVar[bool] = False
    """Whether the method also trains an embedding of the teacher's features (never the teacher
    itself). Gradients then flow into `y_true`."""
    staged: ClassVar[bool] = False
    """Whether the method trains this loss in a separate stage before `fit`."""
    output_kinds: ClassVar[tuple[str, ...] | None] = None
    """Kinds of outputs that it can compare (see `modreduce_keras.output_kind`); `None`: any."""
    default_feature: ClassVar[str | None] = None
    """What it compares where no taps are given: the `"embedding"` that the model's classifier
    reads, the `"middle feature maps"` or the `"last feature maps"`; `None` where there is no good
    default."""
    student_extras: ClassVar[int] = 0
    """How many tensors at the end of the student's list have no counterpart of the teacher."""

    def __init__(
        self, *, name: str | None = None, reduction: str | None = "sum_over_batch_size"
    ) -> None:
        super().__init__(name=name or self.identifier, reduction=reduction, dtype="float32")

    def __call__(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> Tensor:
        """Returns the reduced value; positions masked by the student's Keras mask are left out."""
        mask = mask_of(y_pred)
        if mask is not None:
            self.require_masks()
            y_true = {"mask": mask, **self._given(y_true)}
            # Keras multiplies the values by the mask it finds, and there is one for each sample.
            y_pred = ops.copy(y_pred)
        return super().__call__(y_true, y_pred, sample_weight)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Returns the values per sample.

        Args:
            y_true: The teacher's tensor or list of tensors. If the loss needs more, a dict with
                `"teacher"`, and those of `"labels"` (batch, ...) and `"mask"` (batch, ...) that the
                loss takes. Only the labels if it needs no teacher.
            y_pred: The student's tensor or list of tensors.

        Returns:
            (batch,), float32.
        """
        teacher, student, given = self._sides(y_true, y_pred)
        return self.per_sample(teacher, student, **given)

    def by_position(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Returns the values per position, and the mask of those that count.

        The arguments are those of `call`.

        Returns:
            For a loss with `over_positions`: values, (batch, ...), float32, and a bool mask of the
            same shape, or `None`. For other losses, and classes that override `per_sample` or
            `call`: the values per sample, (batch,), and `None`.
        """
        if self._gives_samples():
            return self.call(y_true, y_pred), None
        teacher, student, given = self._sides(y_true, y_pred)
        return self._positions(teacher, student, **given)

    def _gives_samples(self) -> bool:
        """Returns whether only `call` tells what the loss computes."""
        kind = type(self)
        written = kind.call is not Loss.call or kind.per_sample is not Loss.per_sample
        return written or self.over_positions is None

    def _sides(self, y_true: Tensor, y_pred: Tensor) -> tuple[Any, Any, Any]:
        """Returns teacher and student, float32 and zero where a mask is, and the rest by name."""
        given = self._given(y_true)
        teacher, student = given.pop("teacher", None), y_pred
        self._require_tensors(teacher, student)
        if self.one_feature:
            require_one_feature(
                type(self).__name__, teacher, [] if self.student_extras else student
            )
        if teacher is not None:
            teacher = self._cast(teacher)
            if not self.teacher_learns:
                teacher = keras.tree.map_structure(ops.stop_gradient, teacher)
        student = self._cast(student)
        if given.get("mask") is None:
            return teacher, student, given
        teacher, student, mask = self._masked(teacher, student, given.pop("mask"))
        if self.over_positions is not None or self.takes_mask:
            given["mask"] = mask
        return teacher, student, given

    def _cast(self, tensors: Tensor) -> Tensor:
        return float32(tensors)

    def _masked(self, teacher: Tensor, student: Tensor, mask: Mask) -> tuple[Any, Any, Any]:
        """Returns both sides, zero where a mask is, and the mask as bool."""
        mask = ops.cast(ops.convert_to_tensor(mask), "bool")
        self._require_mask(mask, student)
        # Infinities of padding would give a gradient of NaN if they were only left out later.
        return None if teacher is None else zeroed(teacher, mask), zeroed(student, mask), mask

    def _require_mask(self, mask: Tensor, student: Tensor) -> None:
        """Raises unless a mask is of the positions of the student's side, or the first of them."""
        first = keras.tree.flatten(student)[0]
        if not fits(mask.shape, first.shape[:-1][: len(mask.shape)]):
            raise ValueError(
                f"{type(self).__name__} needs a mask with one value for each position. Received: a "
                f"mask of shape {tuple(mask.shape)} and a student of shape {tuple(first.shape)} "
                "(batch, positions..., channels)"
            )

    @staticmethod
    def positions(shape: Any) -> tuple:
        """Returns the sizes of the axes that a mask is of, from the shape of a feature."""
        return tuple(shape)[1:-1]

    @staticmethod
    def given_with_own(given: Tensor, own: Any, feature: Tensor) -> Tensor:
        """Returns what counts where a mask is given to a knowledge.

        Args:
            given: The mask.
            own: The masks that the student's and the teacher's feature have, or `None` for each.
            feature: One of these features.
        """
        return given

    @classmethod
    def masks(cls) -> bool:
        """Returns whether the loss can leave positions out, exactly."""
        return cls.takes_mask or cls.ignores_zeros or cls.over_positions is not None

    def needed_inputs(self) -> dict[str, keras.KerasTensor]:
        """Returns the inputs of a batch that the loss looks at, by key: their symbolic shapes.

        `y_true` is then a dict that has them as `"inputs"`, and `per_sample` takes `inputs`.
        """
        return {}

    def require_masks(self) -> None:
        """Raises unless the loss can leave positions out."""
        if not self.masks():
            known = [name for name, cls in registry.components("loss").items() if cls.masks()]
            raise ValueError(
                f"{type(self).__name__} compares features whole and cannot leave out positions "
                "that a mask does; mask=False of a knowledge counts all. These losses take masks: "
                f"{known}. Received: a mask for the loss {self.name!r}"
            )

    def _require_tensors(self, teacher: Tensor, student: Tensor) -> None:
        given = [student] if teacher is None else [teacher, student]
        if not all(map(keras.tree.flatten, given)):
            raise ValueError(
                f"{type(self).__name__} takes tensors or lists of them. Received: an empty list"
            )
        sides = keras.tree.flatten(given)
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

    def _given(self, y_true: Tensor) -> dict[str, Any]:
        """Returns what `y_true` holds by name, or says what is missing."""
        needed = {"teacher"} if self.needs_teacher else set()
        needed |= {"labels"} if self.needs_labels else set()
        needed |= {"inputs"} if self.needed_inputs() else set()
        optional = {"teacher"} | ({"mask"} if self.masks() else set())
        optional |= {"foreground"} if self.takes_foreground else set()
        if isinstance(y_true, dict) and needed <= set(y_true) <= needed | optional:
            return dict(y_true)
        if isinstance(y_true, dict) or ({"labels", "inputs"} & needed and len(needed) > 1):
            keys = " and ".join(map(repr, sorted(needed, reverse=True))) or "'teacher'"
            more = [name for name in ("labels", "inputs") if name in needed]
            raise ValueError(
                f"{type(self).__name__} needs "
                + (f"{' and '.join(more)}: " if more else "")
                + f"y_true must be a dict with the keys {keys}"
                + (" (and 'mask' if one is given)" if self.masks() else "")
                + f". Received: y_true={y_true}"
            )
        return {name: y_true for name in needed}

    def per_sample(self, teacher: Tensor, student: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Returns the values per sample from float32 tensors. Each loss overrides it.

        Losses with `over_positions` override `per_position` instead. Losses that need labels or a
        mask also receive `labels` and `mask`.
        """
        if self.over_positions is None:
            raise NotImplementedError
        values, mask = self._positions(teacher, student, *args, **kwargs)
        return reduced(values, mask, self.over_positions)

    def per_position(self, teacher: Tensor, student: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Returns the values per position, (batch, ...), from float32 tensors.

        Losses with `over_positions` override it. It also receives `labels` and `mask`, or `None`.
        Only losses that compare positions with one another need the mask.
        """
        raise NotImplementedError

    def _positions(
        self, teacher: Tensor, student: Tensor, labels: Labels = None, mask: Mask = None
    ) -> tuple[Any, Any]:
        """Returns the values per position and the mask, of their shape, or `None`."""
        values = self.per_position(teacher, student, labels, mask)
        return values, filled(mask, values)

    def require(self, condition: bool, expectation: str, teacher: Tensor, student: Tensor) -> None:
        """Raises a `ValueError` that shows both shapes unless `condition`."""
        if not condition:
            raise ValueError(
                f"{type(self).__name__} needs {expectation}. Received: teacher of shape "
                f"{tuple(teacher.shape)} and student of shape {tuple(student.shape)} "
                "(the first axis is the batch)"
            )

    def require_equal_shapes(self, teacher: Tensor, student: Tensor, remedy: str = "") -> None:
        """Raises a `ValueError` unless the features of a sample have one shape, and an axis."""
        shapes = tuple(teacher.shape)[1:], tuple(student.shape)[1:]
        expectation = f"features (batch, ..., width) of equal shapes{remedy}"
        self.require(fits(*shapes) and len(shapes[0]) > 0, expectation, teacher, student)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments that are stored under their own names."""
        config = {**super().get_config(), **knobs.config(self)}
        return {**arguments.kept(self, Loss, known=config), **config}
