"""Early exit: each sample leaves a network at the first exit that is confident."""

from typing import Any

import keras
from keras import ops

from modreduce_keras.distillers.backend import tensorflow as backend
from modreduce_keras.distillers.checks.shares import Share
from modreduce_keras.held import Held
from modreduce_keras.models.exits import FINAL, exit_names
from modreduce_keras.registry import PACKAGE, rebuild


@keras.saving.register_keras_serializable(package=PACKAGE)
class EarlyExit(keras.Model):
    """A network for inference in which samples leave at the first exit that is confident enough.

    A sample leaves at the first exit with max_c softmax(z)_c ≥ threshold, or at the end. Deeper
    layers run only on the remaining samples, which saves time in `predict`, in calls and in an
    exported SavedModel. The model is never compiled by XLA, which does not support batches whose
    size depends on the data.

    Args:
        model: A trained model from `mr.models.exits`. Its layers are shared, not copied.
        threshold: Confidence from 0 to 1 at which a sample leaves; at 0 all leave at the first
            exit. It may be changed at any time. Defaults to 0.9.
        name: Name of the model. Defaults to the name of the class.
        dtype: Dtype policy of the model. Defaults to the global one.
        trainable: As for every Keras model. Defaults to `True`.

    Call arguments:
        inputs: The inputs of the network.

    Returns:
        The logits of the exit that each sample left at, (batch, classes), float32.

    Raises:
        ValueError: If the threshold is out of range, the model has no exits, or a connection
            bypasses the layer of an exit.

    Example:
        >>> import numpy as np, modreduce_keras as mr
        >>> network = mr.models.convnet(num_classes=10, widths=(4, 8, 16))
        >>> branched = mr.models.exits(network, ["stage1", "stage2"])
        >>> early_exit = mr.EarlyExit(branched, threshold=0.5)
        >>> early_exit.predict(np.ones((6, 28, 28, 1)), verbose=0).shape
        (6, 10)

    Reference:
        Zhang et al., Be Your Own Teacher: Improve the Performance of Convolutional Neural Networks
        via Self Distillation, 2019.
    """

    threshold = Share()

    def __init__(
        self,
        model: keras.Model,
        *,
        threshold: Any = 0.9,
        name: str | None = None,
        dtype: Any = None,
        trainable: bool = True,
    ):
        super().__init__(name=name, dtype=dtype, trainable=trainable)
        if not isinstance(getattr(model, "output", None), dict) or FINAL not in model.output:
            raise ValueError(
                "EarlyExit takes a model with exits, what mr.models.exits builds or "
                f"SelfDistiller.model_with_exits is. Received: model={model!r}"
            )
        if model.output[FINAL].shape[-1] < 2:
            raise ValueError(
                "EarlyExit takes a model with logits of at least two classes. Received: "
                f"{model.name!r} with output of shape "
                f"{tuple(model.output[FINAL].shape)}"
            )
        if isinstance(threshold, (str, dict, keras.optimizers.schedules.LearningRateSchedule)):
            raise ValueError(f"threshold must be a number from 0 to 1. Received: {threshold=}")
        self.model = model
        self.threshold = threshold
        self.supports_jit = False
        self.exits = [*exit_names(model), FINAL]
        self._segments = Held(_segments(model, self.exits))
        self(model.input)

    def call(self, inputs: Any, training: Any = None) -> Any:
        """Returns the logits of the exit that each sample left at; always as in inference."""
        return self.decide(inputs)[0]

    def decide(self, inputs: Any) -> tuple[Any, Any]:
        """Runs the samples until they leave.

        Args:
            inputs: The inputs of the network.

        Returns:
            The logits of each sample's exit, (batch, classes), float32; and which exit that is,
            (batch,), int32, an index into `self.exits`.
        """
        inputs = keras.tree.map_structure(ops.convert_to_tensor, inputs)
        return self._run_from(0, inputs)

    def _run_from(self, index: int, inputs: Any) -> tuple[Any, Any]:
        """Returns logits and exits of the samples that reach a segment; at least one."""
        outputs = self._segments()[index](inputs, training=False)
        logits = ops.cast(outputs["logits"], "float32")
        left_at = ops.full(ops.shape(logits)[:1], index, dtype="int32")
        if index == len(self.exits) - 1:
            return logits, left_at
        confidence = ops.max(ops.softmax(logits, axis=-1), axis=-1)
        stays = confidence < self.threshold

        def go_on(maps: Any) -> Any:
            return self._run_from(index + 1, maps)

        return backend.on_rows(stays, go_on, outputs["maps"], (logits, left_at))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments, serialized."""
        return {
            **super().get_config(),
            "model": keras.saving.serialize_keras_object(self.model),
            "threshold": type(self).threshold.config(self),
        }

    @classmethod
    def from_config(cls, config: Any, custom_objects: Any = None) -> Any:
        """Returns the model that `get_config` describes, with fresh weights."""
        return rebuild(cls, config, custom_objects)


def _segments(model: keras.Model, exits: list[str]) -> list[keras.Model]:
    """Returns the parts of a model with exits: from each exit's layer to the next one's."""
    segments, inputs = [], model.input
    for name in exits:
        outputs = {"logits": model.output[name]}
        if name != FINAL:
            outputs["maps"] = model.get_layer(name).output
        try:
            segments.append(keras.Model(inputs, outputs))
        except ValueError as error:
            raise ValueError(
                "Samples can leave early only at a layer that all paths lead through. Received: "
                f"{exits[len(segments) - 1]!r}, around which some lead to {name!r} ({error})"
            ) from error
        inputs = outputs.get("maps")
    return segments
