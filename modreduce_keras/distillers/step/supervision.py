"""Supervision: the compiled loss on the labels, as one value per example."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import keras
from keras import ops

from modreduce_keras.distillers.checks import heads
from modreduce_keras.distribute import share_over_replicas
from modreduce_keras.keras_internals import mask_of
from modreduce_keras.models.head_kinds import LOGITS
from modreduce_keras.ops import filled, float32, reduced, spread

_INDICES = (
    keras.losses.SparseCategoricalCrossentropy,
    keras.losses.sparse_categorical_crossentropy,
)
_ONE_HOT = (
    (keras.losses.CategoricalCrossentropy, keras.losses.CategoricalFocalCrossentropy),
    keras.losses.categorical_crossentropy,
    keras.losses.categorical_focal_crossentropy,
)
# Keras broadcasts labels of another shape, such as class indices, in silence.
_ELEMENTWISE = (
    (
        *(keras.losses.MeanSquaredError, keras.losses.MeanAbsoluteError, keras.losses.Huber),
        *(keras.losses.MeanSquaredLogarithmicError, keras.losses.MeanAbsolutePercentageError),
        *(keras.losses.LogCosh, keras.losses.Poisson, keras.losses.KLDivergence),
        *(keras.losses.CosineSimilarity, keras.losses.Hinge, keras.losses.SquaredHinge),
        *(keras.losses.CategoricalHinge, keras.losses.BinaryCrossentropy),
        keras.losses.BinaryFocalCrossentropy,
    ),
    *(keras.losses.mean_squared_error, keras.losses.mean_absolute_error, keras.losses.huber),
    keras.losses.mean_squared_logarithmic_error,
    keras.losses.mean_absolute_percentage_error,
    *(keras.losses.log_cosh, keras.losses.poisson, keras.losses.kl_divergence),
    *(keras.losses.cosine_similarity, keras.losses.hinge, keras.losses.squared_hinge),
    *(keras.losses.categorical_hinge, keras.losses.binary_crossentropy),
    keras.losses.binary_focal_crossentropy,
)


class LabelRule(NamedTuple):
    """Who takes class indices.

    Attributes:
        owner: What it is called in messages.
        output: The output that the labels are of, or `None` where there is one.
        classes: The number of classes.
        ignored: Labels that it ignores.
        rows: Raises unless labels with a row for each position, and the owner's name, are right;
            `None` if it follows from the step.
    """

    owner: str
    output: str | None
    classes: int
    ignored: set[int]
    rows: Callable[[Any, str], None] | None = None


class Supervision:
    """A Keras loss that returns one value per example and knows its name in the logs.

    Args:
        loss: What `compile(loss=...)` takes for one output: a `keras.losses.Loss`, a function
            `(y_true, y_pred) -> values`, or the name of one.

    Raises:
        ValueError: If the loss is given per output, or has a reduction that is not a mean.
    """

    def __init__(self, loss: Any):
        if isinstance(loss, (dict, list, tuple)):
            raise ValueError(
                "Distillers take one loss, which trains every student; or a dict of losses by the "
                f"name of the output where the model returns a dict. Received: loss={loss!r}"
            )
        self.loss: Any = keras.losses.get(loss)
        reduction: Any = getattr(self.loss, "reduction", None)
        if reduction not in (None, "none", "mean", "sum_over_batch_size"):
            raise ValueError(
                "Distillers average the loss over all examples, so its reduction must be "
                f"'sum_over_batch_size', 'mean' or None. Received: reduction={reduction!r}"
            )
        name: Any = getattr(self.loss, "name", None) or getattr(self.loss, "__name__", "loss")
        self.name: str = "ce" if "crossentropy" in name else name
        self.names = [self.name]
        self.outputs: dict[str, str] = {}

    def by_position(self, name: str, labels: Any, logits: Any) -> Any:
        """Returns the values per position, whose mean is that of the example."""
        return spread(*self._values(labels, logits))

    def label_rules(self, outputs: Any) -> list[LabelRule]:
        """Returns who takes class indices.

        Args:
            outputs: The student's symbolic output.
        """
        if not self._takes(_INDICES):
            return []
        ignored: Any = getattr(self.loss, "ignore_class", None)
        return [LabelRule("The compiled loss", None, outputs.shape[-1], {ignored} - {None})]

    def _takes(self, losses: tuple[Any, ...]) -> bool:
        return self.loss in losses[1:] or isinstance(self.loss, losses[0])

    def _require_fitting_labels(self, labels: Any, logits: Any) -> None:
        """Raises if the labels' shape is not what a cross-entropy takes."""
        if isinstance(labels, (Mapping, list, tuple)):
            raise ValueError(
                "The labels y must be one array for a student of one output. "
                f"Received: y of type {type(labels).__name__}"
            )
        if keras.backend.standardize_dtype(labels.dtype) == "string":
            raise ValueError(
                "The labels y must be numbers. Class indices of names are "
                "keras.layers.StringLookup(vocabulary=names, num_oov_indices=0)(y). "
                "Received: y of dtype string"
            )
        shape, expected = tuple(labels.shape), tuple(logits.shape)
        one_hot = len(shape) == len(expected) and shape[-1] == expected[-1]
        single = len(shape) == len(expected) and shape[-1] == 1
        if self._takes(_INDICES) and not (single or len(shape) == len(expected) - 1):
            remedy = " One-hot labels go with keras.losses.CategoricalCrossentropy." * one_hot
            raise ValueError(
                "The compiled loss needs labels y that are class indices, one for each position "
                f"of the logits.{remedy} Received: y of shape {shape} for logits {expected}"
            )
        if self._takes(_ONE_HOT) and not one_hot:
            remedy = " Class indices go with keras.losses.SparseCategoricalCrossentropy."
            remedy *= single or len(shape) < len(expected)
            raise ValueError(
                "The compiled loss needs labels y that are one-hot, of the shape of the logits."
                f"{remedy} Received: y of shape {shape} for logits {expected}"
            )
        if self._is_elementwise():
            _require_same_shape(shape, expected)
        if self._takes(_INDICES) or self._takes(_ONE_HOT):
            require_same_size("The compiled loss needs", shape, expected)

    def _is_elementwise(self) -> bool:
        # A class of the user's with a `call` of its own takes what labels it likes.
        call = getattr(type(self.loss), "call", None)
        of_keras = call is None or call.__module__.startswith("keras.")
        return self._takes(_ELEMENTWISE) and of_keras

    def __call__(self, labels: Any, logits: Any) -> Any:
        """Returns the values per example, (batch,), float32.

        Positions that a mask of the logits or the loss's `ignore_class` leaves out count as Keras
        counts them: the mean is taken over the positions that stay, of all replicas.
        """
        return reduced(*self._values(labels, logits))

    def _values(self, labels: Any, logits: Any) -> Any:
        """Returns the first arguments of `reduced`, for the values of all positions."""
        self._require_fitting_labels(labels, logits)
        compute = self.loss.call if isinstance(self.loss, keras.losses.Loss) else self.loss
        labels = float32(labels)
        if self._is_elementwise() and len(labels.shape) == len(logits.shape) > 2:
            # Not every one of Keras' losses spreads one value over all positions itself.
            labels = ops.broadcast_to(labels, ops.shape(logits))
        given = compute(labels, float32(logits))
        masks = [mask_of(tensor) for tensor in (logits, given)]
        masks = [ops.cast(mask, "bool") for mask in masks if mask is not None]
        values = float32(given)
        if len(values.shape) == 0:
            raise ValueError(
                "The compiled loss must return one value per example, (batch,), before its "
                f"reduction. Received: {self.loss!r}, which returned a scalar"
            )
        if not masks:
            return values, None
        mask = filled(functools.reduce(ops.logical_and, masks), values)
        return values, mask, "mean", share_over_replicas(mask)

    def require_fitting_head(self, model: keras.Model, output: str | None = None) -> None:
        """Raises if the loss takes probabilities and the model gives logits, or the reverse."""
        from_logits = self.from_logits()
        found = None if from_logits is None else heads.of_model(model, output).head(output)
        ends_in_probabilities = found != LOGITS
        if found is None or from_logits != ends_in_probabilities:
            return
        head = "probabilities" if ends_in_probabilities else "logits"
        raise ValueError(
            f"The student {model.name!r} ends in {head}, but the compiled loss expects "
            f"{'logits' if from_logits else 'probabilities'} (from_logits={from_logits}). Pass "
            f"the loss as an object, such as keras.losses.{self._class_name()}("
            f"from_logits={not ends_in_probabilities})."
        )

    def _class_name(self) -> str:
        """Returns the name of Keras' class for the loss, which may be a function."""
        if isinstance(self.loss, keras.losses.Loss):
            name = type(self.loss).__name__
        else:
            function = getattr(self.loss, "func", self.loss)  # of a functools.partial
            name = "".join(word.title() for word in getattr(function, "__name__", "").split("_"))
        return name if hasattr(keras.losses, name) else "SparseCategoricalCrossentropy"

    def from_logits(self, output: str | None = None) -> bool | None:
        """Returns whether the loss takes logits; `None` where it does not say."""
        if isinstance(self.loss, keras.losses.Loss):
            return self.loss.get_config().get("from_logits")
        parameter = inspect.signature(self.loss).parameters.get("from_logits")
        return None if parameter is None else parameter.default


