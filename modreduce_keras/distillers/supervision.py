"""Supervision: the compiled loss on the labels, as one value per example."""

import inspect
from typing import Any

import keras
from keras import ops

from modreduce_keras.ops import float32, per_sample_mean


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
                f"Distillers take one loss, which trains every student. Received: loss={loss!r}"
            )
        self.loss = keras.losses.get(loss)
        reduction = getattr(self.loss, "reduction", None)
        if reduction not in (None, "none", "mean", "sum_over_batch_size"):
            raise ValueError(
                "Distillers average the loss over all examples, so its reduction must be "
                f"'sum_over_batch_size', 'mean' or None. Received: reduction={reduction!r}"
            )
        name = getattr(self.loss, "name", None) or getattr(self.loss, "__name__", "loss")
        self.name = "ce" if "crossentropy" in name else name

    def __call__(self, labels, logits):
        """Returns the values per example, (batch,), float32.

        Positions that a mask of the logits leaves out count as Keras counts them: the mean is
        taken over the positions that stay.
        """
        mask = getattr(logits, "_keras_mask", None)
        compute = self.loss.call if isinstance(self.loss, keras.losses.Loss) else self.loss
        values = float32(compute(float32(labels), float32(logits)))
        if len(values.shape) == 0:
            raise ValueError(
                "The compiled loss must return one value per example, (batch,), before its "
                f"reduction. Received: {self.loss!r}, which returned a scalar"
            )
        if mask is not None:
            kept = ops.broadcast_to(ops.cast(mask, "float32"), ops.shape(values))
            values = values * kept / ops.maximum(ops.mean(kept), keras.backend.epsilon())
        return per_sample_mean(values)

    def require_fitting_head(self, ends_in_probabilities: bool, model: keras.Model) -> None:
        """Raises if the loss takes probabilities and the model gives logits, or the reverse."""
        from_logits = self._from_logits()
        if from_logits is None or from_logits != ends_in_probabilities:
            return
        head = "probabilities" if ends_in_probabilities else "logits"
        raise ValueError(
            f"The student {model.name!r} ends in {head}, but the compiled loss expects "
            f"{'logits' if from_logits else 'probabilities'} (from_logits={from_logits}). Pass "
            "the loss as an object, such as keras.losses.SparseCategoricalCrossentropy("
            f"from_logits={not ends_in_probabilities})."
        )

    def _from_logits(self) -> bool | None:
        if isinstance(self.loss, keras.losses.Loss):
            return self.loss.get_config().get("from_logits")
        parameter = inspect.signature(self.loss).parameters.get("from_logits")
        return None if parameter is None else parameter.default
