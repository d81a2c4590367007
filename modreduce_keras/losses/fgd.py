"""FGD: foreground and background of feature maps apart, where the teacher attends."""

from typing import Any, ClassVar

from keras import ops

from modreduce_keras.knobs import Knob
from modreduce_keras.losses.map_base import MapLoss, by_position
from modreduce_keras.ops import filled, safe_reciprocal, tempered_log_softmax
from modreduce_keras.registry import register
from modreduce_keras.typing import Tensor


@register("loss", "fgd")
class FGD(MapLoss):
    """Focal distillation of detectors: foreground and background, by the teacher's attention.

    Σ_ic w_i A_i B_c (f_ic(s) - f_ic(t))² + γ (Σ_i |A_i(s) - A_i(t)| + Σ_c |B_c(s) - B_c(t)|), with
    w_i = α / N_fg in the foreground and β / N_bg in the background, A = P softmax(mean_c |f| / T)
    over P positions and B = C softmax(mean_i |f| / T) over C channels

    A and B in the first sum are the teacher's. `mr.Feature("fgd", at="p3", mask="foreground")`
    takes the mask of the foreground from the inputs; here it leaves nothing out. Without a mask,
    all positions are foreground. Where the models' maps differ in size, the mask is of one side's
    positions, and of the smaller ones those are foreground that lie wholly in it.

    Args:
        foreground_weight: α, of the foreground. Defaults to 0.001.
        background_weight: β, of the background. Defaults to 0.0005.
        attention_weight: γ, of the attention. Defaults to 0.001.
        temperature: T, a positive number or schedule. Defaults to 0.5.
        name: Name of the loss. Defaults to `"fgd"`.
        reduction: See `Loss`.

    Call arguments:
        y_true: The teacher's maps, (batch, ..., channels), or a dict of them as `"teacher"` and of
            the `"foreground"`, (batch, ...), bool or 0 and 1.
        y_pred: The student's maps.

    Returns:
        (batch,), float32; 0 where both are equal.

    Raises:
        ValueError: If an argument is out of range, a side is not a map, the channels differ, or the
            foreground is not of the maps' positions.

    Example:
        >>> import numpy as np
        >>> teacher, student = np.zeros((1, 4, 1)), np.ones((1, 4, 1))
        >>> loss = FGD(foreground_weight=1.0, background_weight=0.1)
        >>> foreground = np.array([[1, 0, 0, 0]])  # α · 1 + β · 1
        >>> round(float(loss({"teacher": teacher, "foreground": foreground}, student)), 4)
        1.1

    Reference:
        Yang et al., Focal and Global Knowledge Distillation for Detectors, 2022, with the weights
        for detectors of one stage (those of two stages: 5e-5, 2.5e-5, 5e-5). This is the focal
        part; the other one is `"fgd_global"`. It tells foreground from background but not one
        object from another: the paper divides by the size of each box, N_fg is that of all.
    """

    default_adapter: ClassVar[str | None] = "flow_channels"
    equal_channels = True
    takes_foreground = True
    foreground_weight = Knob()
    background_weight = Knob()
    attention_weight = Knob()
    temperature = Knob(positive=True)

    def __init__(
        self,
        *,
        foreground_weight: float = 0.001,
        background_weight: float = 0.0005,
        attention_weight: float = 0.001,
        temperature: float = 0.5,
        name: str | None = None,
        reduction: str | None = "sum_over_batch_size",
    ) -> None:
        super().__init__(name=name, reduction=reduction)
        self.foreground_weight, self.background_weight = foreground_weight, background_weight
        self.attention_weight, self.temperature = attention_weight, temperature

    def per_sample(
        self, teacher: Tensor, student: Tensor, foreground: Tensor | None = None
    ) -> Tensor:
        teacher, student = self.matched(teacher, student)
        weights = self._weights(foreground, student)
        teacher, student = by_position(teacher), by_position(student)
        (places, channels), own = self._attention(teacher), self._attention(student)
        focus = places[:, :, None] * channels[:, None, :]
        squares = ops.sum(focus * ops.square(student - teacher), axis=-1)
        unlike = [
            ops.sum(ops.abs(one - other), axis=-1)
            for one, other in zip(own, (places, channels), strict=True)
        ]
        return ops.sum(weights * squares, axis=-1) + self.attention_weight * sum(unlike)

    def _attention(self, maps: Tensor) -> tuple[Any, Any]:
        """Returns A, (batch, positions), and B, (batch, channels)."""
        size = ops.abs(maps)
        return self._shares(ops.mean(size, axis=2)), self._shares(ops.mean(size, axis=1))

    def _shares(self, means: Tensor) -> Tensor:
        """Returns a softmax whose mean is 1."""
        number = ops.cast(ops.shape(means)[1], "float32")
        return number * ops.exp(tempered_log_softmax(means, self.temperature))

    def _weights(self, foreground: Tensor | None, maps: Tensor) -> Tensor:
        """Returns w, (batch, positions)."""
        if foreground is None:
            inside = ops.ones(ops.shape(maps)[:-1], "float32")
        else:
            foreground = ops.cast(ops.convert_to_tensor(foreground), "bool")
            self._require_mask(foreground, maps)
            inside = ops.cast(filled(foreground, maps[..., 0]), "float32")
        inside = ops.reshape(inside, (ops.shape(maps)[0], -1))
        parts = (self.foreground_weight, inside), (self.background_weight, 1.0 - inside)
        return sum(
            weight * part * safe_reciprocal(ops.sum(part, axis=1, keepdims=True))
            for weight, part in parts
        )
