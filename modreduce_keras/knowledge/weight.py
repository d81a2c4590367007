"""Weight: the weight of a knowledge, which a training step may set (`"balanced"`)."""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from modreduce_keras.knobs import Knob

BALANCED = "balanced"
MOST = 1e6
"""The largest weight that is set. A term that would need more is too small to be measured."""


class Weight(Knob):
    """A number, a schedule, or `"balanced"`: a number that a training step sets once.

    A balanced weight is a variable, and NaN until it is set. So it is saved with the weights, and a
    resumed training does not set it again.
    """

    also = f", {BALANCED!r}"

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        value = super().__get__(instance, owner)
        if instance is not None and self.is_unset(instance):
            raise ValueError(
                f"{self.name} of {instance.name!r} is {BALANCED!r} and has no value yet: the first "
                "training step sets it. distiller.balance((x, y)) shows the weight that a batch "
                "would set."
            )
        return value

    def __set__(self, instance: Any, value: Any) -> None:
        if not (isinstance(value, str) and value == BALANCED):
            super().__set__(instance, value)
            return
        is_new = getattr(instance, self.setting, None) is None
        if not is_new and not self.is_balanced(instance):
            raise ValueError(
                f"{self.name} of {type(instance).__name__} cannot become {BALANCED!r} after "
                f"construction: the compiled step would not notice. Build a new "
                f"{type(instance).__name__}. Received: {self.name}={value!r}"
            )
        if is_new:
            super().__set__(instance, 0.0)
            setattr(instance, self._flag, True)
        setattr(instance, self.given, BALANCED)
        getattr(instance, self.setting).assign(math.nan)

    @property
    def _flag(self) -> str:
        return f"_{self.name}_is_balanced"

    def is_balanced(self, instance: Any) -> bool:
        """Returns whether the weight was given as `"balanced"`."""
        return getattr(instance, self._flag, False)

    def is_unset(self, instance: Any) -> bool:
        """Returns whether the weight is still to be set; `False` in a graph, which has no value."""
        if not self.is_balanced(instance):
            return False
        try:
            # The product is a number, also of a variable that each replica holds.
            return bool(np.isnan(ops.convert_to_numpy(1.0 * getattr(instance, self.setting))))
        except Exception:  # what a tensor of a graph raises depends on the backend
            return False

    def in_loss(self, instance: Any) -> Any:
        """Returns the weight, a scalar in the graph; 0 while it is still to be set."""
        if not self.is_balanced(instance):
            return super().__get__(instance)
        variable = getattr(instance, self.setting)
        return ops.where(ops.isnan(variable), 0.0, variable)

    def settle(self, instance: Any, value: Any) -> None:
        """Sets a balanced weight that has no value yet, if the new value is valid.

        Args:
            instance: The knowledge.
            value: The weight, a scalar in the graph, the same on all replicas. Valid values are
                above 0 and at most `MOST`; NaN and infinity are not valid.
        """
        variable: keras.Variable = getattr(instance, self.setting)
        is_sound = ops.logical_and(value > 0.0, value <= MOST)
        is_set_now = ops.logical_and(ops.isnan(variable), is_sound)
        variable.assign(ops.where(is_set_now, value, variable))

    def config(self, instance: Any) -> Any:
        """Returns the constructor argument that gives the present value, or `"balanced"`."""
        is_measured = self.is_balanced(instance) and getattr(instance, self.given) == BALANCED
        return BALANCED if is_measured or self.is_unset(instance) else super().config(instance)