def _require_same_shape(shape: tuple, expected: tuple) -> None:
    """Raises unless labels have the shape of the outputs, but for a last axis of one in either.

    Of as many axes as the outputs, labels may have one value for all positions, as in Keras:
    (batch, 1, 1, channels) for (batch, height, width, channels).
    """
    trimmed = shape if len(shape) == len(expected) else (*shape, 1)
    if len(shape) == len(expected) + 1 and shape[-1] == 1:
        trimmed = shape[:-1]
    pairs = list(zip(trimmed[1:], expected[1:], strict=False))
    wrong = [p for p in pairs if None not in p and p[0] != p[1]]
    by_position = len(shape) == len(expected) > 2 and pairs[-1] not in wrong
    if by_position and all(own == 1 for own, _ in wrong):
        return
    if len(trimmed) != len(expected) or wrong:
        remedy = (
            " Class indices go with keras.losses.SparseCategoricalCrossentropy, or become one-hot "
            "by keras.utils.to_categorical(y)."
        ) * (trimmed[-1:] == (1,) != expected[-1:])
        remedy += (
            " One value for all positions has their axes, of size 1: (batch, 1, 1, channels)."
        ) * (len(expected) > 2)
        raise ValueError(
            f"The compiled loss needs labels y of the shape of the outputs.{remedy} "
            f"Received: y of shape {shape} for outputs {expected}"
        )


