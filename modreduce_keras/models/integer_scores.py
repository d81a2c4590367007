"""Integer scores: attention scores of which some are masked, in a range that int8 has room for."""

from typing import Any

import keras
from keras import ops

from modreduce_keras.models.fake_quantization import FakeQuantize, LearntFakeQuantize
from modreduce_keras.models.masked_scores import filled, without_masked

_BELOW = 8.0
"""How far the filling is below the smallest score: exp(-8) of it is less than int8 can show."""


@keras.saving.register_keras_serializable(package="modreduce_keras")
class FilledScores(FakeQuantize):
    """Rounds scores between two ends, and gives masked ones the lower end.

    Args:
        minimum, maximum: The ends.
        **kwargs: `name` and `dtype`, as for every Keras layer.

    Call arguments:
        inputs: Scores, and a mask that broadcasts to them: false or up to 0.5 is masked.

    Returns:
        The shape of the scores.
    """

    def call(self, inputs: Any, pooled: bool = False, interpolated: bool = False) -> Any:
        """Returns the rounded scores, filled."""
        scores, mask = inputs
        low = super().call(ops.convert_to_tensor(self.minimum))
        return filled(super().call(scores), mask, low)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns the shape of the scores."""
        return input_shape[0]


@keras.saving.register_keras_serializable(package="modreduce_keras")
class LearntFilledScores(LearntFakeQuantize):
    """`FilledScores` with ends that follow the scores during training.

    The lower end is that of the scores that are not masked, less 8: the softmax of a masked score
    is less than 8 bits can show.
    """

    def call(
        self,
        inputs: Any,
        training: bool | None = None,
        pooled: bool = False,
        interpolated: bool = False,
    ) -> Any:
        """Returns the rounded scores, filled."""
        scores, mask = inputs
        seen = filled(scores, mask, ops.max(scores))
        if self.is_calibrating:
            self._widen(seen)
            return without_masked(scores, mask)
        if training and self.trainable:
            self._follow(seen)
        low = super().call(ops.convert_to_tensor(self.minimum))
        rounded = filled(super().call(scores), mask, low)
        return ops.where(self._has_ends(), rounded, without_masked(scores, mask))

    def _has_ends(self) -> Any:
        return ops.convert_to_tensor(self.minimum) < ops.convert_to_tensor(self.maximum)

    def ends_of(self, inputs: Any) -> tuple[Any, Any]:
        """Returns the range that a batch asks for."""
        low, high = super().ends_of(inputs)
        return low - _BELOW, high

    def fixed(self, **kwargs: Any) -> FilledScores:
        """Returns the layer for inference that does the same from now on."""
        low, high = self.ends
        return FilledScores(minimum=low, maximum=high, name=self.name, **kwargs)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns the shape of the scores."""
        return input_shape[0]