def require_same_size(who_needs: str, shape: tuple, logits: tuple) -> None:
    """Raises if labels are of another height or width than the logits, both known.

    Args:
        who_needs: Who needs them, with the verb, for the message.
        shape: Of the labels, (batch, positions...), perhaps with a last axis of one or of classes.
        logits: Of the logits, (batch, positions..., classes).
    """
    sizes = zip(shape[1:], logits[1:-1], strict=False)
    if any(None not in pair and pair[0] != pair[1] for pair in sizes):
        raise ValueError(
            f"{who_needs} labels y of the size of the logits, one for each position. Scale the "
            "labels, by the nearest one, or give the student layers such as "
            "keras.layers.UpSampling2D behind its logits. "
            f"Received: y of shape {shape} for logits {logits}"
        )


class NamedSupervision:
    """The compiled losses of a model with several outputs; logged as `OUTPUT/LOSS`.

    Args:
        losses: Loss by the name of the output; outputs without one are not supervised.
        outputs: The names of the outputs that there are.

    Raises:
        ValueError: If a name is not that of an output; see also `Supervision`.
    """

    def __init__(self, losses: Mapping[str, Any], outputs: list[str]):
        unknown = sorted(set(losses) - set(outputs))
        if unknown:
            raise ValueError(
                f"loss must be a dict with keys among the model's outputs {outputs}. "
                f"Received: {unknown}"
            )
        given = {output: loss for output, loss in losses.items() if loss is not None}
        self._by_output = {output: Supervision(loss) for output, loss in given.items()}
        self.outputs = {f"{output}/{one.name}": output for output, one in self._by_output.items()}
        self.names = list(self.outputs)

    def by_position(self, name: str, labels: Any, logits: Any) -> Any:
        """Returns the values per position of one of `names`."""
        if not isinstance(labels, Mapping) or not set(self._by_output) <= set(labels):
            raise ValueError(
                "The labels of several outputs must be a dict that has "
                f"{list(self._by_output)}. Received: {labels}"
            )
        output = self.outputs[name]
        return self._by_output[output].by_position(name, labels[output], logits[output])

    def label_rules(self, outputs: Any) -> list[LabelRule]:
        """Returns who takes class indices; see `Supervision`."""
        return [
            rule._replace(owner=f"The loss of {output!r}", output=output)
            for output, one in self._by_output.items()
            for rule in one.label_rules(outputs[output])
        ]

    def from_logits(self, output: str | None = None) -> bool | None:
        """Returns whether the loss of an output takes logits; `None` if it does not tell."""
        one = None if output is None else self._by_output.get(output)
        return None if one is None else one.from_logits()

    def require_fitting_head(self, model: keras.Model) -> None:
        """Raises if a loss takes probabilities and its output gives logits, or the reverse."""
        for output, one in self._by_output.items():
            one.require_fitting_head(model, output)


def supervision(loss: Any, outputs: Any) -> Supervision | NamedSupervision:
    """Returns the supervision by the compiled loss of models with these symbolic outputs."""
    if isinstance(outputs, Mapping) and isinstance(loss, Mapping):
        return NamedSupervision(loss, list(outputs))
    if keras.tree.is_nested(outputs):
        names = list(outputs) if isinstance(outputs, Mapping) else []
        raise ValueError(
            "The losses of a student with several outputs are given by name: name them with "
            "keras.Model(inputs, {'NAME': output, ...}) and compile(loss={'NAME': ..., ...}). "
            f"Received: loss={loss!r} for outputs {names or 'without names'}"
        )
    return Supervision(loss)
